package live

import (
	"errors"
	"net"

	"github.com/bluenviron/gortsplib/v4"
	"github.com/bluenviron/gortsplib/v4/pkg/base"
	"github.com/bluenviron/gortsplib/v4/pkg/description"
	"github.com/bluenviron/gortsplib/v4/pkg/liberrors"
	"github.com/pion/rtp"

	"github.com/waggle-im/waggle/proto"
)

// rtspQueue is how many packets wait for a viewer at most: some 4 s of 2 Mbit/s,
// and a key frame of 1 MB at once. Viewers share the packets.
const rtspQueue = 1024

// rtspHandler answers what gortsplib asks. A session's calls come one after the
// other, in a goroutine of its own or of its connection.
type rtspHandler struct{ s *Service }

func newRTSP(s *Service) *gortsplib.Server {
	server := &gortsplib.Server{
		Handler: &rtspHandler{s}, RTSPAddress: s.deps.RTSP.Addr().String(), WriteQueueSize: rtspQueue,
		ReadTimeout: s.cfg.SilenceMax, WriteTimeout: s.cfg.SilenceMax,
		Listen: func(string, string) (net.Listener, error) { return s.rtspIn, nil },
	}
	if rtp, rtcp := s.deps.RTP, s.deps.RTCP; rtp != nil {
		server.UDPRTPAddress, server.UDPRTCPAddress = rtp.LocalAddr().String(), rtcp.LocalAddr().String()
		server.ListenPacket = func(_, address string) (net.PacketConn, error) {
			if address == server.UDPRTPAddress {
				return rtp, nil
			}
			return rtcp, nil
		}
	}
	return server
}

// rtspViewer is what a session that plays has.
type rtspViewer struct {
	viewer
	joined bool
}

// rtspGrant is what a connection was admitted to by DESCRIBE.
type rtspGrant struct {
	request request
	who     Viewer
	ls      *livestream
}

// OnRequest implements [gortsplib.ServerHandlerOnRequest].
func (h *rtspHandler) OnRequest(c *gortsplib.ServerConn, r *base.Request) {
	if g, ok := c.NetConn().(*conn); ok && r.Method == base.Teardown {
		g.dismiss() // the connection may begin another session, or go
	}
}

// OnDescribe implements [gortsplib.ServerHandlerOnDescribe].
func (h *rtspHandler) OnDescribe(ctx *gortsplib.ServerHandlerOnDescribeCtx) (*base.Response, *gortsplib.ServerStream, error) {
	g, err := h.grant(ctx.Conn, ctx.Path, ctx.Query)
	if err != nil {
		return h.refuse(ctx.Conn, "describe", err), nil, err
	}
	out := g.ls.stream()
	if out == nil {
		err := proto.Errorf(proto.CodeNotReady, "livestream %s is not on", g.ls.id)
		return h.refuse(ctx.Conn, "describe", err), nil, err
	}
	return &base.Response{StatusCode: base.StatusOK}, out, nil
}

// grant asks once per connection and address.
func (h *rtspHandler) grant(c *gortsplib.ServerConn, path, query string) (*rtspGrant, error) {
	r, err := parseRequest(path, query)
	if err != nil {
		return nil, err
	}
	if g, ok := c.UserData().(*rtspGrant); ok && g.request == r {
		return g, nil
	}
	who, ls, err := h.s.watch(h.s.running, r)
	if err != nil {
		return nil, err
	}
	g := &rtspGrant{r, who, ls}
	c.SetUserData(g)
	return g, nil
}

func (ls *livestream) stream() *gortsplib.ServerStream {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return ls.out
}

// OnAnnounce implements [gortsplib.ServerHandlerOnAnnounce].
func (h *rtspHandler) OnAnnounce(ctx *gortsplib.ServerHandlerOnAnnounceCtx) (*base.Response, error) {
	r, err := parseRequest(ctx.Path, ctx.Query)
	if err == nil {
		_, err = rtspSources(ctx.Description)
	}
	var p *publisher
	if err == nil {
		p, err = h.s.claim(h.s.running, r, protocolRTSP, ctx.Session.Close)
	}
	if err != nil {
		return h.refuse(ctx.Conn, "announce", err), err
	}
	ctx.Session.SetUserData(p)
	return &base.Response{StatusCode: base.StatusOK}, nil
}

// rtspSources are the tracks of a description, one for each format.
func rtspSources(desc *description.Session) ([]*source, error) {
	var out []*source
	for _, m := range desc.Medias {
		for _, f := range m.Formats {
			if len(out) == tracksMax {
				return nil, proto.Errorf(proto.CodeTooMany, "more than %d tracks", tracksMax)
			}
			t, err := newTrack(len(out), m.Type, f)
			if err != nil {
				return nil, err
			}
			out = append(out, &source{track: t, depack: t.depack})
		}
	}
	if len(out) == 0 {
		return nil, proto.Errorf(proto.CodeBadRequest, "there are no tracks")
	}
	return out, nil
}

// OnSetup implements [gortsplib.ServerHandlerOnSetup].
func (h *rtspHandler) OnSetup(ctx *gortsplib.ServerHandlerOnSetupCtx) (*base.Response, *gortsplib.ServerStream, error) {
	switch ctx.Session.State() {
	case gortsplib.ServerSessionStatePreRecord:
		return &base.Response{StatusCode: base.StatusOK}, nil, nil
	case gortsplib.ServerSessionStatePrePlay: // a further track of the same stream
		return &base.Response{StatusCode: base.StatusOK}, ctx.Session.SetuppedStream(), nil
	}
	g, err := h.grant(ctx.Conn, ctx.Path, ctx.Query)
	if err != nil {
		return h.refuse(ctx.Conn, "setup", err), nil, err
	}
	out := g.ls.stream()
	if out == nil {
		err := proto.Errorf(proto.CodeNotReady, "livestream %s is not on", g.ls.id)
		return h.refuse(ctx.Conn, "setup", err), nil, err
	}
	v := &rtspViewer{viewer: viewer{ls: g.ls, who: g.who, protocol: protocolRTSP, disconnect: ctx.Session.Close}}
	ctx.Session.SetUserData(v)
	return &base.Response{StatusCode: base.StatusOK}, out, nil
}

// OnPlay implements [gortsplib.ServerHandlerOnPlay].
func (h *rtspHandler) OnPlay(ctx *gortsplib.ServerHandlerOnPlayCtx) (*base.Response, error) {
	v, ok := ctx.Session.UserData().(*rtspViewer)
	if !ok {
		return &base.Response{StatusCode: base.StatusMethodNotValidInThisState}, nil
	}
	if !v.joined {
		if _, err := v.ls.join(&v.viewer); err != nil {
			return h.refuse(ctx.Conn, "play", err), err
		}
		v.joined = true
		admit(ctx.Conn)
	}
	return &base.Response{StatusCode: base.StatusOK}, nil
}

func admit(c *gortsplib.ServerConn) {
	if g, ok := c.NetConn().(*conn); ok {
		g.admit()
	}
}

// OnRecord implements [gortsplib.ServerHandlerOnRecord].
func (h *rtspHandler) OnRecord(ctx *gortsplib.ServerHandlerOnRecordCtx) (*base.Response, error) {
	p, ok := ctx.Session.UserData().(*publisher)
	if !ok {
		return &base.Response{StatusCode: base.StatusMethodNotValidInThisState}, nil
	}
	sources, err := rtspSources(ctx.Session.AnnouncedDescription())
	if err == nil {
		err = p.begin(sources)
	}
	if err != nil {
		return h.refuse(ctx.Conn, "record", err), err
	}
	i := 0
	for _, m := range ctx.Session.AnnouncedDescription().Medias {
		for _, f := range m.Formats {
			ctx.Session.OnPacketRTP(m, f, h.receiver(ctx.Session, p, m, i))
			i++
		}
	}
	admit(ctx.Conn)
	return &base.Response{StatusCode: base.StatusOK}, nil
}

// receiver takes the packets of track i. It must not wait: over UDP, one
// goroutine reads for all publishers.
func (h *rtspHandler) receiver(session *gortsplib.ServerSession, p *publisher, m *description.Media, i int) func(*rtp.Packet) {
	src := p.sources[i]
	known := src.depack != nil && src.track.known()
	return func(packet *rtp.Packet) {
		if !p.spend(packet.MarshalSize()) {
			return
		}
		pts, ok := session.PacketPTS2(m, packet)
		if !ok && (known || src.track.rate > 0) {
			return // its time is not known before the first key frame
		}
		if !known {
			p.pass(i, pts, packet)
			return
		}
		if parts, err := src.depack(packet); err == nil { // most errors tell of more to come
			p.write(i, pts, parts)
		}
	}
}

// OnSessionClose implements [gortsplib.ServerHandlerOnSessionClose].
func (h *rtspHandler) OnSessionClose(ctx *gortsplib.ServerHandlerOnSessionCloseCtx) {
	switch u := ctx.Session.UserData().(type) {
	case *publisher:
		u.release(reasonOf(ctx.Error))
	case *rtspViewer:
		if u.joined {
			u.leave()
		}
	}
}

func reasonOf(err error) string {
	if _, ok := errors.AsType[liberrors.ErrServerSessionTornDown](err); ok || err == nil {
		return "it has ended its session"
	}
	return err.Error()
}

// OnPacketsLost implements [gortsplib.ServerHandlerOnPacketsLost].
func (h *rtspHandler) OnPacketsLost(ctx *gortsplib.ServerHandlerOnPacketsLostCtx) {
	if p, ok := ctx.Session.UserData().(*publisher); ok {
		p.ls.metrics.lost.Add(float64(ctx.Lost))
	}
}

// OnDecodeError implements [gortsplib.ServerHandlerOnDecodeError]. Without it
// the library writes to the standard logger.
func (h *rtspHandler) OnDecodeError(*gortsplib.ServerHandlerOnDecodeErrorCtx) {}

// OnStreamWriteError implements [gortsplib.ServerHandlerOnStreamWriteError]: the
// queue of a viewer is full. It is called while a packet is given to all.
func (h *rtspHandler) OnStreamWriteError(ctx *gortsplib.ServerHandlerOnStreamWriteErrorCtx) {
	if v, ok := ctx.Session.UserData().(*rtspViewer); ok {
		v.slow()
	}
}

// refuse makes the answer to somebody who is not admitted. The reason stands in
// its first line, which players show.
func (h *rtspHandler) refuse(c *gortsplib.ServerConn, method string, err error) *base.Response {
	e := proto.AsError(err)
	h.s.metrics.refused.WithLabelValues(protocolRTSP).Inc()
	h.s.log.Info("refused", "protocol", protocolRTSP, "method", method, "from", c.NetConn().RemoteAddr(), "reason", e.Error())
	return &base.Response{StatusCode: rtspStatus(e.Code), StatusMessage: line(e.Error())}
}

func rtspStatus(code proto.Code) base.StatusCode {
	switch code {
	case proto.CodeBadRequest:
		return base.StatusBadRequest
	case proto.CodeTooBig:
		return base.StatusRequestURITooLong
	case proto.CodeTooMany, proto.CodeOverloaded:
		return base.StatusNotEnoughBandwidth
	case proto.CodeNotReady, proto.CodeUnknownThread, proto.CodeUnknownUser, proto.CodeUnknownFile:
		return base.StatusNotFound
	case proto.CodeUnavailable:
		return base.StatusServiceUnavailable
	}
	return base.StatusForbidden
}

// lineMax keeps a reason to what a status line or a log shows.
const lineMax = 200

// line is text without what would end a line of a protocol.
func line(text string) string {
	out := []rune{}
	for _, r := range text {
		if r < ' ' || r == 0x7F {
			r = ' '
		}
		if out = append(out, r); len(out) == lineMax {
			break
		}
	}
	return string(out)
}
