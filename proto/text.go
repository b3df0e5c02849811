package proto

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// CheckText refuses what cannot be a short text that a person writes about
// himself or another: more than limit bytes ([CodeTooBig]), invalid UTF-8 or
// control characters ([CodeBadRequest]). what names the text in the error. An
// empty text is taken.
func CheckText(what, text string, limit int) *Error {
	switch {
	case len(text) > limit:
		return Errorf(CodeTooBig, "the %s has %d bytes, the limit is %d", what, len(text), limit)
	case !utf8.ValidString(text):
		return Errorf(CodeBadRequest, "the %s is not valid UTF-8", what)
	case strings.ContainsFunc(text, unicode.IsControl):
		return Errorf(CodeBadRequest, "the %s has control characters", what)
	}
	return nil
}

// CheckNotes refuses an alias and tags that nobody can have for a contact:
// beside what [CheckText] refuses, more than [TagsMax] tags, an empty one, and
// one that comes twice ([CodeBadRequest]).
func CheckNotes(alias string, tags []string) *Error {
	if err := CheckText("alias", alias, AliasBytesMax); err != nil {
		return err
	}
	if len(tags) > TagsMax {
		return Errorf(CodeBadRequest, "a contact has at most %d tags, not %d", TagsMax, len(tags))
	}
	seen := map[string]bool{}
	for _, tag := range tags {
		if err := CheckText("tag", tag, TagBytesMax); err != nil {
			return err
		}
		if tag == "" || seen[tag] {
			return Errorf(CodeBadRequest, "a tag is empty or named twice: %q", tag)
		}
		seen[tag] = true
	}
	return nil
}

// CheckProfile refuses what nobody can say of himself: see [CheckText].
func CheckProfile(nick, description, sex string) *Error {
	for _, part := range []struct {
		what, text string
		limit      int
	}{{"nick", nick, NickBytesMax}, {"description", description, DescriptionBytesMax}, {"sex", sex, SexBytesMax}} {
		if err := CheckText(part.what, part.text, part.limit); err != nil {
			return err
		}
	}
	return nil
}

// TooManyContacts refuses a contact above [ContactsMax].
func TooManyContacts() *Error {
	return Errorf(CodeTooMany, "you have %d contacts, which is the limit: remove some", ContactsMax)
}
