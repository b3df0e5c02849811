//go:build unix

package testcluster

import (
	"errors"
	"fmt"
	"testing"

	"github.com/waggle-im/waggle/internal/devcluster"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

// A range that nobody lives in is moved there and back, again and again, and
// found to be in order; people land elsewhere.
func TestTheCanaryGoesThereAndBack(t *testing.T) {
	c := StartConfigured(t, devcluster.Options{}, "placement:\n  canary: 1s\n")
	user := c.AddUser("ann", "c1")
	var last *controlpb.CanaryRecord
	c.Until("the canary has been away twice", func() error {
		st, err := c.verbs.Status(c.Context(), &controlpb.StatusRequest{})
		if err != nil {
			return err
		}
		if last = st.Canary; last == nil {
			return errors.New("there is none")
		}
		if last.Rounds < 2 {
			return fmt.Errorf("%v", last)
		}
		return nil
	})
	t.Log(last)
	if last.Failures > 0 || last.Error != "" || last.Messages == 0 || last.SlowestUs == 0 {
		t.Errorf("%v", last)
	}
	if uint64(user.ID.Range()) == last.Range {
		t.Errorf("somebody lives in range %d", last.Range)
	}
	// Each round raises the epoch by two; one may be under way.
	list, err := c.verbs.ListRanges(c.Context(), &controlpb.ListRangesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range list.Ranges {
		if moved := r.Epoch > 1; moved != (r.Range == last.Range) {
			t.Errorf("%v", r)
		}
		if r.Range == last.Range && (r.Epoch < 5 || r.Entities != 2) {
			t.Errorf("the canary's range: %v", r)
		}
	}
}
