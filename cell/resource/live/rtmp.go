package live

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"time"

	"github.com/bluenviron/gortmplib"
	"github.com/bluenviron/gortmplib/pkg/amf0"
	"github.com/bluenviron/gortmplib/pkg/message"

	"github.com/waggle-im/waggle/proto"
)

const (
	// rtmpAnalyseBytesMax is what a publisher may send before its tracks are
	// known: the library keeps all of it, two seconds as a rule.
	rtmpAnalyseBytesMax = 32 << 20
	// rtmpChunkMin is the least chunk that is taken. It is the usual one; smaller
	// ones cost many times their size.
	rtmpChunkMin = 128
	// rtmpFarewell is what a refused client has to read why.
	rtmpFarewell = 2 * time.Second
)

// serveRTMP accepts until the listener is closed, and returns after its last
// connection.
func (s *Service) serveRTMP() error {
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		nc, err := s.rtmpIn.Accept()
		if err != nil {
			return err
		}
		conns.Go(func() { s.rtmpConn(nc.(*conn)) })
	}
}

// rtmpConn serves one connection. The library indexes into what strangers send:
// a mistake there must end the connection only.
func (s *Service) rtmpConn(c *conn) {
	defer c.Close()
	defer func() {
		if r := recover(); r != nil {
			s.log.Error("RTMP connection", "panic", r, "stack", string(debug.Stack()))
		}
	}()
	sc := &gortmplib.ServerConn{RW: c}
	if sc.Initialize() != nil || sc.Accept() != nil {
		return // it did not get as far as to want something
	}
	r, err := parseRequest(sc.URL.Path, sc.URL.RawQuery)
	if err == nil && sc.Publish {
		err = s.rtmpPublish(c, sc, r)
	} else if err == nil {
		err = s.rtmpWatch(c, sc, r)
	}
	if e, refused := errors.AsType[*proto.Error](err); refused {
		s.rtmpRefuse(c, sc, e)
	}
}

// rtmpRefuse tells a client why it is not admitted, and gives it time to read.
func (s *Service) rtmpRefuse(c *conn, sc *gortmplib.ServerConn, e *proto.Error) {
	s.metrics.refused.WithLabelValues(protocolRTMP).Inc()
	s.log.Info("refused", "protocol", protocolRTMP, "publish", sc.Publish, "from", c.RemoteAddr(), "reason", e.Error())
	code := "NetStream.Play.Failed"
	switch {
	case sc.Publish && e.Code == proto.CodeConflict:
		code = "NetStream.Publish.BadName"
	case sc.Publish:
		code = "NetStream.Publish.Denied"
	case e.Code == proto.CodeNotReady || e.Code == proto.CodeBadRequest:
		code = "NetStream.Play.StreamNotFound"
	}
	_ = c.SetDeadline(time.Now().Add(rtmpFarewell))
	c.allow(strangerBytesMax)
	if rtmpStatus(sc, "error", code, e.Error()) == nil {
		_, _ = io.Copy(io.Discard, c) // closing with something unread would take the answer back
	}
}

// rtmpMessages is a connection that counts what comes.
type rtmpMessages struct {
	*gortmplib.ServerConn
	p       *publisher
	counted uint64
}

var errOverLimit = errors.New("it sends more than is allowed")

// Read implements [gortmplib.Conn].
func (m *rtmpMessages) Read() (message.Message, error) {
	msg, err := m.ServerConn.Read()
	now := m.BytesReceived()
	n := int(now - m.counted)
	m.counted = now
	if err != nil {
		return nil, err
	}
	if !m.p.spend(n) {
		return nil, errOverLimit
	}
	if size, ok := msg.(*message.SetChunkSize); ok && size.Value < rtmpChunkMin {
		return nil, fmt.Errorf("chunks of %d bytes are too small", size.Value)
	}
	return msg, nil
}

// rtmpPublish serves a publisher until it goes.
func (s *Service) rtmpPublish(c *conn, sc *gortmplib.ServerConn, r request) error {
	p, err := s.claim(s.running, r, protocolRTMP, func() { _ = c.Close() })
	if err != nil {
		return err
	}
	defer func() { p.release("its connection has ended") }()
	c.allow(rtmpAnalyseBytesMax)
	reader := &gortmplib.Reader{Conn: &rtmpMessages{ServerConn: sc, p: p, counted: sc.BytesReceived()}}
	if err := reader.Initialize(); err != nil {
		return proto.Errorf(proto.CodeBadRequest, "its tracks cannot be read: %v", err)
	}
	var sources []*source
	for _, rt := range reader.Tracks() {
		t, err := rtmpSource(reader, rt, p, len(sources))
		if err != nil {
			return err
		}
		if t == nil {
			p.ls.log.Warn("track left out", "protocol", protocolRTMP, "codec", rtmpCodecName(rt.Codec))
			continue
		}
		sources = append(sources, &source{track: t})
	}
	if len(sources) == 0 || len(sources) > tracksMax {
		return proto.Errorf(proto.CodeBadRequest, "of what it sends %d tracks can be carried, it must be 1 to %d", len(sources), tracksMax)
	}
	if err := p.begin(sources); err != nil {
		return err
	}
	c.admit()
	for {
		_ = c.SetReadDeadline(time.Now().Add(s.cfg.SilenceMax))
		if err := reader.Read(); err != nil {
			p.release(err.Error())
			return nil
		}
	}
}

// rtmpWatch serves a viewer until one of both ends it.
func (s *Service) rtmpWatch(c *conn, sc *gortmplib.ServerConn, r request) error {
	who, ls, err := s.watch(s.running, r)
	if err != nil {
		return err
	}
	if !ls.carried(func(t *track) bool { return rtmpCodec(t) != nil }) {
		return proto.Errorf(proto.CodeUnsupported, "RTMP can carry nothing of livestream %s", r.id)
	}
	q := newQueue(func(n int) { ls.metrics.dropped[protocolRTMP].Add(float64(n)) })
	v := &viewer{ls: ls, who: who, protocol: protocolRTMP, queue: q, disconnect: func() { c.closeWithin(rtmpFarewell); q.close() }}
	tracks, err := ls.join(v)
	if err != nil {
		return err
	}
	defer v.leave()
	c.admit()
	reading, stopped := context.WithCancel(context.Background())
	go func() { // awaited below
		defer stopped()
		_, _ = io.Copy(io.Discard, c) // acknowledgements, until the viewer goes
		q.close()
	}()
	defer func() { _ = c.Close(); <-reading.Done() }()
	out := newRTMPOutput(sc, tracks)
	_ = q.each(func(u unit) error {
		_ = c.SetWriteDeadline(time.Now().Add(s.cfg.SilenceMax))
		ls.metrics.sent[protocolRTMP].Add(float64(u.size))
		return out.write(u)
	})
	if reading.Err() == nil { // the viewer is still there
		_ = c.SetWriteDeadline(time.Now().Add(rtmpFarewell))
		why := ""
		if reason := v.reason.Load(); reason != nil {
			why = *reason
		}
		_ = rtmpStatus(sc, "status", "NetStream.Play.UnpublishNotify", why)
	}
	return nil
}

// rtmpStatus tells a client what becomes of its stream.
func rtmpStatus(sc *gortmplib.ServerConn, level, code, text string) error {
	return sc.Write(&message.CommandAMF0{
		ChunkStreamID: 5, MessageStreamID: 0x1000000, Name: "onStatus",
		Arguments: []any{nil, amf0.Object{{Key: "level", Value: level}, {Key: "code", Value: code}, {Key: "description", Value: line(text)}}},
	})
}
