// Package controlclient is what every node knows of the cluster: cells, nodes,
// routes and token keys, as the control plane and the nodes themselves write
// them into etcd. A [Client] keeps them in memory as immutable [View]s, follows
// every change, keeps a copy on disk, and announces its own node.
//
// Nothing here waits for etcd: with etcd down a node starts from the copy on
// disk and goes on with the last it heard. A node whose lease has vanished is
// marked gone, but its address stays: only when somebody calls it and nobody
// answers does it turn out dead.
//
// The keys in etcd are in schema.go; the values are the records of
// proto/control. [ToStatus] and [FromStatus] carry errors of the registry over
// gRPC calls of the control plane, and [Accounts] calls whichever control
// plane answers.
package controlclient
