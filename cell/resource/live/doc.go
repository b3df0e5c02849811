// Package live carries livestreams from their publishers to their viewers.
//
// A publisher sends to rtsp://HOST/live/ID?key=KEY or rtmp://HOST/live/ID?key=KEY,
// where ID is a [proto.LiveID] such as 4096-17; a viewer plays the same address
// with ?ticket=TICKET. What HLS players need is served by [Service.HLS] to
// edges, which have admitted their viewers.
//
// Who may do what is asked of [Rights]; this package knows nothing of people.
//
// Where to look:
//
//	DESIGN.md       why it is as it is
//	service.go      what runs, which livestreams there are
//	livestream.go   one livestream: its publisher, tracks, viewers and end
//	track.go        the codecs; how units become RTP packets
//	timeline.go     timestamps that go on when a publisher comes back
//	rtsp.go         RTSP, both ways, through gortsplib
//	rtmp.go         RTMP, both ways, through gortmplib
//	hls.go          HLS through gohlslib
//	record.go       recordings; keep.go hands them over
//	guard.go        what keeps connections from costing too much
package live
