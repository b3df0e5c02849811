package live

import (
	"net/url"
	"strings"

	"github.com/waggle-im/waggle/proto"
)

// addressBytesMax bounds path and query: an id, and a key or ticket that may be
// a signed token.
const addressBytesMax = 4 << 10

// request is what the address of a livestream says.
type request struct {
	id     proto.LiveID
	key    string // of a publisher
	ticket string // of a viewer
}

// parseRequest reads "/live/4096-17" and "key=K" or "ticket=T".
func parseRequest(path, query string) (request, error) {
	if len(path)+len(query) > addressBytesMax {
		return request{}, proto.Errorf(proto.CodeTooBig, "the address is longer than %d bytes", addressBytesMax)
	}
	rest, ok := strings.CutPrefix(strings.TrimPrefix(path, "/"), "live/")
	if !ok {
		return request{}, proto.Errorf(proto.CodeBadRequest, "a livestream's address is /live/ID")
	}
	id, err := proto.ParseLiveID(strings.TrimSuffix(rest, "/"))
	if err != nil {
		return request{}, proto.Errorf(proto.CodeBadRequest, "%v", err)
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return request{}, proto.Errorf(proto.CodeBadRequest, "what follows the ? cannot be read") // err has the key
	}
	return request{id: id, key: values.Get("key"), ticket: values.Get("ticket")}, nil
}

// parseHLS reads "/live/4096-17/index.m3u8". Only what the muxer gives names to
// can be asked for, so that the name needs no more than one segment.
func parseHLS(path string) (id proto.LiveID, file string, ok bool) {
	if len(path) > addressBytesMax {
		return proto.LiveID{}, "", false
	}
	rest, ok := strings.CutPrefix(path, "/live/")
	if !ok {
		return proto.LiveID{}, "", false
	}
	name, file, ok := strings.Cut(rest, "/")
	if !ok || file == "" || file == "." || file == ".." || strings.Contains(file, "/") {
		return proto.LiveID{}, "", false
	}
	id, err := proto.ParseLiveID(name)
	return id, file, err == nil
}
