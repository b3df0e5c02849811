package engine

import (
	"bytes"
	"encoding/hex"
	"testing"

	"pgregory.net/rapid"

	"github.com/waggle-im/waggle/proto"
)

// The layout can never change: these are the bytes on people's disks.
func TestKeyLayout(t *testing.T) {
	user, peer := proto.EntityID(0x1002), proto.EntityID(0x203004)
	direct := proto.DirectThread(user, peer)
	if direct.Owner() != peer {
		t.Fatal("the example thread has another owner: the owner rule has changed")
	}
	var id proto.ClientMsgID
	for i := range id {
		id[i] = byte(0xa0 + i)
	}
	for _, c := range []struct {
		name string
		key  []byte
		want string
	}{
		{"update log", EntityKey(user, TagUpdateLog), "0000000000001002 41"},
		{"contact", ContactKey(user, peer), "0000000000001002 43 0000000000203004"},
		{"device", DeviceKey(user, "phone"), "0000000000001002 44 70686f6e65"},
		{"event, direct", EventKey(direct, 7), "0000000000203004 45 0000000000001002 0000000000000007"},
		{"event, group", EventKey(proto.GroupThread(user), 7), "0000000000001002 45 0000000000000000 0000000000000007"},
		{"header", HeaderKey(direct), "0000000000203004 48 0000000000001002"},
		{"client message id", SentKey(user, id, peer), "0000000000001002 49 a0a1a2a3a4a5a6a7a8a9aaabacadaeaf 0000000000203004"},
		{"profile", EntityKey(user, TagProfile), "0000000000001002 50"},
		{"thread", ThreadKey(user, direct), "0000000000001002 54 0000000000001002 0000000000203004"},
		{"update", UpdateKey(user, 9), "0000000000001002 55 0000000000000009"},
		{"range state", RangeStateKey(3), "0000000000000000 0000000000000003 61"},
		{"descriptor", DescriptorKey(3), "0000000000000000 0000000000000003 64"},
		{"account key", AccountKeyKey(3, []byte("\x01\x02")), "0000000000000000 0000000000000003 6b 0102"},
		{"range meta", MetaKey(3), "0000000000000000 0000000000000003 6d"},
		{"channel in", ChannelInKey(3, 4), "0000000000000000 0000000000000003 6e 0000000000000004"},
		{"channel out", ChannelOutKey(3, 4, 5), "0000000000000000 0000000000000003 6f 0000000000000004 0000000000000005"},
		{"channel trimmed", ChannelTrimmedKey(3, 4), "0000000000000000 0000000000000003 71 0000000000000004"},
		{"direct from", DirectFromKey(3, user), "0000000000000000 0000000000000003 77 0000000000001002"},
	} {
		want, err := hex.DecodeString(string(bytes.ReplaceAll([]byte(c.want), []byte(" "), nil)))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(c.key, want) {
			t.Errorf("%s: key %x, want %x", c.name, c.key, want)
		}
	}
}

// Every key of a range lies in its spans, and in nobody else's.
func TestKeysLieInTheirRange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := proto.RangeID(rapid.OneOf(
			rapid.Just(uint64(0)), rapid.Just(uint64(proto.RangeIDMax)), rapid.Uint64Max(uint64(proto.RangeIDMax)),
		).Draw(t, "range"))
		user := proto.EntityID(rapid.Uint64Range(uint64(r.First()), uint64(r.Last())).Draw(t, "user"))
		peer := proto.EntityID(rapid.Uint64Min(1).Draw(t, "peer"))
		dest := proto.RangeID(rapid.Uint64Max(uint64(proto.RangeIDMax)).Draw(t, "dest"))
		number := rapid.Uint64().Draw(t, "number")
		local := [][]byte{
			RangeStateKey(r), DescriptorKey(r), MetaKey(r), AccountKeyKey(r, make([]byte, 16)), ChannelInKey(r, dest),
			ChannelOutKey(r, dest, number), ChannelTrimmedKey(r, dest), DirectFromKey(r, user),
		}
		entity := [][]byte{
			EntityKey(user, TagProfile), EntityKey(user, TagUpdateLog), DeviceKey(user, "\xff\xff"), UpdateKey(user, proto.Pts(number)),
			EventKey(proto.GroupThread(user), proto.Seq(number)), SentKey(user, proto.ClientMsgID{}, peer),
			ContactKey(user, peer),
		}
		if peer != user {
			entity = append(entity, ThreadKey(user, proto.DirectThread(user, peer)))
		}
		for i, keys := range [][][]byte{entity, local} {
			for _, key := range keys {
				for j, span := range Spans(r) {
					in := bytes.Compare(key, span.Start) >= 0 && bytes.Compare(key, span.End) < 0
					if in != (i == j) {
						t.Fatalf("key %x: in span %d is %v", key, j, in)
					}
				}
				if bytes.Compare(key, []byte(formatKey)) <= 0 {
					t.Fatalf("key %x does not sort behind the format mark", key)
				}
				if have, ok := RangeOfLocalKey(key); ok != (i == 1) || ok && have != r {
					t.Fatalf("key %x is of range %v, %v", key, have, ok)
				}
			}
		}
	})
}

// Keys sort as their numbers do, and can be read back.
func TestKeysSortAndParse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.Uint64().Draw(t, "a"), rapid.Uint64().Draw(t, "b")
		less := func(key func(n uint64) []byte) {
			if (bytes.Compare(key(a), key(b)) < 0) != (a < b) {
				t.Fatalf("keys of %d and %d sort as %x and %x", a, b, key(a), key(b))
			}
			if LastNumber(key(a)) != a {
				t.Fatalf("%x ends in %d, want %d", key(a), LastNumber(key(a)), a)
			}
		}
		less(func(n uint64) []byte { return UpdateKey(5, proto.Pts(n)) })
		less(func(n uint64) []byte { return EventKey(proto.GroupThread(5), proto.Seq(n)) })
		less(func(n uint64) []byte { return ContactKey(5, proto.EntityID(n)) })
		less(func(n uint64) []byte { return ChannelOutKey(1, 2, n) })
		dest := proto.RangeID(a & uint64(proto.RangeIDMax))
		if d, n, ok := ParseChannelOutKey(ChannelOutKey(7, dest, b)); !ok || d != dest || n != b {
			t.Fatalf("channel key read back as %d, %d, %v", d, n, ok)
		}
		thread := proto.ThreadID{Low: proto.EntityID(a), High: proto.EntityID(b)}
		if have, ok := ParseThreadKey(ThreadKey(9, thread)); !ok || have != thread {
			t.Fatalf("thread key read back as %v, %v", have, ok)
		}
	})
	for _, bad := range [][]byte{nil, UpdateKey(1, 1), MetaKey(1)} {
		if _, _, ok := ParseChannelOutKey(bad); ok {
			t.Errorf("%x was read as a channel's", bad)
		}
		if _, ok := ParseThreadKey(bad); ok {
			t.Errorf("%x was read as a thread's", bad)
		}
	}
}
