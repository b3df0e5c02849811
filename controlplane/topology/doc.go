// Package topology decides where ranges are: it registers cells, keeps
// [proto.OpenRangesPerCell] ranges open in each, and chooses the range of a new
// user. It never moves anything.
//
// Any number of control planes run; etcd elects the one whose [Keeper] changes
// placement, and every change it writes is conditional on its still being
// elected. A range is opened in steps that can be repeated by whoever is
// elected next: take the next range id and write the record (not created), make
// every replica, mark it created. Only then do new users land there.
//
//	absent ──record written──► planned ──replicas made──► created, open ──nearly full──► created, closed
//
// A [Chooser] works from what the control plane last heard, so that people can
// register while etcd is down.
package topology
