package chat

import (
	"cmp"
	"context"
	"errors"
	"sync"

	"google.golang.org/grpc"

	"github.com/waggle-im/waggle/internal/outqueue"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	"github.com/waggle-im/waggle/proto/codec"
)

// relayReplies bounds the answers waiting for one node that relays to us, and
// relayReplyBatch those of one write.
const (
	relayReplies    = 16384
	relayReplyBatch = 512
)

// Relay implements [cellclient.LocalHosts]: a request for a range that may be
// hosted here.
func (s *Service) Relay(req *cellpb.RelayRequest, done func(*cellpb.RelayReply)) {
	r := proto.RangeID(req.Range)
	sh := s.shard(r)
	sh.post(func() { s.relayed(sh, req, done) })
}

// RelayStream implements the RPC's body: requests of one other node.
func (s *Service) RelayStream(stream grpc.BidiStreamingServer[cellpb.RelayBatch, cellpb.RelayReplyBatch]) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	q := outqueue.New[*cellpb.RelayReply](outqueue.Limits{Size: relayReplies, BatchItems: relayReplyBatch, BatchSize: relayReplyBatch})
	answer := func(reply *cellpb.RelayReply) {
		if !q.Put(reply, 1) {
			cancel(errors.New("chat: answers are not read"))
		}
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	wg.Go(func() {
		cancel(q.Drain(ctx, func(replies []*cellpb.RelayReply) error {
			return stream.Send(&cellpb.RelayReplyBatch{Replies: replies})
		}))
	})
	received := make(chan error, 1)
	go func() { // ends with the stream, which ends when this handler returns
		for {
			batch, err := stream.Recv()
			if err != nil {
				received <- err
				return
			}
			s.relayBatch(batch.Requests, answer)
		}
	}()
	select {
	case err := <-received:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *Service) relayBatch(requests []*cellpb.RelayRequest, answer func(*cellpb.RelayReply)) {
	var parts [shards][]*cellpb.RelayRequest
	for _, req := range requests {
		i := req.Range % shards
		parts[i] = append(parts[i], req)
	}
	for i, list := range parts {
		if len(list) == 0 {
			continue
		}
		sh := s.shards[i]
		sh.postWaiting(func() {
			for _, req := range list {
				s.relayed(sh, req, answer)
			}
		})
	}
}

// relayed serves one request on the range's shard.
func (s *Service) relayed(sh *shard, req *cellpb.RelayRequest, done func(*cellpb.RelayReply)) {
	id := req.Id
	refuse := func(err *proto.Error, route *cellpb.Route) {
		done(&cellpb.RelayReply{Id: id, Body: &cellpb.RelayReply_Refused{Refused: &cellpb.Refused{
			Code: uint32(err.Code), Message: err.Message, RetryMs: err.RetryMillis(), Route: route,
		}}})
	}
	h := sh.hosts[proto.RangeID(req.Range)]
	if h == nil {
		refuse(proto.Errorf(proto.CodeNotHost, "range %d is not hosted by %s", req.Range, s.cfg.Self), s.guess(req.Range))
		return
	}
	if req.Epoch != 0 && req.Epoch != h.descriptor.GetEpoch() {
		refuse(proto.Errorf(proto.CodeStaleEpoch, "range %d is at epoch %d", req.Range, h.descriptor.GetEpoch()), h.route())
		return
	}
	result := func(r *cellpb.Result, err *proto.Error) {
		if err != nil {
			refuse(err, nil)
			return
		}
		done(&cellpb.RelayReply{Id: id, Body: &cellpb.RelayReply_Result{Result: r}})
	}
	read := func(q *cellpb.LeadRead) {
		h.read(q, func(r *cellpb.ReadResult, err *proto.Error) {
			if err != nil {
				refuse(err, nil)
				return
			}
			done(readReply(id, r))
		})
	}
	switch body := req.Body.(type) {
	case *cellpb.RelayRequest_Append:
		h.propose(&cellpb.Command{Body: &cellpb.Command_AppendMessage{AppendMessage: body.Append}}, appendBytes(body.Append), result)
	case *cellpb.RelayRequest_ChannelRows:
		h.takeRows(body.ChannelRows, result)
	case *cellpb.RelayRequest_ReadEvents:
		read(&cellpb.LeadRead{Body: &cellpb.LeadRead_Events{Events: body.ReadEvents}})
	case *cellpb.RelayRequest_ReadThread:
		read(&cellpb.LeadRead{Body: &cellpb.LeadRead_Thread{Thread: body.ReadThread}})
	case *cellpb.RelayRequest_Signals:
		h.takeSignals(body.Signals)
		result(&cellpb.Result{}, nil)
	case *cellpb.RelayRequest_ReadUser:
		read(&cellpb.LeadRead{Body: &cellpb.LeadRead_User{User: body.ReadUser}})
	case *cellpb.RelayRequest_ChangeContact:
		h.proposeContact(body.ChangeContact, result)
	case *cellpb.RelayRequest_ReadCards:
		read(&cellpb.LeadRead{Body: &cellpb.LeadRead_Cards{Cards: body.ReadCards}})
	case *cellpb.RelayRequest_CloseSessions:
		h.closeSessions(body.CloseSessions, result)
	case *cellpb.RelayRequest_ReadFiles:
		read(&cellpb.LeadRead{Body: &cellpb.LeadRead_Files{Files: body.ReadFiles}})
	case *cellpb.RelayRequest_ReadLive:
		read(&cellpb.LeadRead{Body: &cellpb.LeadRead_Live{Live: body.ReadLive}})
	case *cellpb.RelayRequest_ReadMembers:
		read(&cellpb.LeadRead{Body: &cellpb.LeadRead_Members{Members: body.ReadMembers}})
	case *cellpb.RelayRequest_LiveTold:
		h.tellLive(body.LiveTold, result)
	case *cellpb.RelayRequest_PostMessage:
		h.post(body.PostMessage, result)
	default:
		if c := cmp.Or(fileCommand(req), liveCommand(req)); c != nil {
			h.propose(c, codec.Size(c), result)
			return
		}
		h.account(req, result)
	}
}

// readReply is what was read as the answer to another host.
func readReply(id uint64, r *cellpb.ReadResult) *cellpb.RelayReply {
	out := &cellpb.RelayReply{Id: id}
	switch {
	case r.User != nil:
		out.Body = &cellpb.RelayReply_User{User: r.User}
	case r.Files != nil:
		out.Body = &cellpb.RelayReply_Files{Files: r.Files}
	case r.Live != nil:
		out.Body = &cellpb.RelayReply_Live{Live: r.Live}
	case r.Members != nil:
		out.Body = &cellpb.RelayReply_Members{Members: r.Members}
	case r.Cards != nil:
		out.Body = &cellpb.RelayReply_Cards{Cards: r.Cards}
	default:
		out.Body = &cellpb.RelayReply_Events{Events: r.Events}
	}
	return out
}

// takeRows proposes rows of a channel to this range. The events that ride
// along are kept for pushing and not proposed: the log refers to them.
func (h *host) takeRows(c *cellpb.ChannelRows, done func(*cellpb.Result, *proto.Error)) {
	var keys []bodyKey
	size := 0
	lean := &cellpb.ChannelRows{Source: c.Source, Incarnation: c.Incarnation, Rows: make([]*cellpb.ChannelRow, len(c.Rows))}
	for i, row := range c.Rows {
		lean.Rows[i] = &cellpb.ChannelRow{Dest: row.Dest, Number: row.Number, Body: row.Body}
		size += 40 + codec.Size(lean.Rows[i])
		if msg := row.GetMessage(); msg != nil && row.Event != nil {
			k := bodyKey{msg.Thread, msg.Seq}
			h.bodies[k] = row.Event
			keys = append(keys, k)
		}
	}
	h.propose(&cellpb.Command{Body: &cellpb.Command_TakeChannelRows{TakeChannelRows: lean}}, size, func(r *cellpb.Result, err *proto.Error) {
		done(r, err)
		// Updates are pushed right after the results, see applied.
		h.shard.post(func() {
			for _, k := range keys {
				delete(h.bodies, k)
			}
		})
	})
}

// account serves what the control plane asks of a user's range.
func (h *host) account(req *cellpb.RelayRequest, done func(*cellpb.Result, *proto.Error)) {
	command := new(cellpb.Command)
	then := func(*cellpb.Result) {}
	switch body := req.Body.(type) {
	case *cellpb.RelayRequest_CreateUser:
		command.Body = &cellpb.Command_CreateUser{CreateUser: body.CreateUser}
	case *cellpb.RelayRequest_LoginDevice:
		c := body.LoginDevice
		command.Body = &cellpb.Command_LoginDevice{LoginDevice: c}
		then = func(r *cellpb.Result) { h.loggedIn(c, r) }
	case *cellpb.RelayRequest_LogoutDevice:
		c := body.LogoutDevice
		command.Body = &cellpb.Command_LogoutDevice{LogoutDevice: c}
		then = func(*cellpb.Result) {
			h.endDevice(proto.EntityID(c.User), c.Device, c.SessionNumber+1, proto.CodeLoggedOut, "this device was logged out")
		}
	case *cellpb.RelayRequest_RaiseAuthority:
		c := body.RaiseAuthority
		command.Body = &cellpb.Command_RaiseAuthority{RaiseAuthority: c}
		then = func(r *cellpb.Result) { h.endAuthority(proto.EntityID(c.User), r.AuthorityVersion) }
	case *cellpb.RelayRequest_RefreshDevice:
		c := body.RefreshDevice
		command.Body = &cellpb.Command_RefreshDevice{RefreshDevice: c}
		then = func(r *cellpb.Result) {
			if r.Ended {
				h.endDevice(proto.EntityID(c.User), c.Device, r.SessionNumber+1, proto.CodeSessionEnded, "a refresh token of this device was used twice: log in again")
			}
		}
	default:
		done(nil, proto.Errorf(proto.CodeUnsupported, "a request this release does not know"))
		return
	}
	h.propose(command, 200, func(r *cellpb.Result, err *proto.Error) {
		if err == nil && r.Code == 0 {
			then(r)
		}
		done(r, err)
	})
}
