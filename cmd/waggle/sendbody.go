package main

import (
	"context"
	"strconv"
	"strings"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// parsePlace reads LAT,LON[,NAME].
func parsePlace(s string) (*clientpb.Location, error) {
	parts := strings.SplitN(s, ",", 3)
	wrong := usagef("--location %q: LAT,LON[,NAME] in degrees, -90 to 90 and -180 to 180, as 52.52,13.405,Berlin", s)
	if len(parts) < 2 {
		return nil, wrong
	}
	lat, err := strconv.ParseFloat(strings.TrimSpace(parts[0]), 64)
	lon, err2 := strconv.ParseFloat(strings.TrimSpace(parts[1]), 64)
	// Written so that what is not a number fails.
	if err != nil || err2 != nil || !(lat >= -90 && lat <= 90 && lon >= -180 && lon <= 180) {
		return nil, wrong
	}
	place := &clientpb.Location{Latitude: lat, Longitude: lon}
	if len(parts) == 3 {
		place.Name = strings.TrimSpace(parts[2])
	}
	if len(place.Name) > proto.PlaceNameBytesMax {
		return nil, usagef("--location: the name has %d bytes, the limit is %d", len(place.Name), proto.PlaceNameBytesMax)
	}
	return place, nil
}

// message makes the message that the flags ask for, a text if they name no
// other kind.
func (s *session) message(ctx context.Context, thread, text string, f sendFlags) (*clientpb.SendMessage, error) {
	switch {
	case f.location != "":
		place, err := parsePlace(f.location)
		return client.LocationMessage(thread, place), err
	case f.card != "":
		t, err := parseTarget(f.card)
		if err != nil {
			return nil, err
		}
		if t.thread != (proto.ThreadID{}) {
			return nil, usagef("--card %s is a thread: give a user name or an id", f.card)
		}
		user := t.user
		if user == 0 {
			err = s.do(ctx, func(ctx context.Context) (err error) {
				user, _, err = s.FindUser(ctx, t.name)
				return err
			})
		}
		return client.CardMessage(thread, user), err
	}
	return client.TextMessage(thread, text), nil
}

// sendFlags say what `send` sends. At most one of them is given, or a TEXT.
type sendFlags struct {
	stdin          bool
	location, card string
}

// check refuses a combination that is not exactly one message, or lines.
func (f sendFlags) check(args []string, usage string) error {
	given := len(args) - 1
	for _, other := range []bool{f.stdin, f.location != "", f.card != ""} {
		if other {
			given++
		}
	}
	switch {
	case given > 1:
		return usagef("give one of TEXT, --stdin, --location and --card, not both")
	case given == 0:
		return usagef("a TEXT is missing, or --stdin, --location or --card: waggle %s", usage)
	case f.location != "":
		_, err := parsePlace(f.location)
		return err
	case len(args) == 2:
		if err := checkText([]byte(args[1])); err != nil {
			return usagef("the text %w", err)
		}
		if args[1] == "" {
			return usagef("the text is empty")
		}
	}
	return nil
}
