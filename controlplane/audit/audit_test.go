package audit

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/internal/embedetcd"
	"github.com/waggle-im/waggle/internal/testservers"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

func TestMain(m *testing.M) {
	if code := m.Run(); code != 0 {
		os.Exit(code)
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// Lines are kept in the order of time, none over another, and the oldest go.
func TestAudit(t *testing.T) {
	s, err := embedetcd.Start(t.Context(), embedetcd.Config{Dir: t.TempDir(), ClientAddr: testservers.FreeAddr(t), PeerAddr: testservers.FreeAddr(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	etcd, err := clientv3.New(clientv3.Config{Endpoints: []string{s.Endpoint()}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = etcd.Close() })
	const n = 30
	for i := range n {
		var failure error
		if i == n-1 {
			failure = errors.New("refused")
		}
		if err := Write(t.Context(), etcd, &controlpb.AuditRecord{Who: "ann", Verb: "cells drain", Arguments: fmt.Sprint(i)}, failure); err != nil {
			t.Fatal(err)
		}
	}
	read := func() (lines []*controlpb.AuditRecord) {
		t.Helper()
		got, err := etcd.Get(t.Context(), controlclient.AuditPrefix, clientv3.WithPrefix())
		if err != nil {
			t.Fatal(err)
		}
		for _, kv := range got.Kvs {
			line := &controlpb.AuditRecord{}
			if err := proto.Unmarshal(kv.Value, line); err != nil {
				t.Fatal(err)
			}
			lines = append(lines, line)
		}
		return lines
	}
	lines := read()
	if len(lines) != n || lines[0].Arguments != "0" || lines[n-1].Arguments != "29" || lines[n-1].Outcome != "refused" || lines[3].Outcome != "done" {
		t.Fatalf("%v", lines)
	}
	if newest, err := Read(t.Context(), etcd, 2); err != nil || len(newest) != 2 || newest[0].Arguments != "29" || newest[1].Arguments != "28" {
		t.Errorf("the newest two: %v %v", newest, err)
	}
	if err := Trim(t.Context(), etcd, n); err != nil || len(read()) != n {
		t.Errorf("%d lines left (%v)", len(read()), err)
	}
	if err := Trim(t.Context(), etcd, 10); err != nil {
		t.Fatal(err)
	}
	if lines = read(); len(lines) != 10 || lines[0].Arguments != "20" {
		t.Errorf("%v", lines)
	}
	if a, b := Key(time.UnixMilli(9), 0), Key(time.UnixMilli(10), 0); a >= b {
		t.Errorf("%s after %s", a, b)
	}
}
