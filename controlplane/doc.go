// Package controlplane assembles the control plane: accounts in SQL, cells and
// ranges in etcd, logins, and the operator's verbs. Any number of replicas run;
// etcd elects the one that opens ranges. None of it is on the message path:
// with all of it down, connected people go on chatting.
//
//	edges ── Accounts ──► login ──► accounts (SQL)
//	                        └─────► the user's range (relay)
//	operators ─ Operator ─► operator ─► topology ─► etcd, storage nodes
package controlplane
