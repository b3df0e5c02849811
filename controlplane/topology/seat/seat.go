// Package seat elects the one control plane that changes placement, and is the
// fence of what it writes: every write names the seat and fails once another
// is elected.
package seat

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/waggle-im/waggle/client/controlclient"
)

// seatTTL is how long after the elected one's last sign another is elected.
const seatTTL = 5 * time.Second

// requestTimeout bounds one request to etcd.
const requestTimeout = 3 * time.Second

// Seat is a candidate's key under a lease. The oldest key is the elected one's;
// its revision is the proof that every write names.
//
// concurrency.Election does the same, but when a candidate gives up it waits
// for etcd without a limit, which would delay the end of the process.
type Seat struct {
	etcd     *clientv3.Client
	session  *concurrency.Session
	key      string
	revision int64 // the key's creation
	stop     context.CancelFunc
}

// Campaign waits until this control plane is elected or ctx ends.
func Campaign(ctx context.Context, etcd *clientv3.Client, name string) (*Seat, error) {
	s, err := stand(ctx, etcd, name)
	if err != nil {
		return nil, fmt.Errorf("seat: election: %w", err)
	}
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	defer context.AfterFunc(s.session.Ctx(), cancel)() // a lost lease ends the waiting
	if err := s.wait(ctx); err != nil {
		s.Leave()
		return nil, fmt.Errorf("seat: election: %w", err)
	}
	return s, nil
}

// stand writes the candidate's key.
func stand(ctx context.Context, etcd *clientv3.Client, name string) (*Seat, error) {
	requestCtx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	lease, err := etcd.Grant(requestCtx, int64(seatTTL/time.Second))
	if err != nil {
		return nil, err
	}
	// The session outlives ctx for the moment it takes to leave.
	alive, stop := context.WithCancel(context.WithoutCancel(ctx))
	session, err := concurrency.NewSession(etcd, concurrency.WithLease(lease.ID), concurrency.WithContext(alive))
	if err != nil {
		stop()
		return nil, err
	}
	s := &Seat{etcd: etcd, session: session, key: fmt.Sprintf("%s/%x", controlclient.ElectionPrefix, lease.ID), stop: stop}
	reply, err := etcd.Put(requestCtx, s.key, name, clientv3.WithLease(lease.ID))
	if err != nil {
		s.Leave()
		return nil, err
	}
	s.revision = reply.Header.Revision
	return s, nil
}

// wait returns when no older candidate is left. It watches the youngest of
// the older ones only, so that one who leaves wakes one.
func (s *Seat) wait(ctx context.Context) error {
	for {
		requestCtx, cancel := context.WithTimeout(ctx, requestTimeout)
		got, err := s.etcd.Get(requestCtx, controlclient.ElectionPrefix+"/",
			append(clientv3.WithLastCreate(), clientv3.WithMaxCreateRev(s.revision-1))...)
		cancel()
		if err != nil {
			return err
		}
		if len(got.Kvs) == 0 {
			return ctx.Err()
		}
		if err := waitDeleted(ctx, s.etcd, string(got.Kvs[0].Key), got.Header.Revision+1); err != nil {
			return err
		}
	}
}

func waitDeleted(ctx context.Context, etcd *clientv3.Client, key string, revision int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for reply := range etcd.Watch(ctx, key, clientv3.WithRev(revision)) {
		if err := reply.Err(); err != nil {
			return err
		}
		for _, ev := range reply.Events {
			if ev.Type == clientv3.EventTypeDelete {
				return nil
			}
		}
	}
	return errors.New("the watch ended")
}

// Lost is closed when the seat's lease is known to have ended.
func (s *Seat) Lost() <-chan struct{} { return s.session.Done() }

// Leave gives the seat back, so that another need not wait for it to lapse.
func (s *Seat) Leave() {
	s.session.Orphan() // ends the keep-alive
	s.stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, _ = s.etcd.Revoke(ctx, s.session.Lease()) // etcd away: it lapses by itself
}

// Commit writes ops if this seat still stands, placement is not frozen and conds
// hold. So a control plane that was paused past its seat cannot write.
func (s *Seat) Commit(ctx context.Context, ops []clientv3.Op, conds ...clientv3.Cmp) (revision int64, err error) {
	conds = append(conds, clientv3.Compare(clientv3.CreateRevision(s.key), "=", s.revision),
		clientv3.Compare(clientv3.CreateRevision(controlclient.FrozenKey), "=", 0))
	reply, err := s.etcd.Txn(ctx).If(conds...).Then(ops...).Commit()
	if err != nil {
		return 0, fmt.Errorf("seat: write: %w", err)
	}
	if !reply.Succeeded {
		return 0, errors.New("seat: write: somebody else changed it, or was elected, or placement was frozen")
	}
	return reply.Header.Revision, nil
}
