// Package storage is the storage role of a cell node: it holds replicas and,
// for the ranges its replicas lead, grants hosting to chat nodes and serves
// the hosts.
//
//	chat node ──Link (function call or Lead stream)──► Service ──► replica.Node ──► state.Machine
//	          ◄── Granted · Revoked · Applied · ReadResult ──
//
// A grant is named by (Raft term, number) and committed as an entry of the
// range's own log, so that a host which was asleep while another was granted
// fails where its entries are applied.
package storage
