package proto

import (
	"fmt"
	"strconv"
	"strings"
)

// FileID names a file for ever: its owner, and a number that the owner's range
// gives, dense from 1 and never again.
type FileID struct {
	Owner  EntityID
	Number uint64
}

// ParseFileID reads "4096-17".
func ParseFileID(s string) (FileID, error) {
	owner, number, _ := strings.Cut(s, "-")
	id, err := parseCanonical(owner)
	n, err2 := parseCanonical(number)
	if err != nil || err2 != nil {
		return FileID{}, fmt.Errorf("%.64q is not a file (OWNER-NUMBER, as in 4096-17)", s)
	}
	return FileID{Owner: id, Number: uint64(n)}, nil
}

// String is the id as it stands in messages and addresses.
func (f FileID) String() string {
	return f.Owner.String() + "-" + strconv.FormatUint(f.Number, 10)
}
