package proto

import (
	"math/big"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// ownerByTheBook computes the owner rule of ARCHITECTURE.md with numbers of
// any size, so that it shares nothing with the code it checks.
func ownerByTheBook(low, high EntityID) EntityID {
	two64 := new(big.Int).Lsh(big.NewInt(1), 64)
	hex := func(s string) *big.Int {
		n, _ := new(big.Int).SetString(s, 16)
		return n
	}
	fold := func(z *big.Int, shift uint) *big.Int { return new(big.Int).Xor(z, new(big.Int).Rsh(z, shift)) }
	mod := func(z *big.Int) *big.Int { return z.Mod(z, two64) }
	mix := func(x *big.Int) *big.Int {
		z := mod(new(big.Int).Add(x, hex("9e3779b97f4a7c15")))
		z = mod(new(big.Int).Mul(fold(z, 30), hex("bf58476d1ce4e5b9")))
		z = mod(new(big.Int).Mul(fold(z, 27), hex("94d049bb133111eb")))
		return fold(z, 31)
	}
	number := func(id EntityID) *big.Int { return new(big.Int).SetUint64(uint64(id)) }
	if mix(mod(new(big.Int).Add(mix(number(low)), number(high)))).Bit(0) == 0 {
		return low
	}
	return high
}

// The rule is part of the stored format: these owners can never change.
func TestOwnerRuleIsFixed(t *testing.T) {
	for _, c := range []struct{ low, high, owner EntityID }{
		{1, 2, 2},
		{1, 3, 3},
		{2, 3, 3},
		{1, 4095, 4095},
		{1, 4096, 4096},
		{4096, 4097, 4096},
		{4096, 8192, 8192},
		{4097, 8193, 4097},
		{17, 4242, 17},
		{4242, 90001, 4242},
		{4095, 4096, 4095},
		{8191, 8192, 8191},
		{1, 18446744073709551615, 1},
		{18446744073709551614, 18446744073709551615, 18446744073709551615},
		{9223372036854775808, 9223372036854775809, 9223372036854775808},
		{4294967296, 4294967297, 4294967296},
		{123456789, 987654321, 987654321},
		{4100, 12345678901234567890, 4100},
		{99999, 100000, 99999},
		{409600, 409700, 409700},
	} {
		if have := DirectThread(c.low, c.high).Owner(); have != c.owner {
			t.Errorf("thread of %s and %s is owned by %s, want %s", c.low, c.high, have, c.owner)
		}
		if have := ownerByTheBook(c.low, c.high); have != c.owner {
			t.Errorf("by the book the thread of %s and %s is owned by %s, want %s", c.low, c.high, have, c.owner)
		}
	}
	if have := GroupThread(90001).Owner(); have != 90001 {
		t.Errorf("group 90001 is owned by %s", have)
	}
}

func TestOwnerRuleAgreesWithTheBook(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := EntityID(rapid.Uint64Min(1).Draw(t, "a")), EntityID(rapid.Uint64Min(1).Draw(t, "b"))
		if a == b {
			return
		}
		thread := DirectThread(a, b)
		if thread != DirectThread(b, a) {
			t.Fatal("the order of the users matters")
		}
		if have, want := thread.Owner(), ownerByTheBook(thread.Low, thread.High); have != want {
			t.Fatalf("thread %s is owned by %s, by the book by %s", thread, have, want)
		}
		if thread.OwnerRange() != thread.Owner().Range() || thread.Peer(a) != b || thread.Peer(b) != a {
			t.Fatalf("thread %s: range %s, peers %s and %s", thread, thread.OwnerRange(), thread.Peer(a), thread.Peer(b))
		}
	})
}

// Both sides own about half, whatever the pattern of ids: neighbours, one
// user's many threads, two ranges.
func TestOwnerRuleIsBalanced(t *testing.T) {
	patterns := map[string]func(i uint64) (EntityID, EntityID){
		"neighbours":       func(i uint64) (EntityID, EntityID) { return EntityID(i + 1), EntityID(i + 2) },
		"one and many":     func(i uint64) (EntityID, EntityID) { return 4242, EntityID(i + 5000) },
		"two ranges":       func(i uint64) (EntityID, EntityID) { return EntityID(4096 + i%100), EntityID(8192 + i/100) },
		"same low bits":    func(i uint64) (EntityID, EntityID) { return EntityID(i<<12 + 4096), EntityID(i<<12 + 8192) },
		"even, both sides": func(i uint64) (EntityID, EntityID) { return EntityID(2*i + 2), EntityID(2*i + 200_002) },
	}
	const pairs = 10_000
	for name, pattern := range patterns {
		lower := 0
		for i := range uint64(pairs) {
			thread := DirectThread(pattern(i))
			if thread.Owner() == thread.Low {
				lower++
			}
		}
		// 5 standard deviations of 10,000 fair coins are 250.
		if lower < pairs/2-250 || lower > pairs/2+250 {
			t.Errorf("%s: the smaller id owns %d of %d threads", name, lower, pairs)
		}
	}
}

func TestThreadIDRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := EntityID(rapid.Uint64Min(1).Draw(t, "a")), EntityID(rapid.Uint64Min(1).Draw(t, "b"))
		threads := []ThreadID{GroupThread(a)}
		if a != b {
			threads = append(threads, DirectThread(a, b))
		}
		for _, thread := range threads {
			back, err := ParseThreadID(thread.String())
			if err != nil || back != thread {
				t.Fatalf("%s was read as %v, %v", thread, back, err)
			}
		}
		if id, err := ParseEntityID(a.String()); err != nil || id != a {
			t.Fatalf("%s was read as %v, %v", a, id, err)
		}
	})
}

func TestOtherSpellingsOfThreadsAreRefused(t *testing.T) {
	for _, s := range []string{
		"", "d", "g", "d/", "g/", "d/1", "d/1/", "d//1", "d/2/1", "d/1/1", "d/0/1", "g/0", "d/01/2", "d/+1/2", "d/ 1/2", "d/1/2/3",
		"g/1/2", "g/-1", "x/1", "D/1/2", "d/1/18446744073709551616", "d/1/2\n", "g/1 ", "g/0x1", "g/1_0",
	} {
		if id, err := ParseThreadID(s); err == nil || !strings.Contains(err.Error(), "d/SMALLER/LARGER") {
			t.Errorf("%q was read as %v, %v", s, id, err)
		}
	}
	for _, s := range []string{"", "0", "-1", "18446744073709551616", "x", "1 "} {
		if id, err := ParseEntityID(s); err == nil {
			t.Errorf("%q was read as id %s", s, id)
		}
	}
}

func FuzzParseThreadID(f *testing.F) {
	for _, s := range []string{"d/17/4242", "g/90001", "d/1/18446744073709551615", "d/01/2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		thread, err := ParseThreadID(s)
		if err == nil && (thread.String() != s || thread.High == 0 || thread.Low >= thread.High) {
			t.Errorf("%q was read as %+v, which is written %q", s, thread, thread)
		}
	})
}

func TestRangesCoverEveryIDOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := EntityID(rapid.Uint64Min(1).Draw(t, "id"))
		r := id.Range()
		if !r.Contains(id) || id < r.First() || id > r.Last() || r > RangeIDMax {
			t.Fatalf("id %s is in range %s (%s … %s)", id, r, r.First(), r.Last())
		}
		if r < RangeIDMax && (r+1).First() != r.Last()+1 {
			t.Fatalf("range %s ends at %s, the next begins at %s", r, r.Last(), (r + 1).First())
		}
	})
	if RangeIDMax.Last() != ^EntityID(0) || RangeID(0).First() != 1 || RangeID(0).Contains(0) {
		t.Error("the ends are wrong: 0 is never given, the highest id is the last range's last")
	}
}

func TestClientMsgID(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at := time.UnixMilli(rapid.Int64Range(0, 1<<48-1).Draw(t, "ms"))
		id := NewClientMsgID(at)
		if !id.Time().Equal(at) {
			t.Fatalf("an id of %v says %v", at, id.Time())
		}
		if back, err := ClientMsgIDFromBytes(id[:]); err != nil || back != id {
			t.Fatalf("%s was read as %s, %v", id, back, err)
		}
	})
	now := time.Now()
	if a, b := NewClientMsgID(now), NewClientMsgID(now); a == b {
		t.Error("two ids are equal")
	}
	v4 := NewClientMsgID(time.Now())
	v4[6] = 0x40
	variant := NewClientMsgID(time.Now())
	variant[8] = 0
	for _, bad := range [][]byte{nil, make([]byte, 16), make([]byte, 15), make([]byte, 17), v4[:], variant[:]} {
		if _, err := ClientMsgIDFromBytes(bad); err == nil {
			t.Errorf("%x was taken", bad)
		}
	}
}
