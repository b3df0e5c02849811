// Package daemon runs one node of the cluster from its configuration: a
// control plane, a cell node, an edge, or the embedded etcd. `waggle start`
// runs one in a process of its own, `waggle dev` several in one process or in
// many; it is the same code.
package daemon
