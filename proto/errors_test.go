package proto_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/waggle-im/waggle/proto"
)

const codesFile = "testdata/codes.txt"

// codesMax is above every code; a new one above it must raise it.
const codesMax = 1000

// registry lists every code that has a name: number, name, class.
func registry() (lines []string) {
	classes := [...]string{proto.ClassGiveUp: "give up", proto.ClassRetryLater: "retry later", proto.ClassRetryElsewhere: "retry elsewhere"}
	for c := range proto.Code(codesMax) {
		if c.String() != fmt.Sprintf("code_%d", c) {
			lines = append(lines, fmt.Sprintf("%d %s: %s", c, c, classes[c.Class()]))
		}
	}
	return lines
}

// Old clients know these numbers: a line may be added, none may change.
func TestErrorCodesAreStable(t *testing.T) {
	if *update {
		if err := os.WriteFile(codesFile, []byte(strings.Join(registry(), "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(codesFile)
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, line := range registry() {
		have[line] = true
	}
	golden := strings.Split(strings.TrimSpace(string(raw)), "\n")
	for _, line := range golden {
		if !have[line] {
			t.Errorf("%q is no more: codes are never changed or used again", line)
		}
	}
	if len(have) != len(golden) {
		t.Errorf("%d codes, %s lists %d: run go test ./proto -update and commit the new lines", len(have), codesFile, len(golden))
	}
}

func TestErrorCodeNamesAreUnique(t *testing.T) {
	names := map[string]proto.Code{}
	for c := range proto.Code(codesMax) {
		if other, ok := names[c.String()]; ok {
			t.Errorf("codes %d and %d are both named %s", other, c, c)
		}
		names[c.String()] = c
	}
}

// Every retry-later code says how long, no other does.
func TestRetryFitsTheClass(t *testing.T) {
	for c := range proto.Code(codesMax) {
		e := proto.Errorf(c, "x")
		if later := c.Class() == proto.ClassRetryLater; later != (e.Retry > 0) {
			t.Errorf("%s: retry %v", c, e.Retry)
		}
	}
	if ms := (&proto.Error{Code: proto.CodeOverloaded}).RetryMillis(); ms != 1 {
		t.Errorf("retry later without a time is %d ms on the wire, want 1", ms)
	}
}

func TestErrorsCrossTheWire(t *testing.T) {
	sent := proto.Errorf(proto.CodeOverloaded, "the queue to %s is full", "c1")
	got := proto.FromWire(uint32(sent.Code), sent.Message, sent.RetryMillis())
	if !errors.Is(got, sent) || got.Error() != "the queue to c1 is full" || proto.AsError(got).Retry != 200*time.Millisecond {
		t.Errorf("sent %#v, got %#v", sent, got)
	}
	if proto.FromWire(0, "", 0) != nil {
		t.Error("code 0 is an error")
	}
	wrapped := fmt.Errorf("outer: %w", got)
	if proto.CodeOf(wrapped) != proto.CodeOverloaded || proto.CodeOf(nil) != proto.CodeOK || proto.CodeOf(errors.New("x")) != proto.CodeUnavailable {
		t.Error("CodeOf is wrong")
	}
	if errors.Is(got, proto.Errorf(proto.CodeNotReady, "")) || proto.AsError(errors.New("x")).Code != proto.CodeUnavailable {
		t.Error("errors of different codes are taken for each other")
	}
	if e := (&proto.Error{Code: proto.CodeNotHost}); e.Error() != "not_host" {
		t.Errorf("an error without message reads %q", e.Error())
	}
}
