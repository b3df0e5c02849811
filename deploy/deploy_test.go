// Package deploy_test checks the sample configuration of deploy/systemd: that
// it is accepted, that the files of the three machines fit together, and that
// the units name files that exist among the samples.
package deploy_test

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/etcd/server/v3/embed"

	"github.com/waggle-im/waggle/internal/config"
	"github.com/waggle-im/waggle/internal/daemon"
)

const machines = 3

func sample(machine int, name string) string {
	return filepath.Join("systemd", "three-machines", fmt.Sprintf("m%d", machine), name+".yaml")
}

func load(t *testing.T, machine int, role string) daemon.Config {
	t.Helper()
	c, err := config.Load(config.Sources{Role: role, File: sample(machine, role)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var roles = []string{daemon.RoleControlPlane, daemon.RoleCell, daemon.RoleEdge}

// Every sample is accepted, and no two nodes share what must be a node's own.
func TestSamplesAreAcceptedAndDistinct(t *testing.T) {
	names, addrs := map[string]string{}, map[string]string{}
	for m := 1; m <= machines; m++ {
		onMachine := map[string]string{} // admin addresses and folders
		for _, role := range roles {
			file := sample(m, role)
			c := load(t, m, role)
			for _, own := range []struct {
				in    map[string]string
				what  string
				value string
			}{
				{names, "node", c.Node}, {addrs, "listen", c.Listen},
				{onMachine, "admin", c.Admin}, {onMachine, "data_dir", c.DataDir},
			} {
				if other, taken := own.in[own.value]; taken {
					t.Errorf("%s: %s %s is that of %s", file, own.what, own.value, other)
				}
				own.in[own.value] = file
			}
			if host, _, _ := net.SplitHostPort(c.Admin); host != "127.0.0.1" {
				t.Errorf("%s: the admin address %s is not on loopback", file, c.Admin)
			}
			// Others call the node by its listen address unless told another.
			if host, _, _ := net.SplitHostPort(c.Listen); c.Advertise == "" && net.ParseIP(host).IsUnspecified() {
				t.Errorf("%s: nobody can call %s", file, c.Listen)
			}
			if want := "/var/lib/waggle/" + role; c.DataDir != want {
				t.Errorf("%s: data_dir is %s, the unit makes %s", file, c.DataDir, want)
			}
			if c.Mode != "production" {
				t.Errorf("%s: mode is %q", file, c.Mode)
			}
		}
	}
}

// A cell of three replicas needs three nodes; edges say where they are.
func TestSamplesFitTogether(t *testing.T) {
	cells := map[string]int{}
	var databases []string
	for m := 1; m <= machines; m++ {
		cells[load(t, m, daemon.RoleCell).Cell.Name]++
		cp := load(t, m, daemon.RoleControlPlane).ControlPlane
		if !slices.Equal(cp.Cells, []string{"c1"}) || cp.Replicas != machines {
			t.Errorf("machine %d: cells %v with %d replicas", m, cp.Cells, cp.Replicas)
		}
		if !strings.HasPrefix(cp.Database, "mysql://") {
			t.Errorf("machine %d: database %q is not shared by the control planes", m, cp.Database)
		}
		databases = append(databases, cp.Database)
		if load(t, m, daemon.RoleEdge).Edge.Advertise == "" {
			t.Errorf("machine %d: the edge listens everywhere and says nowhere", m)
		}
	}
	if cells["c1"] != machines || len(cells) != 1 {
		t.Errorf("nodes per cell: %v", cells)
	}
	if len(slices.Compact(databases)) != 1 {
		t.Errorf("databases differ: %v", databases)
	}
}

// etcd's own samples are accepted by etcd, and every node knows all members.
func TestEtcdSamplesFit(t *testing.T) {
	var clients []string
	for m := 1; m <= machines; m++ {
		c, err := embed.ConfigFromFile(sample(m, "etcd"))
		if err != nil {
			t.Fatal(err)
		}
		if !c.ClientTLSInfo.ClientCertAuth || !c.PeerTLSInfo.ClientCertAuth {
			t.Errorf("etcd of machine %d takes strangers", m)
		}
		if c.AutoCompactionRetention == "0" || c.AutoCompactionRetention == "" {
			t.Errorf("etcd of machine %d keeps its whole history", m)
		}
		for _, u := range c.AdvertiseClientUrls {
			clients = append(clients, u.String())
		}
		for _, peer := range c.AdvertisePeerUrls {
			if member := c.Name + "=" + peer.String(); !slices.Contains(strings.Split(c.InitialCluster, ","), member) {
				t.Errorf("machine %d: %s is not in initial-cluster %s", m, member, c.InitialCluster)
			}
		}
	}
	for m := 1; m <= machines; m++ {
		for _, role := range roles {
			e := load(t, m, role).Etcd
			if !slices.Equal(e.Endpoints, clients) {
				t.Errorf("%s: endpoints %v, etcd has %v", sample(m, role), e.Endpoints, clients)
			}
			for _, endpoint := range e.Endpoints {
				if u, err := url.Parse(endpoint); err != nil || u.Scheme != "https" || e.CA == "" || e.Cert == "" {
					t.Errorf("%s: etcd at %s is reached without TLS", sample(m, role), endpoint)
				}
			}
		}
	}
}

// A unit starts its role with the file of that role, drains it and hardens it.
func TestUnits(t *testing.T) {
	for _, role := range roles {
		file := filepath.Join("systemd", "waggle-"+role+".service")
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(raw), "\n")
		for _, want := range []string{
			"ExecStart=/usr/local/bin/waggle start " + role + " --config /etc/waggle/" + role + ".yaml",
			"StateDirectory=waggle/" + role, "User=waggle", "KillSignal=SIGTERM", "TimeoutStopSec=20s", "Restart=always",
			"NoNewPrivileges=yes", "ProtectSystem=strict",
		} {
			if !slices.Contains(lines, want) {
				t.Errorf("%s: %s is missing", file, want)
			}
		}
		if !strings.Contains(string(raw), "\nLimitNOFILE=") {
			t.Errorf("%s: LimitNOFILE is missing", file)
		}
	}
}
