package controlclient

import (
	"context"
	"errors"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// listPage is how many keys one listing request asks for: a page of ranges is
// about 2 MB.
const listPage = 10_000

// checkInterval is how often to ask whether etcd's revision went back. A watch
// opened before a restore waits silently for a revision that is far away.
const checkInterval = 10 * time.Second

// follow lists the prefix and watches it from that revision on, again and
// again, until ctx ends. A compaction that passed the watch, a lost etcd
// leader or a broken stream all end in a new listing.
func (c *Client) follow(ctx context.Context) {
	wait := retryMin
	for ctx.Err() == nil {
		revision, err := c.list(ctx)
		if err == nil {
			wait = retryMin
			err = c.watch(ctx, revision+1)
		}
		if ctx.Err() != nil {
			return
		}
		c.log.Debug("following etcd was interrupted", "err", err)
		if !sleep(ctx, wait) {
			return
		}
		wait = min(2*wait, retryMax)
	}
}

// list takes in all keys as of one revision and returns it.
func (c *Client) list(ctx context.Context) (int64, error) {
	var pairs []pair
	var revision int64
	key, end := Prefix, clientv3.GetPrefixRangeEnd(Prefix)
	for {
		opts := []clientv3.OpOption{clientv3.WithRange(end), clientv3.WithLimit(listPage)}
		if revision != 0 {
			opts = append(opts, clientv3.WithRev(revision))
		}
		reply, err := c.get(ctx, key, opts...)
		if err != nil {
			return 0, err
		}
		if revision == 0 {
			revision = reply.Header.Revision
		}
		for _, kv := range reply.Kvs {
			pairs = append(pairs, pair{Key: string(kv.Key), Value: kv.Value})
		}
		if !reply.More {
			break
		}
		key = string(reply.Kvs[len(reply.Kvs)-1].Key) + "\x00"
	}
	d := newDraft(c.View())
	for _, err := range d.relist(pairs) {
		c.log.Warn("a record in etcd is not understood", "err", err)
	}
	// An etcd restored from a backup counts lower: the listing decides.
	d.Revision = 0
	c.publish(d.finish(revision), true)
	c.mu.Lock()
	if !c.listed {
		c.listed = true
		close(c.synced)
	}
	c.mu.Unlock()
	return revision, nil
}

func (c *Client) get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return c.etcd.Get(ctx, key, opts...)
}

// watch takes in changes from revision on until the watch breaks. The watch
// asks to be told of a lost leader, so that a member cut off from the others
// is left for one that is not.
func (c *Client) watch(ctx context.Context, revision int64) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	events := c.etcd.Watch(ctx, Prefix, clientv3.WithPrefix(), clientv3.WithRev(revision))
	check := time.NewTicker(checkInterval)
	defer check.Stop()
	for {
		select {
		case reply, ok := <-events:
			if !ok {
				return errors.New("controlclient: the watch ended")
			}
			if err := reply.Err(); err != nil {
				return err
			}
			c.take(reply)
		case <-check.C:
			reply, err := c.get(ctx, NextRangeKey)
			if err == nil && reply.Header.Revision < c.View().Revision {
				return errors.New("controlclient: etcd went back, it was restored from a backup")
			}
		case <-ctx.Done():
			// The watch itself may not end: with etcd away its channel stays
			// open.
			return ctx.Err()
		}
	}
}

func (c *Client) take(reply clientv3.WatchResponse) {
	if len(reply.Events) == 0 {
		return
	}
	d := newDraft(c.View())
	for _, ev := range reply.Events {
		if ev.Type == clientv3.EventTypeDelete {
			d.remove(string(ev.Kv.Key))
		} else if err := d.put(string(ev.Kv.Key), ev.Kv.Value); err != nil {
			c.log.Warn("a record in etcd is not understood", "err", err)
		}
	}
	c.publish(d.finish(reply.Header.Revision), d.lasting)
}
