// Package audit keeps in etcd what operators have asked for, and what the
// elected control plane did by itself: who, which verb, with what, and what
// came of it. Lines are only added; beyond [LinesMax] the oldest go.
package audit

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/client/controlclient"
	waggle "github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

const (
	// LinesMax is how many lines are kept: 2 MB of etcd.
	LinesMax = 10_000
	// requestTimeout bounds one request to etcd.
	requestTimeout = 3 * time.Second
	// argumentsMax bounds what is kept of a line's free text, in bytes.
	argumentsMax = 512
)

// Key is the key of the nth line of a millisecond, so that keys are in the
// order of time.
func Key(at time.Time, n int) string {
	return fmt.Sprintf("%s%016x-%016x", controlclient.AuditPrefix, at.UnixMilli(), n)
}

// Write adds a line; failure is nil when what was asked for was done.
func Write(ctx context.Context, etcd *clientv3.Client, line *controlpb.AuditRecord, failure error) error {
	now := time.Now()
	line = proto.CloneOf(line)
	line.TimeMs, line.Outcome = now.UnixMilli(), "done"
	if failure != nil {
		line.Outcome = failure.Error()
	}
	line.Arguments, line.Outcome = cut(line.Arguments), cut(line.Outcome)
	value, err := proto.Marshal(line)
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	for n := 0; ; n++ {
		key := Key(now, n)
		reply, err := etcd.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).Then(clientv3.OpPut(key, string(value))).Commit()
		if err != nil {
			return waggle.Errorf(waggle.CodeUnavailable, "audit: etcd does not answer: %v", err)
		}
		if reply.Succeeded {
			return nil
		}
	}
}

func cut(s string) string { return s[:min(len(s), argumentsMax)] }

// Trim removes the oldest lines beyond most.
func Trim(ctx context.Context, etcd *clientv3.Client, most int64) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	count, err := etcd.Get(ctx, controlclient.AuditPrefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil || count.Count <= most {
		return err
	}
	// The first line to stay ends what goes.
	got, err := etcd.Get(ctx, controlclient.AuditPrefix, clientv3.WithPrefix(), clientv3.WithKeysOnly(), clientv3.WithLimit(count.Count-most+1))
	if err != nil {
		return err
	}
	stays := string(got.Kvs[len(got.Kvs)-1].Key)
	_, err = etcd.Delete(ctx, controlclient.AuditPrefix, clientv3.WithRange(stays))
	return err
}

// Read gives the newest lines, at most so many, the newest first.
func Read(ctx context.Context, etcd *clientv3.Client, limit int64) ([]*controlpb.AuditRecord, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	got, err := etcd.Get(ctx, controlclient.AuditPrefix, clientv3.WithPrefix(), clientv3.WithLimit(limit),
		clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend))
	if err != nil {
		return nil, waggle.Errorf(waggle.CodeUnavailable, "audit: etcd does not answer: %v", err)
	}
	out := make([]*controlpb.AuditRecord, 0, len(got.Kvs))
	for _, kv := range got.Kvs {
		rec := new(controlpb.AuditRecord)
		if err := proto.Unmarshal(kv.Value, rec); err != nil {
			return nil, fmt.Errorf("audit: %s: %w", kv.Key, err)
		}
		out = append(out, rec)
	}
	return out, nil
}
