package accounts

import (
	"net/mail"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/waggle-im/waggle/proto"
)

const (
	// EmailBytesMax bounds an address (RFC 5321's path without brackets).
	EmailBytesMax = 254
	// PasswordBytesMin is the shortest password taken.
	PasswordBytesMin = 8
	// PasswordBytesMax keeps hashing cheap to refuse.
	PasswordBytesMax = 128
)

// CanonicalName is name as stored: names that differ in case only are one.
// A name starts with a letter, so that it is never taken for an id.
func CanonicalName(name string) (string, error) {
	ok := name != "" && len(name) <= proto.NameBytesMax
	for i, r := range name {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		other := r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-'
		ok = ok && (letter || other && i > 0)
	}
	if !ok {
		return "", proto.Errorf(proto.CodeBadRequest, "%.40q is not a user name: 1 to %d letters, digits, . _ -, starting with a letter", name, proto.NameBytesMax)
	}
	return strings.ToLower(name), nil
}

// CanonicalEmail is address as stored: trimmed and in lower case.
func CanonicalEmail(address string) (string, error) {
	address = strings.TrimSpace(address)
	parsed, err := mail.ParseAddress(address)
	if err != nil || parsed.Address != address || len(address) > EmailBytesMax || !utf8.ValidString(address) {
		return "", proto.Errorf(proto.CodeBadRequest, "%.80q is not a mail address", address)
	}
	return strings.ToLower(address), nil
}

// CheckPassword refuses passwords that are too short, too long, among the
// first anybody tries, or the name or address itself.
func CheckPassword(password, name, email string) error {
	if len(password) < PasswordBytesMin || len(password) > PasswordBytesMax {
		return proto.Errorf(proto.CodeBadRequest, "a password has %d to %d bytes", PasswordBytesMin, PasswordBytesMax)
	}
	lower := strings.ToLower(password)
	local, _, _ := strings.Cut(email, "@")
	if lower == name || lower == email || lower == local || oneRune(lower) || slices.Contains(refusedPasswords(), lower) {
		return proto.Errorf(proto.CodeBadRequest, "this password is among the first anybody tries: choose another")
	}
	return nil
}

func oneRune(s string) bool {
	first, _ := utf8.DecodeRuneInString(s)
	return strings.Trim(s, string(first)) == ""
}

// refusedPasswords are the commonest of at least eight bytes in published
// lists of leaked ones.
func refusedPasswords() []string {
	return []string{
		"0123456789", "0987654321", "1029384756", "123123123", "12341234", "12345678", "123456789", "1234567890",
		"1234qwer", "147258369", "1q2w3e4r", "1q2w3e4r5t", "1qaz2wsx", "1qazxsw2", "87654321", "987654321",
		"9876543210", "a1234567", "a12345678", "a123456789", "abcd1234", "abcdefgh", "abcdefg1", "access14",
		"admin123", "admin1234", "administrator", "asdfasdf", "asdfghjk", "asdfghjkl", "baseball", "basketball",
		"changeme", "charlie1", "computer", "corvette", "danielle", "dragon123", "football", "football1",
		"hello123", "iloveyou", "iloveyou1", "internet", "jennifer", "jordan23", "letmein1", "liverpool",
		"master123", "michelle", "monkey123", "mustang1", "p@ssw0rd", "p@ssword", "passw0rd", "password",
		"password1", "password12", "password123", "password1234", "pokemon1", "princess", "princess1", "q1w2e3r4",
		"q1w2e3r4t5", "qazwsxedc", "qwer1234", "qwerty12", "qwerty123", "qwerty1234", "qwertyui", "qwertyuiop",
		"samantha", "starwars", "sunshine", "superman", "trustno1", "welcome1", "welcome123", "whatever",
		"yellow123", "zaq12wsx", "zaq1zaq1", "zxcvbnm1", "zxcvbnm123",
	}
}
