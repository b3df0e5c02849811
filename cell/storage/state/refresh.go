package state

import (
	"bytes"
	"slices"

	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

const (
	// successorsMax bounds the unused successors of one refresh token: answers
	// that were lost, and clients of one device that refresh at once.
	successorsMax = 4
	// refreshHashBytes is the length of every hash of a refresh token.
	refreshHashBytes = 32
)

// refreshDevice rotates a refresh token. Of a session two kinds are valid: the
// one used last, and its successors that nobody has used yet. Using a
// successor ends the one before it and the other successors. One of the same
// family that is none of these was valid once, so two parties hold it: the
// device is ended. A token of another family proves nothing and changes
// nothing, or anybody could end a device by naming it.
func (m *Machine) refreshDevice(c *cellpb.RefreshDevice) *cellpb.Result {
	user := proto.EntityID(c.User)
	profile, d := new(cellpb.Profile), new(cellpb.Device)
	key := engine.DeviceKey(user, c.Device)
	if len(c.Hash) != refreshHashBytes || len(c.NextHash) != refreshHashBytes || len(c.Family) != refreshHashBytes {
		return refusef(proto.CodeBadRequest, "the hashes of refresh tokens have %d bytes", refreshHashBytes)
	}
	if !m.rng.Contains(user) || !m.get(engine.EntityKey(user, engine.TagProfile), profile) || !m.get(key, d) ||
		d.Ended || !bytes.Equal(d.RefreshFamily, c.Family) || d.AuthorityVersion != profile.AuthorityVersion {
		return refusef(proto.CodeSessionEnded, "this login has ended: log in again")
	}
	result := &cellpb.Result{
		User: c.User, SessionNumber: d.SessionNumber, AuthorityVersion: profile.AuthorityVersion, Name: profile.Name, Platform: d.Platform,
	}
	same := func(h []byte) bool { return bytes.Equal(h, c.Hash) }
	switch {
	case bytes.Equal(d.RefreshHash, c.Hash):
		if slices.ContainsFunc(d.NextHashes, func(h []byte) bool { return bytes.Equal(h, c.NextHash) }) {
			result.Repeated = true
			return result
		}
		d.NextHashes = append(d.NextHashes, c.NextHash)
		d.NextHashes = d.NextHashes[max(0, len(d.NextHashes)-successorsMax):]
	case slices.ContainsFunc(d.NextHashes, same):
		d.RefreshHash, d.NextHashes = c.Hash, [][]byte{c.NextHash}
	default:
		result.Ended = true
		m.endDevice(user, c.Device, d, proto.CodeSessionEnded)
		return result
	}
	m.put(key, d)
	return result
}
