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
//	/waggle/v1/moves/<move>     MoveRecord   moves of ranges, as in m12
//	/waggle/v1/edges/<edge>     EdgeRecord   what operators asked of an edge; none: to serve
//	/waggle/v1/audit/<time>-<n> AuditRecord  Unix milliseconds and a counter, 16 hex digits each
//	/waggle/v1/next_range       decimal      the next range id to give
//	/waggle/v1/next_move        decimal      the number of the next move
//	/waggle/v1/frozen           FrozenRecord while nothing may be placed
//	/waggle/v1/reconciled       decimal      how often the route table was rebuilt
//	/waggle/v1/canary           CanaryRecord how the moves went that are made for trying
//	/waggle/v1/election/…       who of the control planes changes placement
const (
	// Prefix begins every key; followers watch it as a whole.
	Prefix = "/waggle/v1/"

	CellPrefix     = Prefix + "cells/"
	NodePrefix     = Prefix + "nodes/"
	AlivePrefix    = Prefix + "alive/"
	RangePrefix    = Prefix + "ranges/"
	KeyPrefix      = Prefix + "keys/"
	MovePrefix     = Prefix + "moves/"
	EdgePrefix     = Prefix + "edges/"
	AuditPrefix    = Prefix + "audit/"
	NextMoveKey    = Prefix + "next_move"
	NextRangeKey   = Prefix + "next_range"
	FrozenKey      = Prefix + "frozen"
	ReconciledKey  = Prefix + "reconciled"
	CanaryKey      = Prefix + "canary"
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

// MoveKey is the key of a move's record.
func MoveKey(move string) string { return MovePrefix + move }

// EdgeKey is the key of what operators asked of an edge.
func EdgeKey(edge proto.NodeID) string { return EdgePrefix + string(edge) }

// parseRangeKey is the inverse of RangeKey.
func parseRangeKey(key string) (proto.RangeID, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(key, RangePrefix), 16, 64)
	return proto.RangeID(n), err
}
