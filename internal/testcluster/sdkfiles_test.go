package testcluster

import (
	"bytes"
	"context"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"
	"time"

	"lukechampine.com/blake3"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/devcluster"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// filesOf are a device's files until the test ends.
func (c *Cluster) filesOf(d *Device) *client.Files {
	f := d.Files()
	c.t.Cleanup(f.Close)
	return f
}

// writeFile makes a file of random content.
func writeFile(t *testing.T, name string, size int) (path string, content []byte, sum string) {
	t.Helper()
	content, sum = randomContent(size)
	path = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, content, sum
}

// cutAt ends a transfer when it has got so far.
func cutAt(cancel func(), at int64) func(client.Progress) {
	return func(p client.Progress) {
		if p.Stage == client.StageMoving && p.Done >= at {
			cancel()
		}
	}
}

// TestSDKSendsFiles: files of all sizes, whole and in parts, go to a friend of
// another cell, who finds exactly them in his folder.
func TestSDKSendsFiles(t *testing.T) {
	c := Start(t, devcluster.Options{Cells: 2, NoDemo: true})
	ann, bob := c.AddUser("ann", "c1"), c.AddUser("bob", "c2")
	sender, receiver := c.Connect(ann, client.TCP, nil), c.Connect(bob, client.QUIC, nil)
	up, down := c.filesOf(sender), c.filesOf(receiver)
	thread := proto.DirectThread(ann.ID, bob.ID).String()
	for _, one := range []struct {
		name        string
		size, parts int
	}{{"empty", 0, 1}, {"one", 1, 4}, {"block", 64 << 10, 1}, {"odd", 5<<20 + 123, 1}, {"parts", 9<<20 + 77, 4}} {
		path, content, sum := writeFile(t, one.name, one.size)
		file, err := up.Upload(c.Context(), client.UploadOptions{Path: path, Parts: one.parts, Book: t.TempDir()})
		if err != nil || file.Size != int64(one.size) || file.Blake3 != sum || file.Name != one.name {
			t.Fatalf("%s: %+v, %v", one.name, file, err)
		}
		if _, err := down.Show(c.Context(), file.ID, client.Place{}); proto.CodeOf(err) != proto.CodeUnknownFile {
			t.Fatalf("%s, before it is sent: %v", one.name, err)
		}
		p, err := sender.PostBody(client.MessageOf(c.Context(), thread, file, path))
		if err != nil {
			t.Fatal(err)
		}
		sent, err := p.Result(c.Context())
		if err != nil {
			t.Fatal(err)
		}
		at, dir := client.Place{Thread: thread, Seq: sent.Seq}, t.TempDir()
		for range 2 { // the second time it is there
			where, _, err := down.Download(c.Context(), client.DownloadOptions{File: file.ID, At: at, Dir: dir})
			if err != nil {
				t.Fatal(err)
			}
			onlyFile(t, dir, where, content)
		}
	}
	picture := filepath.Join(t.TempDir(), "a.png")
	if err := os.WriteFile(picture, halves(t, 300, 200), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := up.Upload(c.Context(), client.UploadOptions{Path: picture})
	if err != nil {
		t.Fatal(err)
	}
	m := client.MessageOf(c.Context(), thread, file, picture).GetFile()
	if m.Kind != clientpb.FileKind_FILE_KIND_IMAGE || m.Width != 300 || m.Height != 200 || len(m.Thumbnail) == 0 {
		t.Errorf("the preview is %v", m)
	}
	if p, err := sender.PostBody(&clientpb.SendMessage{Thread: thread, File: m}); err != nil {
		t.Error(err)
	} else if _, err := p.Result(c.Context()); err != nil {
		t.Error(err)
	}
	if err := up.Remove(c.Context(), file.ID); err != nil {
		t.Fatal(err)
	}
	all, next, quota, err := up.List(c.Context(), "", 3)
	if err != nil || len(all) != 3 || next == "" || quota.Files != 5 {
		t.Fatalf("%+v, next %q, %+v, %v", all, next, quota, err)
	}
	rest, next, _, err := up.List(c.Context(), next, 3)
	if err != nil || len(rest) != 2 || next != "" {
		t.Fatalf("%+v, next %q, %v", rest, next, err)
	}
	if err := up.Remove(c.Context(), all[0].ID); err != nil {
		t.Fatal(err)
	}
	if err := up.Remove(c.Context(), all[0].ID); proto.CodeOf(err) != proto.CodeUnknownFile {
		t.Errorf("removed twice: %v", err)
	}
	if err := down.Remove(c.Context(), all[1].ID); proto.CodeOf(err) != proto.CodeUnknownFile {
		t.Errorf("removed by another: %v", err)
	}
}

// onlyFile checks that a folder has one file and which.
func onlyFile(t *testing.T, dir, path string, content []byte) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || filepath.Join(dir, entries[0].Name()) != path {
		t.Fatalf("the folder has %v (%v), the file is %s", entries, err, path)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, content) {
		t.Fatalf("%s has %d bytes of %d, or others (%v)", path, len(got), len(content), err)
	}
}

// TestSDKGoesOnWhereItWas: an upload and a download that were cut are taken up
// by another process, which moves only the rest; what has changed meanwhile is
// found.
func TestSDKGoesOnWhereItWas(t *testing.T) {
	c := Start(t, devcluster.Options{Cells: 1, NoDemo: true})
	ann := c.Connect(c.AddUser("ann", "c1"), client.TCP, nil)
	const size = 40 << 20
	for name, parts := range map[string]int{"whole": 1, "parts": 3} {
		path, content, _ := writeFile(t, name, size)
		book := t.TempDir()
		ctx, cancel := context.WithCancel(c.Context())
		if _, err := c.filesOf(ann).Upload(ctx, client.UploadOptions{Path: path, Parts: parts, Book: book, Progress: cutAt(cancel, size/2)}); err == nil {
			t.Fatalf("%s: was not cut", name)
		}
		cancel()
		first := int64(-1)
		file, err := c.filesOf(ann).Upload(c.Context(), client.UploadOptions{Path: path, Book: book, Progress: func(p client.Progress) {
			if p.Stage == client.StageMoving && first < 0 {
				first = p.Done
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		if first <= 0 {
			t.Errorf("%s: began at %d", name, first)
		}
		// Until the message is stored, it is not uploaded once more.
		again, err := c.filesOf(ann).Upload(c.Context(), client.UploadOptions{Path: path, Book: book})
		if err != nil || again.ID != file.ID {
			t.Errorf("%s: uploaded again as %s, %v", name, again.ID, err)
		}
		dir := t.TempDir()
		ctx, cancel = context.WithCancel(c.Context())
		if _, _, err := c.filesOf(ann).Download(ctx, client.DownloadOptions{File: file.ID, Dir: dir, Progress: cutAt(cancel, size/3)}); err == nil {
			t.Fatal("the download was not cut")
		}
		cancel()
		partial := filepath.Join(dir, ".waggle-"+file.ID+".part")
		if info, err := os.Stat(partial); err != nil || info.Size() == 0 {
			t.Fatalf("nothing is left of the cut download: %v", err)
		}
		if parts > 1 { // a bit of what lay there flips: it is found, and fetched anew
			f, err := os.OpenFile(partial, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt([]byte{content[100] ^ 1}, 100); err != nil || f.Close() != nil {
				t.Fatal(err)
			}
		}
		where, _, err := c.filesOf(ann).Download(c.Context(), client.DownloadOptions{File: file.ID, Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		onlyFile(t, dir, where, content)
		if err := os.WriteFile(where, []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := c.filesOf(ann).Download(c.Context(), client.DownloadOptions{File: file.ID, Dir: dir}); proto.CodeOf(err) != proto.CodeConflict {
			t.Errorf("over another file: %v", err)
		}
		if where, _, err = c.filesOf(ann).Download(c.Context(), client.DownloadOptions{File: file.ID, Dir: dir, Force: true}); err != nil {
			t.Fatal(err)
		}
		onlyFile(t, dir, where, content)
	}
}

// TestSDKFindsAFileThatChanges: what changes while it is uploaded, with its
// modification time put back, never becomes a file, and takes no quota after
// that. Nor does what is left of an upload that is begun anew because the file
// is another by its time.
func TestSDKFindsAFileThatChanges(t *testing.T) {
	c := Start(t, devcluster.Options{Cells: 1, NoDemo: true})
	ann := c.Connect(c.AddUser("ann", "c1"), client.TCP, nil)
	const size = 24 << 20
	used := func(name string, want int64, files int) string {
		t.Helper()
		all, _, quota, err := c.filesOf(ann).List(c.Context(), "", 10)
		if err != nil || len(all) != files || quota.Used != want {
			t.Errorf("%s: there are %v, %+v, %v", name, all, quota, err)
		}
		if len(all) == 0 {
			return ""
		}
		return all[0].ID
	}
	for name, parts := range map[string]int{"whole": 1, "parts": 3} {
		path, content, _ := writeFile(t, name, size)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		book := t.TempDir()
		ctx, cancel := context.WithCancel(c.Context())
		if _, err := c.filesOf(ann).Upload(ctx, client.UploadOptions{Path: path, Parts: parts, Book: book, Progress: cutAt(cancel, size/2)}); err == nil {
			t.Fatal("was not cut")
		}
		cancel()
		content[size-1] ^= 1
		content[0] ^= 1
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, info.ModTime(), info.ModTime()); err != nil {
			t.Fatal(err)
		}
		_, err = c.filesOf(ann).Upload(c.Context(), client.UploadOptions{Path: path, Parts: parts, Book: book})
		if proto.CodeOf(err) != proto.CodeCorrupt {
			t.Errorf("%s: %v", name, err)
		}
		used(name, 0, 0)
		ctx, cancel = context.WithCancel(c.Context())
		if _, err := c.filesOf(ann).Upload(ctx, client.UploadOptions{Path: path, Parts: parts, Book: book, Progress: cutAt(cancel, size/2)}); err == nil {
			t.Fatal("was not cut")
		}
		cancel()
		if err := os.Chtimes(path, info.ModTime(), info.ModTime().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.filesOf(ann).Upload(c.Context(), client.UploadOptions{Path: path, Parts: parts, Book: book}); err != nil {
			t.Errorf("%s, again: %v", name, err)
		} else if err := c.filesOf(ann).Remove(c.Context(), used(name+", again", size, 1)); err != nil {
			t.Error(err)
		}
	}
}

// sumOf is the BLAKE3 of a file.
func sumOf(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := blake3.Sum256(raw)
	return hex.EncodeToString(sum[:])
}
