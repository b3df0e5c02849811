package proto

import (
	"fmt"
	"strconv"
	"strings"
)

// LiveID names a livestream for ever: its owner, and a number that the owner's
// range gives, dense from 1 and never again.
type LiveID struct {
	Owner  EntityID
	Number uint64
}

// ParseLiveID reads "4096-17".
func ParseLiveID(s string) (LiveID, error) {
	owner, number, _ := strings.Cut(s, "-")
	id, err := parseCanonical(owner)
	n, err2 := parseCanonical(number)
	if err != nil || err2 != nil {
		return LiveID{}, fmt.Errorf("%.64q is not a livestream (OWNER-NUMBER, as in 4096-17)", s)
	}
	return LiveID{Owner: id, Number: uint64(n)}, nil
}

// String is the id as it stands in messages and addresses.
func (l LiveID) String() string {
	return l.Owner.String() + "-" + strconv.FormatUint(l.Number, 10)
}
