package mail

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	gomail "github.com/wneessen/go-mail"

	"github.com/waggle-im/waggle/internal/certs"
	"github.com/waggle-im/waggle/proto"
)

const (
	// queueMax bounds the mails that wait; past it new ones are refused.
	queueMax = 1024
	// senders is how many mails are under way at once.
	senders = 4
	// sendTimeout bounds one try.
	sendTimeout = 20 * time.Second
	// retryFirst doubles up to retryMax.
	retryFirst = 500 * time.Millisecond
	retryMax   = 15 * time.Second
)

// Config says how mail is sent.
type Config struct {
	// Server is smtp://[USER:PASSWORD@]HOST[:PORT] for STARTTLS or smtps://…
	// for TLS. Empty: no mail can be sent, and Send says so.
	Server string
	// From is the sender's address, as in "Waggle <noreply@example.org>".
	From string
	// Logger gets failures; nil: none.
	Logger *slog.Logger
	// Registerer gets the metrics; nil: none.
	Registerer prometheus.Registerer
}

// Message is one mail.
type Message struct {
	To      string
	Subject string
	Text    string
	HTML    string
	// Until is when the mail is of no use any more.
	Until time.Time
}

// Mailer sends mail. It is safe for concurrent use.
type Mailer struct {
	cfg    Config
	server server
	tls    *tls.Config
	queue  chan Message
	retry  time.Duration // the first pause

	sent, failed, retried prometheus.Counter
}

// New makes a mailer. It starts nothing and does not look for the server.
func New(c Config) (*Mailer, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	m := &Mailer{cfg: c, queue: make(chan Message, queueMax), retry: retryFirst}
	m.sent = prometheus.NewCounter(prometheus.CounterOpts{Name: "waggle_mail_sent_total", Help: "Mails the server took."})
	m.failed = prometheus.NewCounter(prometheus.CounterOpts{Name: "waggle_mail_failed_total", Help: "Mails given up."})
	m.retried = prometheus.NewCounter(prometheus.CounterOpts{Name: "waggle_mail_retries_total", Help: "Tries that failed and were repeated."})
	if c.Registerer != nil {
		waiting := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "waggle_mail_waiting", Help: "Mails in the queue."},
			func() float64 { return float64(len(m.queue)) })
		for _, one := range []prometheus.Collector{m.sent, m.failed, m.retried, waiting} {
			if err := c.Registerer.Register(one); err != nil {
				return nil, fmt.Errorf("mail: %w", err)
			}
		}
	}
	if c.Server == "" {
		return m, nil
	}
	var err error
	if m.server, err = parseServer(c.Server); err != nil {
		return nil, err
	}
	if err := gomail.NewMsg().From(c.From); err != nil {
		return nil, fmt.Errorf("mail: %q is not a sender's address, as in \"Waggle <noreply@example.org>\"", c.From)
	}
	if m.server.ca != "" {
		pool, err := certs.LoadPool(m.server.ca)
		if err != nil {
			return nil, fmt.Errorf("mail: ca: %w", err)
		}
		m.tls = &tls.Config{RootCAs: pool, ServerName: m.server.host, MinVersion: tls.VersionTLS12}
	}
	return m, nil
}

// Send queues a mail and returns.
//
// Errors: [proto.CodeNoCodes] when no mail server is configured;
// [proto.CodeOverloaded] when too many mails wait.
func (m *Mailer) Send(msg Message) error {
	if m.cfg.Server == "" {
		return proto.Errorf(proto.CodeNoCodes, "no mail can be sent: the operator has to set controlplane.smtp")
	}
	select {
	case m.queue <- msg:
		return nil
	default:
		return proto.Errorf(proto.CodeOverloaded, "too many mails wait to be sent: try again in a moment")
	}
}

// Run sends what is queued until ctx ends. What waits then is lost: its
// receiver asks for another code.
func (m *Mailer) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for range senders {
		wg.Go(func() {
			for {
				select {
				case msg := <-m.queue:
					m.deliver(ctx, msg)
				case <-ctx.Done():
					return
				}
			}
		})
	}
	wg.Wait()
	return nil
}

// deliver tries until the server takes the mail or it is of no use.
func (m *Mailer) deliver(ctx context.Context, msg Message) {
	pause := m.retry
	for {
		err := m.try(ctx, msg)
		if err == nil {
			m.sent.Inc()
			return
		}
		if ctx.Err() != nil {
			return
		}
		if refused(err) || time.Now().Add(pause).After(msg.Until) {
			m.failed.Inc()
			m.cfg.Logger.Warn("a mail could not be sent and is given up", "err", err)
			return
		}
		m.retried.Inc()
		m.cfg.Logger.Info("a mail could not be sent, trying again", "err", err)
		wait := time.NewTimer(pause)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return
		}
		pause = min(2*pause, retryMax)
	}
}

// refused tells a server's final no from what may work later. The text of the
// error stays unread: only the server's reply code decides.
func refused(err error) bool {
	e, ok := errors.AsType[*gomail.SendError](err)
	return ok && e.ErrorCode() >= 500
}

func (m *Mailer) try(ctx context.Context, msg Message) error {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	out := gomail.NewMsg()
	if err := errors.Join(out.From(m.cfg.From), out.To(msg.To)); err != nil {
		return err
	}
	out.Subject(msg.Subject)
	out.SetMessageID()
	out.SetDate()
	out.SetBodyString(gomail.TypeTextPlain, msg.Text)
	if msg.HTML != "" {
		out.AddAlternativeString(gomail.TypeTextHTML, msg.HTML)
	}
	client, err := m.server.client(m.tls)
	if err != nil {
		return err
	}
	return client.DialAndSendWithContext(ctx, out)
}
