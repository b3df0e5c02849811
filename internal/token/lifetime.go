package token

import (
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Lifetime reads when a token was issued and when it expires, without checking
// anything: for its holder, who has no keys. False: it is not a token.
func Lifetime(encoded string) (issued, expires time.Time, ok bool) {
	var w wireClaims
	if len(encoded) > BytesMax {
		return issued, expires, false
	}
	if _, _, err := jwt.NewParser().ParseUnverified(encoded, &w); err != nil || w.IssuedAt == nil || w.ExpiresAt == nil {
		return issued, expires, false
	}
	return w.IssuedAt.Time, w.ExpiresAt.Time, true
}

// UserOf reads whom a token names, without checking anything, as it stands
// there; empty if it is not a token.
func UserOf(encoded string) string {
	var w wireClaims
	if len(encoded) > BytesMax {
		return ""
	}
	if _, _, err := jwt.NewParser().ParseUnverified(encoded, &w); err != nil {
		return ""
	}
	return w.Subject
}
