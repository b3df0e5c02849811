package cellpb

// Joint tells whether the range is between two configurations: what is
// decided needs a majority of both.
func (x *Descriptor) Joint() bool {
	for _, r := range x.GetReplicas() {
		if r.GetIncoming() || r.GetOutgoing() {
			return true
		}
	}
	return false
}

// ReplicaOf finds a replica by its id; nil: the range has none of it.
func (x *Descriptor) ReplicaOf(id uint64) *Replica {
	for _, r := range x.GetReplicas() {
		if r.GetId() == id {
			return r
		}
	}
	return nil
}

// ReplicaOn finds the replica that a node holds; nil: it holds none.
func (x *Descriptor) ReplicaOn(node string) *Replica {
	for _, r := range x.GetReplicas() {
		if r.GetNode() == node {
			return r
		}
	}
	return nil
}

// Voter tells whether the replica votes in some configuration.
func (x *Replica) Voter() bool { return x != nil && !x.GetLearner() }

// NewerThan tells whether the descriptor is newer than another of its range,
// which may be nil.
func (x *Descriptor) NewerThan(o *Descriptor) bool {
	return x != nil && (o == nil || x.GetEpoch() > o.GetEpoch() || x.GetEpoch() == o.GetEpoch() && x.GetVersion() > o.GetVersion())
}
