package controlclient

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/waggle-im/waggle/proto"
)

// The keys in etcd. Their layout is shared by all releases: only add to it.
//
//	/waggle/v1/cells/<cell>     CellRecord   written by the control plane
//	/waggle/v1/nodes/<node>     NodeRecord   written by the node, stays
//	/waggle/v1/alive/<node>     NodeRecord   with load, under the node's lease
//	/waggle/v1/ranges/<range>   RangeRecord  id as 16 hex digits, so sorted
//	/waggle/v1/keys/<kid>       KeyRecord    public keys of tokens
//	/waggle/v1/next_range       decimal      the next range id to give
//	/waggle/v1/election/…       who of the control planes changes placement
const (
	// Prefix begins every key; followers watch it as a whole.
	Prefix = "/waggle/v1/"

	CellPrefix     = Prefix + "cells/"
	NodePrefix     = Prefix + "nodes/"
	AlivePrefix    = Prefix + "alive/"
	RangePrefix    = Prefix + "ranges/"
	KeyPrefix      = Prefix + "keys/"
	NextRangeKey   = Prefix + "next_range"
	ElectionPrefix = Prefix + "election/placement"
)

// CellKey is the key of a cell's record.
func CellKey(cell proto.CellID) string { return CellPrefix + string(cell) }

// NodeKey is the key of a node's lasting record.
func NodeKey(node proto.NodeID) string { return NodePrefix + string(node) }

// AliveKey is the key of a node's record under its lease.
func AliveKey(node proto.NodeID) string { return AlivePrefix + string(node) }

// RangeKey is the key of a range's record.
func RangeKey(r proto.RangeID) string { return RangePrefix + fmt.Sprintf("%016x", uint64(r)) }

// KeyKey is the key of a token key's record.
func KeyKey(kid string) string { return KeyPrefix + kid }

// parseRangeKey is the inverse of RangeKey.
func parseRangeKey(key string) (proto.RangeID, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(key, RangePrefix), 16, 64)
	return proto.RangeID(n), err
}
