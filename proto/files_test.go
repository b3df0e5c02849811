package proto

import "testing"

func TestFileIDs(t *testing.T) {
	id, err := ParseFileID("4096-17")
	if err != nil || id != (FileID{Owner: 4096, Number: 17}) || id.String() != "4096-17" {
		t.Fatalf("%v (%v)", id, err)
	}
	for _, bad := range []string{
		"", "-", "4096", "4096-", "-17", "4096-0", "0-17", "4096-017", "+4096-17", "4096--17", "4096-17-1", "../4096-17",
		"4096-99999999999999999999", "4096-1 7", "4096-17/..",
	} {
		if id, err := ParseFileID(bad); err == nil {
			t.Errorf("%q is taken for file %s", bad, id)
		}
	}
}
