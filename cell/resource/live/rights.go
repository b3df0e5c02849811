package live

import (
	"context"
	"time"

	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/proto"
)

// Rights decides who may publish and watch, and is told what becomes of a
// livestream. The truth is in the owner's range; package rights asks it there.
// All methods may be called at once. Errors are *proto.Error where somebody is
// refused, so that the refusal can say why; any other error means that nobody
// could be asked.
type Rights interface {
	// Publish admits whoever has the stream key.
	Publish(ctx context.Context, id proto.LiveID, key string) (Publication, error)
	// Watch admits whoever has a ticket that is not older than its time.
	Watch(ctx context.Context, id proto.LiveID, ticket string) (Viewer, error)
	// MayStay tells whether a viewer is still a member of the thread. It is
	// asked every Config.RecheckInterval for everyone who watches.
	MayStay(ctx context.Context, v Viewer) error
	// Report says what a livestream is doing now: at start, when the count of
	// viewers has changed (at most every Config.ReportInterval), and at the end.
	Report(ctx context.Context, r Report) error
	// Keep makes a file message of a finished recording, a fragmented MP4 at
	// path. The file may be removed once it has returned without an error.
	Keep(ctx context.Context, id proto.LiveID, path string) error
}

// Publication is what a publisher was admitted to.
type Publication struct {
	Record bool   // keep a recording
	Title  string // as its owner has called it
}

// Viewer is somebody who was admitted to watch.
type Viewer struct {
	Live   proto.LiveID
	User   proto.EntityID
	Thread string // whose members may watch
	// Login is the one he asked for his ticket with: he stays no longer than it.
	// The media side only hands it back.
	Login cellclient.Caller
}

// State is what a livestream is doing.
type State int

// A livestream waits for a publisher, is on, waits up to the time of
// reconnecting for its publisher to come back, or has ended for now. A
// publisher may start one that ended again.
const (
	Waiting State = iota
	On
	Interrupted
	Ended
)

// Report is what a livestream is doing at a moment.
type Report struct {
	Live    proto.LiveID
	State   State
	Reason  string // of an end, for people: "the publisher has left", …
	Viewers int    // now, over all protocols
	Started time.Time
	Video   string // "H.264 1280x720", empty without
	Audio   string // "AAC 48000 Hz, 2 channels", empty without
}
