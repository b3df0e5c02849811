package operator

import (
	"context"
	"errors"
	"io"
	"runtime"
	"time"

	"google.golang.org/grpc"

	"github.com/waggle-im/waggle/controlplane/accounts"
	"github.com/waggle-im/waggle/controlplane/login"
	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

const (
	// addsAtOnce bounds the accounts of one stream under way: each waits for
	// four syncs of disks, which it shares with the others.
	addsAtOnce = 256
	// addTimeout bounds one account, waiting for ranges to be opened
	// included.
	addTimeout = 30 * time.Second
)

// AddAccounts makes accounts as they come and answers in the order asked. One
// that is refused has its code in its answer and does not end the stream.
func (s *Service) AddAccounts(stream grpc.BidiStreamingServer[controlpb.AddAccountRequest, controlpb.AddAccountReply]) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	// Hashes of one stream leave room in the queue for people who log in.
	hashing := make(chan struct{}, 4*runtime.GOMAXPROCS(0))
	order := make(chan chan *controlpb.AddAccountReply, addsAtOnce)
	received := make(chan error, 1)
	go func() {
		defer close(order)
		for {
			req, err := stream.Recv()
			if err != nil {
				received <- err
				return
			}
			answer := make(chan *controlpb.AddAccountReply, 1)
			select {
			case order <- answer:
			case <-ctx.Done():
				received <- ctx.Err()
				return
			}
			go func() { answer <- s.addAccount(ctx, req, hashing) }()
		}
	}()
	var failed error
	for answer := range order {
		reply := <-answer // every account started is waited for
		if failed == nil {
			if failed = stream.Send(reply); failed != nil {
				cancel()
			}
		}
	}
	if err := <-received; failed == nil && !errors.Is(err, io.EOF) {
		failed = err
	}
	return failed
}

func (s *Service) addAccount(ctx context.Context, req *controlpb.AddAccountRequest, hashing chan struct{}) *controlpb.AddAccountReply {
	reply := &controlpb.AddAccountReply{Name: req.Name}
	if req.Password != "" {
		select {
		case hashing <- struct{}{}:
			defer func() { <-hashing }()
		case <-ctx.Done():
			return refuse(reply, ctx.Err())
		}
	}
	var a *accounts.Account
	err := retryLater(ctx, addTimeout, func(ctx context.Context) (err error) {
		a, err = s.Registrar.Register(ctx, accounts.Registration{
			Name: req.Name, Email: req.Email, Password: req.Password, Cell: proto.CellID(req.Cell),
		})
		return err
	})
	if err != nil {
		return refuse(reply, err)
	}
	reply.User, reply.Name = uint64(a.User), a.Name
	if !req.WithToken {
		return reply
	}
	var session *login.Session
	err = retryLater(ctx, addTimeout, func(ctx context.Context) (err error) {
		session, err = s.Issuer.Issue(ctx, login.Request{User: a.User, Platform: "operator", Nonce: a.Key[:]})
		return err
	})
	if err != nil {
		return refuse(reply, err)
	}
	reply.Token, reply.RefreshToken, reply.Device = session.Token, session.RefreshToken, session.Device
	return reply
}

func refuse(reply *controlpb.AddAccountReply, err error) *controlpb.AddAccountReply {
	e := proto.AsError(err)
	reply.Code, reply.Message = uint32(e.Code), e.Error()
	return reply
}
