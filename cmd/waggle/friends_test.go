package main

import (
	"bytes"
	"strings"
	"testing"

	clientpb "github.com/waggle-im/waggle/proto/client"
)

// Updates of contacts and cards are printed with the kinds scripts rely on,
// and harmlessly for people.
func TestContactLines(t *testing.T) {
	contact := func(r clientpb.Relation) *clientpb.Contact {
		return &clientpb.Contact{User: 17, Name: "ann", Relation: r, Greeting: "hi\x1b[2J", TimeMs: 1_700_000_000_000, Alias: "Annie", Tags: []string{"choir"}}
	}
	event := func(a clientpb.ContactAction, r clientpb.Relation) *clientpb.ContactEvent {
		return &clientpb.ContactEvent{Action: a, By: 17, Contact: contact(r)}
	}
	for name, test := range map[string]struct {
		line       printer
		json, text []string
	}{
		"asked": {contactLine(5, event(clientpb.ContactAction_CONTACT_ACTION_REQUEST, clientpb.Relation_RELATION_REQUEST_RECEIVED)),
			[]string{`{"pts":"5","kind":"friend_request","action":"request","by":"17","user":"17","name":"ann","relation":"request_received","alias":"Annie","tags":["choir"],`, `"time":"2023-11-14T22:13:20.000Z","card":null}`},
			[]string{"ann asks to be friends: hi", "waggle friends accept ann"}},
		"asking": {contactLine(5, event(clientpb.ContactAction_CONTACT_ACTION_REQUEST, clientpb.Relation_RELATION_REQUEST_SENT)),
			[]string{`"kind":"contact"`, `"relation":"request_sent"`}, []string{"your request of ann: request sent"}},
		"accepted": {contactLine(5, event(clientpb.ContactAction_CONTACT_ACTION_ACCEPT, clientpb.Relation_RELATION_FRIEND)),
			[]string{`"kind":"friend_accepted"`}, []string{"ann and you are friends now"}},
		"removed": {contactLine(5, event(clientpb.ContactAction_CONTACT_ACTION_REMOVE, clientpb.Relation_RELATION_NONE)),
			[]string{`"kind":"friend_removed"`, `"relation":"none"`}, []string{"ann is no friend"}},
		"noted": {contactLine(5, event(clientpb.ContactAction_CONTACT_ACTION_NONE, clientpb.Relation_RELATION_FRIEND)),
			[]string{`"kind":"contact","action":"none"`}, []string{"ann is noted as Annie #choir"}},
		"card": {profileLine(6, &clientpb.Card{User: 17, Name: "ann", Nick: "An\x1bnie", Description: "alto"}),
			[]string{`{"pts":"6","kind":"profile","user":"17","name":"ann","nick":`, `"description":"alto","sex":"","avatar":"","relation":"friend"}`},
			[]string{"ann has another profile: An", "alto"}},
	} {
		for _, form := range []struct {
			json bool
			want []string
		}{{true, test.json}, {false, test.text}} {
			var out bytes.Buffer
			if err := test.line.print(&out, form.json); err != nil {
				t.Fatal(err)
			}
			for _, want := range form.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("%s: %s has no %s", name, out.String(), want)
				}
			}
			if strings.Contains(out.String(), "\x1b") || strings.Count(out.String(), "\n") != 1 {
				t.Errorf("%s: printed %q", name, out.String())
			}
		}
	}
}

// What cannot be right is refused before anything is asked, and the lists and
// verbs name themselves.
func TestFriendsUsage(t *testing.T) {
	long := strings.Repeat("x", 600)
	for _, args := range [][]string{
		{"friends"}, {"friends", "nonsense"}, {"friends", "request"}, {"friends", "request", "bob", "--greeting", long},
		{"friends", "request", "bob", "--greeting", "a\tb"}, {"friends", "accept", "bob", "--alias", long}, {"friends", "accept", "bob", "--greeting", "x"},
		{"friends", "set", "bob"}, {"friends", "set", "bob", "--tag", "a", "--tag", "a"}, {"friends", "ls", "bob"}, {"friends", "block", "x/y"},
		{"profile"}, {"profile", "set"}, {"profile", "set", "--nick", long}, {"profile", "set", "--direct-from", "nobody"}, {"profile", "set", "--presence", "maybe"},
		{"find", "d/1/2"}, {"find", "bob", "--limit", "51"}, {"find", "bob", "--limit", "0"},
	} {
		run(t, append(args, "--profile", t.TempDir())...).expect(t, statusUsage)
	}
	for _, args := range [][]string{{"friends", "--help"}, {"friends", "request", "--help"}, {"profile", "set", "--help"}, {"find", "--help"}} {
		r := run(t, args...)
		r.expect(t, statusDone)
		if !strings.Contains(r.out, "Examples:") {
			t.Errorf("%v: no example in %s", args, r.out)
		}
	}
}
