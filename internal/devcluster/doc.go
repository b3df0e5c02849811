// Package devcluster runs a whole cluster on one machine: embedded etcd,
// control plane, cells, edges. In one process the nodes are goroutines; with
// Options.Procs each is a process of its own under a supervisor. Either way a
// node runs from the configuration it would have in production.
//
// The data directory keeps what must not change between starts:
//
//	cluster.json          the shape, and every node's ports
//	ca.pem                the authority of the client port, for clients
//	ca/ etcd-ca/ certs/   authorities and certificates
//	accounts.db           accounts
//	NODE/                 a node's data; NODE.yaml its configuration (processes)
//	logs/                 what processes write
package devcluster
