package main

import (
	"fmt"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/bytesize"
)

// plainEvery is how often progress is told where there is no terminal.
const plainEvery = 5 * time.Second

// transferBar shows how far a file is, with rate and time left: a bar on a
// terminal, now and then a line elsewhere. The zero stage draws nothing yet.
type transferBar struct {
	a    *app
	name string

	bar   *progressbar.ProgressBar
	stage client.Stage
	from  int64 // where this run began
	begun time.Time
	told  time.Time
}

func (a *app) newTransferBar(name string) *transferBar {
	now := time.Now()
	return &transferBar{a: a, name: harmless(name), stage: -1, told: now}
}

// show is a [client.UploadOptions] Progress.
func (b *transferBar) show(p client.Progress) {
	if p.Stage != b.stage {
		b.end()
		b.stage, b.from, b.begun = p.Stage, p.Done, time.Now()
		if p.Stage != client.StageMoving {
			b.from = 0
		}
		if b.a.errTerminal && p.Stage != client.StageChecking && p.Total > b.from {
			b.bar = b.newBar(p.Total - b.from)
		}
		if p.Stage == client.StageChecking && b.a.errTerminal {
			fmt.Fprintf(b.a.err, "%s: the server verifies and stores it…\n", b.name)
		}
	}
	switch {
	case b.bar != nil:
		_ = b.bar.Set64(max(0, p.Done-b.from)) // what cannot be drawn is not missed
	case !b.a.errTerminal && time.Since(b.told) >= plainEvery:
		b.told = time.Now()
		fmt.Fprintf(b.a.err, "waggle: %s: %s\n", b.name, b.words(p))
	}
}

// newBar draws what is left of the file: rate and time left count from here.
func (b *transferBar) newBar(left int64) *progressbar.ProgressBar {
	what := b.name
	switch {
	case b.stage == client.StageHashing:
		what += " (hash)"
	case b.from > 0:
		what += fmt.Sprintf(" (on from %s)", bytesize.Words(b.from))
	}
	return progressbar.NewOptions64(left, progressbar.OptionSetWriter(b.a.err), progressbar.OptionSetDescription(what),
		progressbar.OptionShowBytes(true), progressbar.OptionShowCount(), progressbar.OptionUseIECUnits(true), progressbar.OptionSetPredictTime(true),
		progressbar.OptionSetWidth(24), progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionOnCompletion(func() { fmt.Fprintln(b.a.err) }))
}

// words is progress in words.
func (b *transferBar) words(p client.Progress) string {
	switch p.Stage {
	case client.StageHashing:
		return fmt.Sprintf("hash of %s of %s", bytesize.Words(p.Done), bytesize.Words(p.Total))
	case client.StageChecking:
		return "the server verifies and stores it"
	}
	line := fmt.Sprintf("%s of %s", bytesize.Words(p.Done), bytesize.Words(p.Total))
	if seconds := time.Since(b.begun).Seconds(); seconds > 0 && p.Done > b.from {
		rate := float64(p.Done-b.from) / seconds
		left := time.Duration(float64(p.Total-p.Done) / rate * float64(time.Second)).Round(time.Second)
		line += fmt.Sprintf(", %s/s, %s left", bytesize.Words(int64(rate)), left)
	}
	return line
}

// end leaves the bar where it is.
func (b *transferBar) end() {
	if b.bar != nil && !b.bar.IsFinished() {
		_ = b.bar.Exit()
		fmt.Fprintln(b.a.err)
	}
	b.bar = nil
}
