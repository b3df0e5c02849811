package testcluster

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"strings"
	"testing"

	"encoding/binary"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/devcluster"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// halves is a PNG, red on the left and blue on the right, with a text in it.
func halves(t *testing.T, w, h int) []byte {
	t.Helper()
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			c := color.RGBA{R: 255, A: 255}
			if x >= w/2 {
				c = color.RGBA{B: 255, A: 255}
			}
			img.SetRGBA(x, y, c)
		}
	}
	var out bytes.Buffer
	if err := png.Encode(&out, img); err != nil {
		t.Fatal(err)
	}
	text := []byte("tEXtComment\x00taken at home")
	chunk := binary.BigEndian.AppendUint32(nil, uint32(len(text)-4))
	chunk = binary.BigEndian.AppendUint32(append(chunk, text...), crc32.ChecksumIEEE(text))
	raw := out.Bytes()
	const afterHeader = 33
	return append(append(bytes.Clone(raw[:afterHeader]), chunk...), raw[afterHeader:]...)
}

// TestAvatars: an avatar is cut out, drawn in all sizes without the original's
// metadata, told to a friend of another cell and read by him through the edge;
// another one takes its place.
func TestAvatars(t *testing.T) {
	c := Start(t, devcluster.Options{Cells: 2, NoDemo: true})
	ann, bob := c.Connect(c.AddUser("ann", "c1"), client.TCP, nil), c.Connect(c.AddUser("bob", "c2"), client.TCP, nil)
	for _, one := range []struct{ who, to *Device }{{ann, bob}, {bob, ann}} {
		change := client.ContactChange{User: one.to.User.ID, Action: clientpb.ContactAction_CONTACT_ACTION_REQUEST}
		c.Until(one.who.User.Name+" asks", func() error {
			_, err := one.who.ChangeContact(c.Context(), change)
			return err
		})
	}
	up, down := c.filesOf(ann), c.filesOf(bob)
	picture := halves(t, 400, 200)
	var before string
	for _, crop := range []image.Rectangle{{}, image.Rect(0, 0, 150, 150), image.Rect(250, 10, 400, 190)} {
		id, err := up.SetAvatar(c.Context(), picture, crop)
		if err != nil {
			t.Fatal(err)
		}
		c.Until("bob is told", func() error {
			for _, u := range bob.Updates() {
				if u.Profile.GetUser() == uint64(ann.User.ID) && u.Profile.Avatar == id {
					return nil
				}
			}
			return fmt.Errorf("%d updates", len(bob.Updates()))
		})
		for _, size := range []int{48, 96, 256, 512} {
			raw, err := down.Avatar(c.Context(), id, size)
			if err != nil {
				t.Fatal(err)
			}
			img, err := jpeg.Decode(bytes.NewReader(raw))
			if err != nil || img.Bounds().Size() != image.Pt(size, size) || bytes.Contains(raw, []byte("home")) {
				t.Fatalf("size %d of %v: %v, or metadata stays", size, crop, err)
			}
			left, _, _, _ := img.At(2, size/2).RGBA()
			right, _, _, _ := img.At(size-3, size/2).RGBA()
			if wantLeft, wantRight := crop.Min.X < 200, crop != (image.Rectangle{}) && crop.Max.X <= 200; left > 0x8000 != wantLeft || right > 0x8000 != wantRight {
				t.Errorf("size %d of %v: red on the left %v, on the right %v", size, crop, left > 0x8000, right > 0x8000)
			}
		}
		if before != "" {
			if _, err := down.Avatar(c.Context(), before, 96); proto.CodeOf(err) != proto.CodeUnknownFile {
				t.Errorf("the avatar before: %v", err)
			}
		}
		before = id
	}
	if all, _, _, err := up.List(c.Context(), "", 10); err != nil || len(all) != 1 || all[0].ID != before {
		t.Errorf("ann's files are %v, %v", all, err)
	}
	// What is a file of hers and no avatar is none of his.
	path, _, _ := writeFile(t, "private", 1000)
	private, err := up.Upload(c.Context(), client.UploadOptions{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := down.Avatar(c.Context(), private.ID, 96); proto.CodeOf(err) != proto.CodeUnknownFile {
		t.Errorf("a file as an avatar: %v", err)
	}
	if _, err := down.Avatar(c.Context(), before, 97); proto.CodeOf(err) != proto.CodeBadRequest {
		t.Errorf("another size: %v", err)
	}
	w := c.webs()["HTTP/2.0"]
	w.do(401, "", "GET", "/avatars/"+before, nil)
	w.do(401, "", "POST", "/avatars", strings.NewReader("x"))
	huge := bytes.Clone(picture)
	binary.BigEndian.PutUint32(huge[16:], 1<<15)
	binary.BigEndian.PutUint32(huge[20:], 1<<15)
	binary.BigEndian.PutUint32(huge[29:], crc32.ChecksumIEEE(huge[12:29]))
	for name, bad := range map[string]struct {
		raw  []byte
		crop image.Rectangle
		code proto.Code
	}{
		"no picture":     {[]byte("hello"), image.Rectangle{}, proto.CodeBadRequest},
		"empty":          {nil, image.Rectangle{}, proto.CodeBadRequest},
		"cut":            {picture[:len(picture)/2], image.Rectangle{}, proto.CodeBadRequest},
		"huge":           {huge, image.Rectangle{}, proto.CodeBadRequest},
		"outside":        {picture, image.Rect(300, 0, 401, 10), proto.CodeBadRequest},
		"too many bytes": {append(bytes.Clone(picture), make([]byte, 17<<20)...), image.Rectangle{}, proto.CodeTooBig},
	} {
		if _, err := up.SetAvatar(c.Context(), bad.raw, bad.crop); proto.CodeOf(err) != bad.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := errors.Join(up.RemoveAvatar(c.Context()), up.RemoveAvatar(c.Context())); err != nil {
		t.Error(err)
	}
	if p, err := ann.Profile(c.Context()); err != nil || p.GetCard().GetAvatar() != "" {
		t.Errorf("she has %v (%v)", p, err)
	}
}
