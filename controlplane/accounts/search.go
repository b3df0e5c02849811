package accounts

import (
	"context"

	"github.com/waggle-im/waggle/proto"
)

// CanonicalPrefix is the beginning of a name as stored. It has
// [proto.PrefixBytesMin] bytes at least; what no name can begin with is
// refused with [proto.CodeBadRequest].
func CanonicalPrefix(prefix string) (string, error) {
	name, err := CanonicalName(prefix)
	if err != nil || len(prefix) < proto.PrefixBytesMin {
		return "", proto.Errorf(proto.CodeBadRequest, "%.40q is not the beginning of a user name: %d to %d letters, digits, . _ -, starting with a letter",
			prefix, proto.PrefixBytesMin, proto.NameBytesMax)
	}
	return name, nil
}

// ByPrefix lists active accounts whose canonical name begins with prefix, by
// name, at most limit. Only ID, Name, User and State of them are set. Every
// character of prefix stands for itself.
func (s *Store) ByPrefix(ctx context.Context, prefix string, limit int) ([]*Account, error) {
	// Not LIKE: SQLite would read the whole table for it, and _ would stand for
	// any character. Names are ASCII below 0x7f and compared byte by byte.
	rows, err := s.db.QueryContext(ctx,
		`SELECT id, name, user_id FROM accounts WHERE name >= ? AND name < ? AND state = ? ORDER BY name LIMIT ?`,
		prefix, prefix+"\x7f", string(StateActive), limit)
	if err != nil {
		return nil, unavailable(err)
	}
	defer rows.Close()
	var found []*Account
	for rows.Next() {
		a := &Account{State: StateActive}
		var user int64
		if err := rows.Scan(&a.ID, &a.Name, &user); err != nil {
			return nil, unavailable(err)
		}
		a.User = proto.EntityID(user)
		found = append(found, a)
	}
	return found, unavailable(rows.Err())
}
