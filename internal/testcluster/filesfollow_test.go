package testcluster

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/internal/daemon"
	"github.com/waggle-im/waggle/internal/devcluster"
	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

// A user moves to another cell, and his files with him: they are read where
// they were until they have followed, and then there. The old cell cannot be
// removed before, and is not missed after.
func TestFilesFollowTheirOwner(t *testing.T) {
	c := Start(t, devcluster.Options{Cells: 2, NoDemo: true, Override: func(cfg *daemon.Config) error {
		cfg.Files.FollowSeconds = 5
		return nil
	}})
	ann, bob := c.AddUser("ann", "c1"), c.AddUser("bob", "c2")
	sender := c.Connect(ann, client.TCP, nil)
	w := c.webs()["HTTP/2.0"]
	type sent struct {
		file, at string
		content  []byte
	}
	var files []sent
	for i, size := range []int{0, 1, 64 << 10, 3<<20 + 17} {
		content, sum := randomContent(size)
		location := w.create(ann.Token, size, fmt.Sprintf("file%d.bin", i), sum)
		w.resume(ann.Token, location, content, 1<<20)
		file := fileOf(location)
		files = append(files, sent{file, c.sendFile(sender, bob, file), content})
	}
	check := func(when string) {
		t.Helper()
		for _, f := range files {
			for who, token := range map[string]string{"ann": ann.Token, "bob": bob.Token} {
				got := w.try(token, "GET", "/files/"+f.file+f.at, nil)
				if got.err != nil || got.status != 200 || !bytes.Equal(got.body, f.content) {
					t.Errorf("%s %s gets %d, %d of %d bytes of %s (%v)", when, who, got.status, len(got.body), len(f.content), f.file, got.err)
				}
			}
		}
	}
	check("before the move")
	if _, err := c.verbs.DrainCell(c.Context(), &controlpb.DrainCellRequest{Cell: "c1"}); err != nil {
		t.Fatal(err)
	}
	c.Until("c1 has no ranges", func() error {
		if st := c.Range(ann.ID.Range()); st.Cell != "c2" {
			moves, err := c.verbs.ListMoves(c.Context(), &controlpb.ListMovesRequest{})
			return fmt.Errorf("range %d is in %s: %v, %w", st.Range, st.Cell, moves.GetMoves(), err)
		}
		return nil
	})
	check("just moved")
	refused := false
	c.Until("c1 is removed", func() error {
		_, err := c.verbs.RemoveCell(c.Context(), &controlpb.RemoveCellRequest{Cell: "c1"})
		refused = refused || proto.CodeOf(controlclient.FromStatus(err)) == proto.CodeConflict
		return err
	})
	if !refused {
		t.Error("c1 was never refused to go")
	}
	check("with their first cell gone")
}
