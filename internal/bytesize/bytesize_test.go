package bytesize

import "testing"

func TestWords(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 16 << 30: "16.0 GiB"} {
		if got := Words(n); got != want {
			t.Errorf("%d bytes are %s, want %s", n, got, want)
		}
	}
}
