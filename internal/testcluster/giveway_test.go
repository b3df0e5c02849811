package testcluster

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waggle-im/waggle/internal/devcluster"
	"github.com/waggle-im/waggle/internal/giveway"
)

// While messages flow and the process says that it is late, uploads go at the
// least rate, over every version of HTTP, and come to their end; in time again,
// and without messages, they are as fast as can be. Whether it is late is not
// measured here: that depends on the machine.
func TestFilesGiveWayToMessages(t *testing.T) {
	const mebi = 1 << 20
	var late atomic.Int64
	gate := giveway.NewFake(func() time.Duration { return time.Duration(late.Load()) })
	c := Start(t, devcluster.Options{NoDemo: true, Gate: gate})
	u := c.AddUser("sender", "c1")
	content, sum := randomContent(16 * mebi)
	upload := func(w *web) time.Duration {
		location := w.create(u.Token, len(content), "file.bin", sum)
		began := time.Now()
		w.resume(u.Token, location, content, len(content))
		return time.Since(began)
	}
	webs := c.webs()
	upload(webs["HTTP/1.1"]) // the first one opens connections
	if waited := gate.Stats().Waited; waited != 0 {
		t.Errorf("transfers waited %v although there are no messages", waited)
	}

	load := c.StartLoad(5, 10)
	late.Store(int64(time.Second))
	c.Until("the rate has fallen", func() error {
		upload(webs["HTTP/1.1"])
		if limit := gate.Stats().Limit; limit != giveway.FloorBytesPerSecond {
			return fmt.Errorf("it is %d bytes/s", limit)
		}
		return nil
	})
	for name, w := range webs {
		before := gate.Stats()
		took := upload(w)
		after := gate.Stats()
		t.Logf("%s: 16 MiB took %v while messages flow and are late", name, took)
		passed := float64(after.Moved-before.Moved) / took.Seconds()
		if allowed := 1.5 * giveway.FloorBytesPerSecond; passed > allowed {
			t.Errorf("%s: %.0f bytes/s passed, not %d", name, passed, giveway.FloorBytesPerSecond)
		}
		if after.Moved-before.Moved < int64(2*len(content))*9/10 {
			t.Errorf("%s: %d bytes were counted of an upload of %d at edge and node", name, after.Moved-before.Moved, len(content))
		}
		if after.Waited == before.Waited {
			t.Errorf("%s: no transfer gave way", name)
		}
	}
	load.End()
	load.Check()
}
