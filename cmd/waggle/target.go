package main

import (
	"context"
	"strings"

	"github.com/waggle-im/waggle/proto"
)

// target is what a person names on the command line: a user by name or id, or
// a thread.
type target struct {
	thread proto.ThreadID // zero: a user
	user   proto.EntityID // 0: a user by name
	name   string
}

// parseTarget reads "bob", "4242", "d/17/4242" or "g/90001". Names begin with
// a letter, so none is a number.
func parseTarget(s string) (target, error) {
	switch {
	case s == "":
		return target{}, usagef("a user name, an id, d/… or g/… is missing")
	case strings.HasPrefix(s, "d/"), strings.HasPrefix(s, "g/"):
		thread, err := proto.ParseThreadID(s)
		if err != nil {
			return target{}, usagef("%w", err)
		}
		return target{thread: thread}, nil
	case s[0] >= '0' && s[0] <= '9':
		user, err := proto.ParseEntityID(s)
		if err != nil {
			return target{}, usagef("%w", err)
		}
		return target{user: user}, nil
	case strings.Contains(s, "/") || len(s) > proto.NameBytesMax:
		return target{}, usagef("%.40q is not a user name, an id, d/… or g/…", s)
	}
	return target{name: s}, nil
}

// threadOf is the thread of a target for the session's user.
func (s *session) threadOf(ctx context.Context, t target) (string, error) {
	if t.thread != (proto.ThreadID{}) {
		if t.thread.Direct() && !t.thread.Has(s.me) {
			return "", usagef("%s is not a thread of yours (you are user %s)", t.thread, s.me)
		}
		return t.thread.String(), nil
	}
	user, err := s.userOf(ctx, t)
	if err != nil {
		return "", err
	}
	return proto.DirectThread(s.me, user).String(), nil
}

// userOf is the other user that a target names.
func (s *session) userOf(ctx context.Context, t target) (proto.EntityID, error) {
	user := t.user
	if t.thread != (proto.ThreadID{}) {
		return 0, usagef("%s is a thread: give a user name or an id", t.thread)
	}
	if user == 0 {
		err := s.do(ctx, func(ctx context.Context) (err error) {
			user, _, err = s.FindUser(ctx, t.name)
			return err
		})
		if err != nil {
			return 0, err
		}
	}
	if user == s.me {
		return 0, usagef("that is you: name another user")
	}
	return user, nil
}
