package topology

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

// seat is the proof of being elected: a key whose revision every write names.
type seat struct {
	etcd     *clientv3.Client
	session  *concurrency.Session
	election *concurrency.Election
	stop     context.CancelFunc
}

// campaign waits until this control plane is elected or ctx ends.
func campaign(ctx context.Context, etcd *clientv3.Client, name string) (*seat, error) {
	grantCtx, cancel := context.WithTimeout(ctx, requestTimeout)
	lease, err := etcd.Grant(grantCtx, int64(seatTTL/time.Second))
	cancel()
	if err != nil {
		return nil, fmt.Errorf("topology: election: %w", err)
	}
	// The session outlives ctx for the moment it takes to resign.
	alive, stop := context.WithCancel(context.WithoutCancel(ctx))
	session, err := concurrency.NewSession(etcd, concurrency.WithLease(lease.ID), concurrency.WithContext(alive))
	if err != nil {
		stop()
		return nil, fmt.Errorf("topology: election: %w", err)
	}
	s := &seat{etcd: etcd, session: session, election: concurrency.NewElection(session, controlclient.ElectionPrefix), stop: stop}
	ctx, cancel = context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(session.Ctx(), cancel)() // a lost lease ends the waiting
	if err := s.election.Campaign(ctx, name); err != nil {
		s.leave()
		return nil, fmt.Errorf("topology: election: %w", err)
	}
	return s, nil
}

// leave gives the seat back, so that another need not wait for it to lapse.
func (s *seat) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.election.Resign(ctx)
	s.session.Orphan() // ends the keep-alive; Close would wait without a limit
	_, _ = s.etcd.Revoke(ctx, s.session.Lease())
	s.stop()
	<-s.session.Done()
}

// commit writes ops if this seat still stands and conds hold. So a control
// plane that was paused past its seat cannot write.
func (s *seat) commit(ctx context.Context, ops []clientv3.Op, conds ...clientv3.Cmp) (revision int64, err error) {
	conds = append(conds, clientv3.Compare(clientv3.CreateRevision(s.election.Key()), "=", s.election.Rev()))
	reply, err := s.etcd.Txn(ctx).If(conds...).Then(ops...).Commit()
	if err != nil {
		return 0, fmt.Errorf("topology: write: %w", err)
	}
	if !reply.Succeeded {
		return 0, errors.New("topology: write: somebody else changed it, or was elected")
	}
	return reply.Header.Revision, nil
}
