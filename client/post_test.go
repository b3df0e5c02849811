package client

import (
	"errors"
	"strings"
	"testing"

	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// A batch is posted all or none.
func TestPostAllOrNone(t *testing.T) {
	c, err := New(Config{Server: "127.0.0.1:1", Token: "t", Device: "d", OutboxMax: 5})
	if err != nil {
		t.Fatal(err)
	}
	if list, err := c.PostAll("d/1/2", []string{"a", "b", "c"}); err != nil || len(list) != 3 || c.Unacknowledged() != 3 {
		t.Fatalf("%d posted, %d in the outbox, %v", len(list), c.Unacknowledged(), err)
	}
	for i, text := range []string{"a", "b", "c"} {
		if got := c.outbox[i].body.GetText().GetText(); got != text {
			t.Errorf("number %d is %q", i, got)
		}
	}
	if _, err := c.PostAll("d/1/2", []string{"d", "e", "f"}); !errors.Is(err, ErrOutboxFull) {
		t.Errorf("one too many: %v", err)
	}
	if _, err := c.PostAll("d/1/2", []string{"d", "\xff"}); proto.CodeOf(err) != proto.CodeBadRequest {
		t.Errorf("one that cannot be sent: %v", err)
	}
	for _, m := range []*clientpb.SendMessage{
		{Thread: "d/1/2"},
		{Thread: "d/1/2", Text: &clientpb.TextMessage{Text: "a"}, Location: new(clientpb.Location)},
		LocationMessage("d/1/2", &clientpb.Location{Name: strings.Repeat("x", proto.PlaceNameBytesMax+1)}),
	} {
		if _, err := c.PostBody(m); err == nil {
			t.Errorf("posted %v", m)
		}
	}
	if n := c.Unacknowledged(); n != 3 {
		t.Errorf("%d in the outbox after what was refused", n)
	}
}

func TestStateOf(t *testing.T) {
	for seq, want := range map[proto.Seq]string{3: "read", 4: "delivered", 5: "delivered", 6: "sent"} {
		if got := StateOf(seq, 5, 3).String(); got != want {
			t.Errorf("message %d is %s, want %s", seq, got, want)
		}
	}
}
