package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	clientpb "github.com/waggle-im/waggle/proto/client"
)

// deviceLine is a device in `devices ls`.
type deviceLine struct {
	Device    string `json:"device"`
	Platform  string `json:"platform"`
	LoginTime string `json:"login_time"`
	SeenTime  string `json:"seen_time"` // empty: not since its login
	Connected bool   `json:"connected"`
	Own       bool   `json:"own"` // the profile's
}

func deviceLineOf(d *clientpb.DeviceRow) deviceLine {
	return deviceLine{
		Device: d.GetDevice(), Platform: harmless(d.GetPlatform()), LoginTime: jsonTime(d.GetLoginMs()),
		SeenTime: jsonTime(d.GetSeenMs()), Connected: d.GetConnected(), Own: d.GetOwn(),
	}
}

func (a *app) devices() *cobra.Command {
	return chooser(&cobra.Command{Use: "devices", Short: "your logged-in devices: list, end"}, a.devicesList(), a.devicesEnd())
}

func (a *app) devicesList() *cobra.Command {
	ls := &cobra.Command{Use: "ls", Short: "list your logged-in devices, the newest login first", Args: args(0, 0)}
	p := a.personFlags(ls)
	ls.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := p.connect(cmd.Context(), nil)
		if err != nil {
			return err
		}
		defer s.close()
		var rows []deviceLine
		err = s.do(cmd.Context(), func(ctx context.Context) error {
			devices, err := s.Devices(ctx)
			for _, d := range devices {
				rows = append(rows, deviceLineOf(d))
			}
			return err
		})
		if err != nil {
			return err
		}
		if !p.json() {
			return printTable(a.out, rows, false, []column[deviceLine]{
				{"DEVICE", false, func(d deviceLine) string { return d.Device }},
				{"PLATFORM", false, func(d deviceLine) string { return d.Platform }},
				{"LOGIN", false, func(d deviceLine) string { return d.LoginTime }},
				{"CONNECTED", false, func(d deviceLine) string { return strconv.FormatBool(d.Connected) }},
				{"THIS", false, func(d deviceLine) string { return strconv.FormatBool(d.Own) }},
			})
		}
		for _, row := range rows {
			if err := printLine(a.out, row); err != nil {
				return err
			}
		}
		return nil
	}
	return ls
}

func (a *app) devicesEnd() *cobra.Command {
	end := &cobra.Command{
		Use: "end DEVICE", Short: "log one of your devices out", Args: args(1, 1),
		Long: "Logs one of your devices out: its connections are closed and its token is\n" +
			"refused from then on. `waggle devices ls` names them.",
	}
	p := a.personFlags(end)
	end.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := p.connect(cmd.Context(), nil)
		if err != nil {
			return err
		}
		defer s.close()
		if err := s.do(cmd.Context(), func(ctx context.Context) error { return s.EndDevice(ctx, args[0]) }); err != nil {
			return err
		}
		if p.json() {
			return printLine(a.out, map[string]string{"device": args[0]})
		}
		_, err = fmt.Fprintf(a.out, "the device %s is logged out\n", args[0])
		return err
	}
	return end
}
