package cellclient

import (
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// A peer may be of another release, or broken: what it leaves out must not
// become a nil pointer in a node that serves thousands. So answers are held
// against their questions where they come in, and those behind rely on it.

// CheckRead tells whether a leader's answer has all that question q promises:
// [proto.CodeUnavailable] if it has not, as if nothing had been answered.
func CheckRead(q *cellpb.LeadRead, r *cellpb.ReadResult) error {
	whole := r != nil
	switch q.GetBody().(type) {
	case *cellpb.LeadRead_Updates:
		whole = whole && wholeUpdates(r.Updates)
	case *cellpb.LeadRead_Events, *cellpb.LeadRead_Thread:
		whole = whole && wholeEvents(r.Events)
	case *cellpb.LeadRead_Threads, *cellpb.LeadRead_ThreadRow:
		for _, t := range r.GetThreads() {
			whole = whole && t.Row != nil
		}
	case *cellpb.LeadRead_User:
		whole = whole && wholeUser(r.User)
	case *cellpb.LeadRead_ChannelHeads:
		for _, head := range r.GetChannelHeads() {
			whole = whole && head.First > 0 && head.Last >= head.First
		}
	case *cellpb.LeadRead_Cards:
		whole = whole && r.Cards != nil
	case *cellpb.LeadRead_Files:
		whole = whole && wholeFiles(r.Files)
	case *cellpb.LeadRead_Live:
		whole = whole && r.Live != nil
	case *cellpb.LeadRead_Members:
		whole = whole && r.Members != nil
	}
	return malformedUnless(whole)
}

// CheckApplied tells the same of what applying a batch gave.
func CheckApplied(a *cellpb.Applied) error {
	return malformedUnless(a != nil && wholeUpdates(a.Updates))
}

// checkReply tells the same of another range's host.
func checkReply(req *cellpb.RelayRequest, reply *cellpb.RelayReply) error {
	if reply.GetRefused() != nil {
		return malformedUnless(reply.GetRefused().Code != 0)
	}
	switch req.GetBody().(type) {
	case *cellpb.RelayRequest_ReadEvents, *cellpb.RelayRequest_ReadThread:
		return malformedUnless(wholeEvents(reply.GetEvents()))
	case *cellpb.RelayRequest_ReadUser:
		return malformedUnless(wholeUser(reply.GetUser()))
	case *cellpb.RelayRequest_ReadCards:
		return malformedUnless(reply.GetCards() != nil)
	case *cellpb.RelayRequest_ReadFiles:
		return malformedUnless(wholeFiles(reply.GetFiles()))
	case *cellpb.RelayRequest_ReadLive:
		return malformedUnless(reply.GetLive() != nil)
	case *cellpb.RelayRequest_ReadMembers:
		return malformedUnless(reply.GetMembers() != nil)
	case *cellpb.RelayRequest_CreateLive, *cellpb.RelayRequest_ReportLive, *cellpb.RelayRequest_RemoveLive:
		return malformedUnless(reply.GetResult() != nil && (reply.GetResult().Code != 0 || reply.GetResult().Live != nil))
	case *cellpb.RelayRequest_CreateFile, *cellpb.RelayRequest_ReserveFile, *cellpb.RelayRequest_CompleteFile, *cellpb.RelayRequest_RemoveFile,
		*cellpb.RelayRequest_PlaceFile:
		return malformedUnless(reply.GetResult() != nil && (reply.GetResult().Code != 0 || reply.GetResult().File != nil))
	}
	return malformedUnless(reply.GetResult() != nil)
}

func malformedUnless(whole bool) error {
	if whole {
		return nil
	}
	return proto.Errorf(proto.CodeUnavailable, "the answer lacks what was asked for: is the node of another release?")
}

func wholeUpdates(updates []*cellpb.LoggedUpdate) bool {
	for _, up := range updates {
		if up.Update == nil {
			return false
		}
	}
	return true
}

func wholeEvents(e *cellpb.Events) bool { return e != nil && len(e.Events) == len(e.Refs) }

func wholeUser(u *cellpb.UserInfo) bool {
	if u == nil || u.Profile == nil {
		return false
	}
	for _, d := range u.Devices {
		if d.Row == nil {
			return false
		}
	}
	return true
}

func wholeFiles(f *cellpb.Files) bool {
	if f == nil || f.Usage == nil {
		return false
	}
	for _, row := range f.Files {
		if row.File == nil && row.Upload == nil {
			return false
		}
	}
	return true
}
