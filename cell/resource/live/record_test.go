package live

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bluenviron/gortsplib/v4/pkg/description"
	"github.com/bluenviron/gortsplib/v4/pkg/format"
)

// probe counts the pictures that ffprobe finds in a file.
func probe(t *testing.T, path string) int {
	t.Helper()
	out := must(t, "ffprobe", "-v", "error", "-select_streams", "v", "-count_packets", "-show_entries", "stream=nb_read_packets", "-of", "json", path)
	var found struct {
		Streams []struct {
			Packets string `json:"nb_read_packets"`
		}
	}
	if err := json.Unmarshal([]byte(out), &found); err != nil || len(found.Streams) != 1 {
		t.Fatalf("ffprobe says %s, %v", out, err)
	}
	n, err := strconv.Atoi(found.Streams[0].Packets)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// record makes an unfinished recording by publishing pictures, and copies it
// while the node still writes.
func unfinishedCopy(t *testing.T, pictures int) []byte {
	t.Helper()
	rights := newFakeRights()
	rights.record = true
	n := start(t, Config{Dir: t.TempDir()}, rights)
	s := mustSynthetic(t, n, spsA)
	for range pictures {
		if err := s.send(500); err != nil {
			t.Fatal(err)
		}
	}
	deadline := time.Now().Add(patience)
	for {
		paths, _ := filepath.Glob(filepath.Join(n.cfg.Dir, "*"+unfinished))
		if len(paths) == 1 {
			content, err := os.ReadFile(paths[0])
			if err == nil && bytes.Count(content, []byte("mdat")) >= 3 {
				return content
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("no recording has been written: %v", paths)
		}
		if err := s.send(500); err != nil {
			t.Fatal(err)
		}
	}
}

// Wherever a crash cuts a recording, ffprobe can read what is there, and the
// next start hands it over.
func TestRecordingsCutShort(t *testing.T) {
	need(t, "ffprobe")
	content := unfinishedCopy(t, 100)
	cuts := []int{len(content), len(content) - 1, len(content) - 700, len(content) * 2 / 3}
	dir := t.TempDir()
	for i, cut := range cuts {
		path := filepath.Join(dir, testID.String()+"."+strconv.Itoa(i)+unfinished)
		if err := os.WriteFile(path, content[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		if got := probe(t, path); got == 0 {
			t.Errorf("cut at %d of %d bytes, nothing can be read", cut, len(content))
		}
	}
	for name, junk := range map[string][]byte{"empty": nil, "head": content[:bytes.Index(content, []byte("moof"))-4], "junk": []byte("not an mp4 file")} {
		if err := os.WriteFile(filepath.Join(dir, testID.String()+"."+name+unfinished), junk, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "somebody.else"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	rights := newFakeRights()
	n := start(t, Config{Dir: dir}, rights)
	kept := rights.untilKept(t, 2) // the last, and the others, which may be cut back to the same
	for _, k := range kept {
		path := filepath.Join(t.TempDir(), "kept.mp4")
		if err := os.WriteFile(path, k, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := probe(t, path); got < syntheticGroup {
			t.Errorf("%d pictures can be read of what was handed over", got)
		}
	}
	n.end(t)
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != "somebody.else" {
		t.Errorf("%v are left, %v", left, err)
	}
}

func TestRecordingIsBounded(t *testing.T) {
	rights := newFakeRights()
	rights.record = true
	n := start(t, Config{Dir: t.TempDir(), RecordBytesMax: 20 << 10}, rights)
	s := mustSynthetic(t, n, spsA)
	deadline := time.Now().Add(patience)
	for !strings.Contains(n.log.String(), errRecordingFull.Error()) {
		if time.Now().After(deadline) {
			t.Fatal("the recording does not end")
		}
		if err := s.send(500); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(rights.untilKept(t, 1)[0]); got < 20<<10 || got > 60<<10 {
		t.Errorf("the recording has %d bytes", got)
	}
	if err := s.send(100); err != nil {
		t.Errorf("the livestream does not go on: %v", err)
	}
}

// A recording that nobody takes stays where it is, and is handed over later.
func TestRecordingIsKeptUntilItIsTaken(t *testing.T) {
	rights := newFakeRights()
	rights.keepErr = errNobody
	dir := t.TempDir()
	content := unfinishedCopy(t, 100)
	path := filepath.Join(dir, testID.String()+".1"+finished)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	n := start(t, Config{Dir: dir}, rights)
	n.log.until(t, "recording not handed over")
	n.end(t)
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, content) {
		t.Fatalf("the recording is lost: %v", err)
	}
	rights.change(func() { rights.keepErr = nil })
	start(t, Config{Dir: dir}, rights)
	if kept := rights.untilKept(t, 1); !bytes.Equal(kept[0], content) {
		t.Error("something else was handed over")
	}
}

// Sound goes on although the pictures have stopped: it is written all the same.
func TestRecordingWithoutPicturesGoesOn(t *testing.T) {
	n := start(t, Config{Dir: t.TempDir()}, newFakeRights())
	video, err := newTrack(0, description.MediaTypeVideo, &format.H264{PacketizationMode: 1})
	if err != nil {
		t.Fatal(err)
	}
	audio, err := newTrack(1, description.MediaTypeAudio, &format.Opus{ChannelCount: 2})
	if err != nil {
		t.Fatal(err)
	}
	r := n.keep.begin(newLivestream(n.Service, testID, Publication{}), []*track{video, audio})
	r.queue.close() // from here on this goroutine writes
	<-r.done
	path := strings.TrimSuffix(r.file.Name(), unfinished) + ".again" + unfinished
	if r.file, err = os.Create(path); err != nil {
		t.Fatal(err)
	}
	defer r.file.Close()
	if err := r.write(unit{track: 0, timed: true, key: true, start: true, parts: [][]byte{spsA, ppsA, picture(0, 50)}}); err != nil {
		t.Fatal(err)
	}
	for i := range int64(3000) { // a minute
		if err := r.write(unit{track: 1, pts: i * 960, dts: i * 960, timed: true, key: true, parts: [][]byte{{0xfc, 0xff, 0xfe}}}); err != nil {
			t.Fatal(err)
		}
		if waiting := len(r.tracks[1].samples); waiting > 250 {
			t.Fatalf("%d frames wait in memory", waiting)
		}
	}
	if r.number < 10 {
		t.Errorf("%d fragments", r.number)
	}
}
