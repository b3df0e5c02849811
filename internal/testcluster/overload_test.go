//go:build unix

package testcluster

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/devcluster"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// pusher writes messages without waiting for answers, as no client of ours
// would, and notes how each was answered.
type pusher struct {
	c      *Cluster
	user   User
	thread string
	conn   *tls.Conn
	answer *bufio.Reader
	last   uint64 // id of the newest message

	mu       sync.Mutex // guards the fields below
	due      map[uint64]time.Time
	texts    map[uint64]string // of what is unanswered, as due
	accepted map[string]uint64 // text → seq
	took     []time.Duration
	refused  int
}

func (p *pusher) connect(cfg *tls.Config) error {
	conn, err := tls.Dial("tcp", p.c.options.Listen, cfg)
	if err != nil {
		return err
	}
	p.conn, p.answer, p.last = conn, bufio.NewReaderSize(conn, 64<<10), 1
	if err := say(conn, &clientpb.ClientFrame{Id: 1, Body: &clientpb.ClientFrame_Hello{Hello: &clientpb.Hello{
		ProtocolVersion: proto.ClientProtocolVersion, Token: p.user.Token, Device: p.user.Device,
	}}}); err != nil {
		return err
	}
	f, err := hear(p.answer)
	if err == nil && f.GetWelcome() == nil {
		err = fmt.Errorf("not welcome: %v", f)
	}
	return err
}

// push sends n messages, which begin with text, in one write.
func (p *pusher) push(n int, text string) error {
	var out bytes.Buffer
	for i := range n {
		text := fmt.Sprintf("%s %d", text, i)
		msg := proto.NewClientMsgID(time.Now())
		p.last++
		p.mu.Lock()
		p.due[p.last], p.texts[p.last] = time.Now(), text
		p.mu.Unlock()
		if err := say(&out, &clientpb.ClientFrame{Id: p.last, Body: &clientpb.ClientFrame_SendMessage{SendMessage: &clientpb.SendMessage{
			Thread: p.thread, ClientMsgId: msg[:], Text: &clientpb.TextMessage{Text: text},
		}}}); err != nil {
			return err
		}
	}
	_ = p.conn.SetWriteDeadline(time.Now().Add(Wait))
	_, err := p.conn.Write(out.Bytes())
	return err
}

// hearAnswer takes one answer. A refusal must say how long to wait.
func (p *pusher) hearAnswer() error {
	_ = p.conn.SetReadDeadline(time.Now().Add(Wait))
	f, err := hear(p.answer)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	due, ok := p.due[f.Id]
	if !ok {
		return fmt.Errorf("an answer to nothing: %v", f)
	}
	text := p.texts[f.Id]
	delete(p.due, f.Id)
	delete(p.texts, f.Id)
	if sent := f.GetMessageSent(); sent != nil {
		p.accepted[text] = sent.Seq
		p.took = append(p.took, time.Since(due))
		return nil
	}
	if e := f.GetError(); proto.Code(e.GetCode()).Class() != proto.ClassRetryLater || e.RetryMs == 0 {
		return fmt.Errorf("answered %v", f)
	}
	p.refused++
	return nil
}

// offered is what became of a load.
type offered struct {
	sent, accepted, refused int
	perSecond               float64 // accepted
	p50, p99                time.Duration
}

// String is for people.
func (o offered) String() string {
	return fmt.Sprintf("%d offered, %d accepted (%.0f/s), %d refused; of the accepted p50 %s, p99 %s",
		o.sent, o.accepted, o.perSecond, o.refused, o.p50.Round(time.Millisecond), o.p99.Round(time.Millisecond))
}

// offer runs all pushers for d: with window unanswered messages each or, when
// it is 0, perSecond in all, whatever is answered.
func offer(t *testing.T, pushers []*pusher, d time.Duration, window int, perSecond float64) offered {
	t.Helper()
	var wg sync.WaitGroup
	began := time.Now()
	before := offered{}
	for _, p := range pushers {
		before.accepted, before.refused = before.accepted+len(p.accepted), before.refused+p.refused
		p.took = nil
		sent := make(chan struct{}, 1<<20) // one for each message: at most 4 s at 262,000/s
		slots := make(chan struct{}, max(window, 1))
		wg.Go(func() {
			defer close(sent)
			number := 0
			for time.Since(began) < d {
				more := 1
				if window > 0 {
					for slots <- struct{}{}; len(slots) < window; more++ {
						slots <- struct{}{}
					}
				} else {
					time.Sleep(2 * time.Millisecond) // the pace of the load
					more = int(time.Since(began).Seconds()*perSecond/float64(len(pushers))) - number
				}
				if err := p.push(more, fmt.Sprintf("%s %d %d", p.user.Name, began.UnixNano(), number)); err != nil {
					t.Errorf("%s: %v", p.user.Name, err)
					return
				}
				number += more
				for range more {
					sent <- struct{}{}
				}
			}
		})
		wg.Go(func() {
			for range sent { // each is answered
				if err := p.hearAnswer(); err != nil {
					t.Errorf("%s: %v", p.user.Name, err)
					_ = p.conn.Close()
					for range sent {
					}
					return
				}
				select {
				case <-slots:
				default:
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	out := offered{accepted: -before.accepted, refused: -before.refused}
	var all []time.Duration
	for _, p := range pushers {
		out.accepted, out.refused = out.accepted+len(p.accepted), out.refused+p.refused
		all = append(all, p.took...)
	}
	out.sent = out.accepted + out.refused
	out.perSecond = float64(out.accepted) / took.Seconds()
	if slices.Sort(all); len(all) > 0 {
		out.p50, out.p99 = all[len(all)/2], all[len(all)*99/100]
	}
	return out
}

// At twice the load a cluster bears, what it does not take is refused "retry
// later", what it takes stays about as much and comes in bounded time, and
// afterwards exactly the accepted messages are there. Everything waits in
// bounded places: 1,024 unanswered requests per connection at the edge, and
// behind them the queues of hosts and leaders.
func TestTwiceTheKnee(t *testing.T) {
	each := 3 * time.Second
	if long() {
		each = time.Minute
	}
	c := StartConfigured(t, devcluster.Options{}, "cell: {messages_per_second: -1}\n")
	cfg := c.TLS()
	cfg.NextProtos, cfg.ServerName = []string{proto.ALPN}, "localhost"
	const connections, window = 16, 32
	var pushers []*pusher
	for i := range connections {
		ann := c.AddUser(fmt.Sprintf("pusher%d", i), fmt.Sprintf("c%d", i%2+1))
		bob := c.AddUser(fmt.Sprintf("pushed%d", i), fmt.Sprintf("c%d", i/2%2+1))
		p := &pusher{
			c: c, user: ann, thread: proto.DirectThread(ann.ID, bob.ID).String(),
			due: map[uint64]time.Time{}, accepted: map[string]uint64{}, texts: map[uint64]string{},
		}
		if err := p.connect(cfg); err != nil {
			t.Fatal(err)
		}
		pushers = append(pushers, p)
	}
	admins := c.Admins()
	offer(t, pushers, time.Second, window, 0)
	knee := offer(t, pushers, each, window, 0)
	t.Logf("knee: %s", knee)
	before := c.Level(admins["e1"])
	twice := offer(t, pushers, each, 0, 2*knee.perSecond)
	t.Logf("twice the knee: %s; %.0f %% of the knee", twice, 100*twice.perSecond/knee.perSecond)
	after := c.Level(admins["e1"])
	t.Logf("edge before %s; after %s", before, after)
	if twice.perSecond < knee.perSecond/2 {
		t.Errorf("at twice the load %.0f/s are taken, at the knee %.0f/s", twice.perSecond, knee.perSecond)
	}
	if twice.p99 > 5*time.Second {
		t.Errorf("what is accepted takes %s", twice.p99)
	}
	again := offer(t, pushers, each/3, window, 0)
	t.Logf("afterwards: %s", again)
	for i, p := range pushers {
		if len(p.due) > 0 {
			t.Errorf("%s has %d messages that were never answered", p.user.Name, len(p.due))
		}
		_ = p.conn.Close()
		if i >= 4 && !long() {
			continue // reading takes longer than writing
		}
		stored := c.History(c.Connect(p.user, client.TCP, nil), p.thread)
		if len(stored) != len(p.accepted) {
			t.Errorf("%s: %d messages are stored, %d were accepted", p.user.Name, len(stored), len(p.accepted))
		}
		for i, e := range stored {
			if seq := p.accepted[e.GetText().GetText()]; e.Seq != uint64(i+1) || seq != e.Seq {
				t.Fatalf("%s: %q is stored as %d at place %d and was acknowledged as %d", p.user.Name, e.GetText().GetText(), e.Seq, i+1, seq)
			}
		}
	}
}
