package chat

import (
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
	"github.com/waggle-im/waggle/proto/codec"
)

// encode marshals a frame we have built ourselves.
func encode(f *clientpb.ServerFrame) []byte {
	raw, err := codec.Marshal(f)
	if err != nil {
		panic("chat: a frame of ours cannot be encoded: " + err.Error())
	}
	return raw
}

func errorFrame(id uint64, err *proto.Error) []byte {
	return encode(&clientpb.ServerFrame{Id: id, Body: &clientpb.ServerFrame_Error{Error: &clientpb.Error{
		Code: uint32(err.Code), Message: err.Message, RetryMs: err.RetryMillis(),
	}}})
}

// wireEvent is an event as clients see it; one without body if e is nil.
func wireEvent(thread string, seq uint64, e *cellpb.StoredEvent) *clientpb.Event {
	if e == nil {
		return &clientpb.Event{Thread: thread, Seq: seq, BodyMissing: true}
	}
	out := &clientpb.Event{
		Thread: thread, Seq: seq, From: e.From, TimeMs: e.TimeMs, ClientMsgId: e.ClientMsgId,
		Messages: e.Messages, FromName: e.FromName,
	}
	switch body := e.Body.(type) {
	case *cellpb.StoredEvent_Text:
		out.Body = &clientpb.Event_Text{Text: &clientpb.TextMessage{Text: body.Text.GetText()}}
	case *cellpb.StoredEvent_Location:
		out.Body = &clientpb.Event_Location{Location: body.Location}
	case *cellpb.StoredEvent_Card:
		out.Body = &clientpb.Event_Card{Card: body.Card}
	case *cellpb.StoredEvent_File:
		out.Body = &clientpb.Event_File{File: body.File}
	case *cellpb.StoredEvent_Live:
		out.Body = &clientpb.Event_Live{Live: body.Live}
	}
	return out
}

func wireEvents(events *cellpb.Events) []*clientpb.Event {
	out := make([]*clientpb.Event, len(events.GetEvents()))
	for i, e := range events.GetEvents() {
		out[i] = wireEvent(events.Refs[i].Thread, events.Refs[i].Seq, e)
	}
	return out
}
