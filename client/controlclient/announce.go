package controlclient

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	waggle "github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

// announce keeps this node's records in etcd until ctx ends, then takes the
// lease back so that others need not wait for it to lapse.
func (c *Client) announce(ctx context.Context) {
	wait := retryMin
	for ctx.Err() == nil {
		began := time.Now()
		err := c.holdLease(ctx)
		if ctx.Err() != nil {
			return
		}
		c.log.Debug("announcing this node was interrupted", "err", err)
		if time.Since(began) > LeaseTTL {
			wait = retryMin
		}
		if !sleep(ctx, wait) {
			return
		}
		wait = min(2*wait, retryMax)
	}
}

// holdLease announces this node under a new lease and keeps its load current
// until the lease is lost or ctx ends.
func (c *Client) holdLease(ctx context.Context) error {
	grantCtx, cancel := context.WithTimeout(ctx, requestTimeout)
	lease, err := c.etcd.Grant(grantCtx, int64(LeaseTTL/time.Second))
	cancel()
	if err != nil {
		return err
	}
	defer c.revoke(lease.ID)
	// The keep-alive ends by itself when this does.
	aliveCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	alive, err := c.etcd.KeepAlive(aliveCtx, lease.ID)
	if err != nil {
		return err
	}
	load := c.load()
	if err := c.putSelf(ctx, lease.ID, load, true); err != nil {
		return err
	}
	tick := time.NewTicker(LoadInterval)
	defer tick.Stop()
	for {
		select {
		case _, ok := <-alive:
			if !ok {
				return errors.New("controlclient: the lease was lost")
			}
		case <-tick.C:
			newer := c.load()
			// What this node has seen is told at once to whoever places ranges.
			if proto.Equal(newer, load) && !c.View().WentBack() {
				continue
			}
			if err := c.putSelf(ctx, lease.ID, newer, false); err != nil {
				return err
			}
			load = newer
		case <-c.said:
			load = c.load()
			if err := c.putSelf(ctx, lease.ID, load, false); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// SetLeaving has the others told, at once, that nobody is to be sent to this
// node, or that this is over.
func (c *Client) SetLeaving(leaving bool) {
	c.leaving.Store(leaving)
	select {
	case c.said <- struct{}{}:
	default:
	}
}

func (c *Client) load() *controlpb.Load {
	if c.config.Load == nil {
		return nil
	}
	return c.config.Load()
}

// putSelf writes the record under the lease, and the lasting one with it
// when both is set.
func (c *Client) putSelf(ctx context.Context, lease clientv3.LeaseID, load *controlpb.Load, both bool) error {
	rec := proto.CloneOf(c.config.Self)
	rec.Load = nil
	lasting, err := proto.Marshal(rec)
	if err != nil {
		return fmt.Errorf("controlclient: %w", err)
	}
	rec.Load, rec.Leaving = load, c.leaving.Load()
	v := c.View()
	rec.SeenRevision, rec.Reconciled = v.SeenRevision, v.SeenReconciled
	leased, err := proto.Marshal(rec)
	if err != nil {
		return fmt.Errorf("controlclient: %w", err)
	}
	id := waggle.NodeID(rec.Node)
	ops := []clientv3.Op{clientv3.OpPut(AliveKey(id), string(leased), clientv3.WithLease(lease))}
	if both {
		ops = append(ops, clientv3.OpPut(NodeKey(id), string(lasting)))
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, err = c.etcd.Txn(ctx).Then(ops...).Commit()
	return err
}

// revoke gives the lease back; it runs when the context has already ended.
func (c *Client) revoke(lease clientv3.LeaseID) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, _ = c.etcd.Revoke(ctx, lease) // etcd away: it lapses by itself
}
