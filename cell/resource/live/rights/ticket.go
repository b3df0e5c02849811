package rights

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"strings"
	"time"

	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

const (
	// sessionLifetime is how long one session of HLS lasts: above the longest
	// broadcasts. Membership is asked again all the time.
	sessionLifetime = 24 * time.Hour
	// signedBytesMax bounds what is looked at as a ticket.
	signedBytesMax = 1024

	kindTicket  = "ticket"
	kindSession = "session"
)

// claims are what a ticket or a session says.
type claims struct {
	Kind    string            `json:"kind"`
	Live    string            `json:"live"`
	Thread  string            `json:"thread"`
	Login   cellclient.Caller `json:"login"`
	Viewer  string            `json:"viewer"`  // random: a ticket and the sessions it begins are one viewer
	Expires int64             `json:"expires"` // Unix milliseconds
}

func newViewer() string {
	var raw [8]byte
	_, _ = rand.Read(raw[:])
	return hex.EncodeToString(raw[:])
}

// sign encodes claims as CLAIMS.MAC, both in the alphabet of addresses.
func sign(row *cellpb.StoredLive, c claims) string {
	raw, err := json.Marshal(c)
	if err != nil {
		return "" // texts and numbers: cannot fail
	}
	text := base64.RawURLEncoding.EncodeToString(raw)
	return text + "." + base64.RawURLEncoding.EncodeToString(macOf(row, text))
}

func macOf(row *cellpb.StoredLive, text string) []byte {
	mac := hmac.New(sha256.New, row.TicketKey)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

// open checks a ticket or a session of a livestream.
//
// Errors: [proto.CodeBadTicket].
func (s *Service) open(row *cellpb.StoredLive, id proto.LiveID, kind, text string) (claims, error) {
	var c claims
	bad := proto.Errorf(proto.CodeBadTicket, "the %s is not one for livestream %s: ask for a new ticket", kind, id)
	signed, encoded, _ := strings.Cut(text, ".")
	mac, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil || len(text) > signedBytesMax || len(row.TicketKey) == 0 || !hmac.Equal(mac, macOf(row, signed)) {
		return c, bad
	}
	raw, err := base64.RawURLEncoding.DecodeString(signed)
	if err != nil || json.Unmarshal(raw, &c) != nil || c.Kind != kind || c.Live != id.String() || c.Thread != row.Thread {
		return claims{}, bad
	}
	if s.now().UnixMilli() >= c.Expires {
		return claims{}, proto.Errorf(proto.CodeBadTicket, "the %s has expired: ask for a new ticket", kind)
	}
	return c, nil
}
