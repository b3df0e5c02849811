package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/waggle-im/waggle/cell"
	"github.com/waggle-im/waggle/cell/resource"
	"github.com/waggle-im/waggle/cell/resource/live"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

// LiveConfig is read by cell nodes with the resource role.
type LiveConfig struct {
	RTSP          string `koanf:"rtsp"`           // host:port for RTSP; default: the host of listen, a free port
	RTMP          string `koanf:"rtmp"`           // host:port for RTMP; default: the same
	AdvertiseRTSP string `koanf:"advertise_rtsp"` // host:port people are told; default: the host of advertise, the port of rtsp
	AdvertiseRTMP string `koanf:"advertise_rtmp"` // the same of rtmp
	RTP           string `koanf:"rtp"`            // host:port for RTP of RTSP over UDP, an even port, RTCP at the next; default: the host of rtsp, a free pair

	Publishers            int `koanf:"publishers"`               // livestreams of this node at once; default 100
	Viewers               int `koanf:"viewers"`                  // viewers by RTSP and RTMP of this node at once; default 1000
	PublishBytesPerSecond int `koanf:"publish_bytes_per_second"` // what one publisher may send; default 3 MiB
}

// viewersToldEvery is the least pause between two reports of one livestream: a
// count of viewers goes to everybody in its thread.
const viewersToldEvery = 5 * time.Second

func liveConfig(c LiveConfig) live.Config {
	return live.Config{
		ReportInterval: viewersToldEvery, PublishersMax: c.Publishers, ViewersMax: c.Viewers,
		PublishBytesPerSecondMax: c.PublishBytesPerSecond,
	}
}

// listenLive opens the ports for livestreams of a node that carries them, and
// puts their addresses into the node's record.
func listenLive(ctx context.Context, cfg Config, record *controlpb.NodeRecord) (p resource.LivePorts, err error) {
	if !slices.Contains(record.Roles, cell.RoleResource) {
		return p, nil
	}
	if p.RTSP, record.RtspAddr, err = listenBeside(cfg, cfg.Live.RTSP, cfg.Live.AdvertiseRTSP, "RTSP"); err != nil {
		return p, err
	}
	if p.RTMP, record.RtmpAddr, err = listenBeside(cfg, cfg.Live.RTMP, cfg.Live.AdvertiseRTMP, "RTMP"); err != nil {
		return p, errors.Join(err, p.Close())
	}
	rtp := cfg.Live.RTP
	if rtp == "" {
		host, _, _ := net.SplitHostPort(p.RTSP.Addr().String())
		rtp = net.JoinHostPort(host, "0")
	}
	host, port, err := net.SplitHostPort(rtp)
	number, err2 := strconv.Atoi(port)
	if err = errors.Join(err, err2); err == nil {
		p.RTP, p.RTCP, err = live.ListenUDP(ctx, host, number)
	}
	if err != nil {
		return p, errors.Join(fmt.Errorf("the RTP address %s cannot be used: %w", rtp, err), p.Close())
	}
	return p, nil
}

// listenBeside opens a port beside the node's own, a free one if none is set,
// and tells by which address others call it.
func listenBeside(cfg Config, addr, advertise, what string) (net.Listener, string, error) {
	if addr == "" {
		host, _, err := net.SplitHostPort(cfg.Listen)
		if err != nil {
			return nil, "", fmt.Errorf("listen: %w", err)
		}
		addr = net.JoinHostPort(host, "0")
	}
	l, err := Listen(addr, what)
	if err != nil {
		return nil, "", err
	}
	if advertise == "" {
		advertise = l.Addr().String()
		if host, _, err := net.SplitHostPort(cfg.Advertise); err == nil {
			_, port, _ := net.SplitHostPort(advertise)
			advertise = net.JoinHostPort(host, port)
		}
	}
	return l, advertise, nil
}

// closeUnused closes a port that no node has taken over.
func closeUnused(l net.Listener) error {
	if l == nil {
		return nil
	}
	if err := l.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
