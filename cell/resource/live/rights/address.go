package rights

import (
	"net/url"

	"github.com/waggle-im/waggle/proto"
)

// publishURLs are where to publish; without a key they lack it.
func publishURLs(rtspAddr, rtmpAddr string, id proto.LiveID, key string) (rtsp, rtmp string) {
	return liveURL("rtsp", rtspAddr, id, "key", key), liveURL("rtmp", rtmpAddr, id, "key", key)
}

// watchURLs are where to watch with a ticket.
func watchURLs(rtspAddr, rtmpAddr string, id proto.LiveID, ticket string) (rtsp, rtmp string) {
	return liveURL("rtsp", rtspAddr, id, "ticket", ticket), liveURL("rtmp", rtmpAddr, id, "ticket", ticket)
}

// liveURL is the address of a livestream at a node, empty if the node has none
// for the protocol.
func liveURL(scheme, addr string, id proto.LiveID, name, value string) string {
	if addr == "" {
		return ""
	}
	u := url.URL{Scheme: scheme, Host: addr, Path: "/live/" + id.String()}
	if value != "" {
		u.RawQuery = url.Values{name: {value}}.Encode()
	}
	return u.String()
}
