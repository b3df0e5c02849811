package embedetcd

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/waggle-im/waggle/internal/testservers"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

func start(t *testing.T, c Config) *Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	began := time.Now()
	s, err := Start(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("ready after %v", time.Since(began))
	return s
}

func client(t *testing.T, s *Server) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{s.Endpoint()}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestDataSurvivesRestart(t *testing.T) {
	conf := Config{Dir: t.TempDir(), ClientAddr: testservers.FreeAddr(t), PeerAddr: testservers.FreeAddr(t)}
	s := start(t, conf)
	if _, err := client(t, s).Put(t.Context(), "k", "v"); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = start(t, conf)
	defer s.Close()
	got, err := client(t, s).Get(t.Context(), "k")
	if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "v" {
		t.Errorf("after restart: %v, %v", got, err)
	}
}

func TestSecondStartIsRefused(t *testing.T) {
	conf := Config{Dir: t.TempDir(), ClientAddr: testservers.FreeAddr(t), PeerAddr: testservers.FreeAddr(t)}
	s := start(t, conf)
	defer s.Close()
	second := Config{Dir: conf.Dir, ClientAddr: testservers.FreeAddr(t), PeerAddr: testservers.FreeAddr(t)}
	if _, err := Start(t.Context(), second); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("the same folder twice: %v", err)
	}
	taken := Config{Dir: t.TempDir(), ClientAddr: conf.ClientAddr, PeerAddr: testservers.FreeAddr(t)}
	if _, err := Start(t.Context(), taken); err == nil || !strings.Contains(err.Error(), conf.ClientAddr) {
		t.Errorf("the same address twice: %v", err)
	}
}

func TestValidate(t *testing.T) {
	good := Config{Dir: "d", ClientAddr: "127.0.0.1:1", PeerAddr: "[::1]:2"}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for i, bad := range []Config{
		{},
		{Dir: "d", ClientAddr: "127.0.0.1:0", PeerAddr: "127.0.0.1:2"},
		{Dir: "d", ClientAddr: "0.0.0.0:1", PeerAddr: "127.0.0.1:2"},
		{Dir: "d", ClientAddr: "127.0.0.1:1", PeerAddr: "127.0.0.1:2", CertFile: "c"},
	} {
		if bad.Validate() == nil {
			t.Error(fmt.Sprint("case ", i, " was accepted"))
		}
	}
}
