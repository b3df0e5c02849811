package devcluster

import (
	"net/http"
	"sync"

	"github.com/waggle-im/waggle/internal/embedredis"
	"github.com/waggle-im/waggle/internal/mailsink"
)

// The two services that stand for what a production cluster has elsewhere.
// They are in the shape with ports of their own.
const (
	serviceRedis = "redis"
	serviceMail  = "mail"
)

// mailFrom is the sender of development mails.
const mailFrom = "Waggle <noreply@localhost>"

// services are Redis and the mail sink, in this process whatever the nodes
// are in, on loopback ports and by their real protocols.
type services struct {
	ports map[string]nodePorts

	mu    sync.Mutex // guards the fields below; held while a service starts
	redis *embedredis.Server
	mail  *mailsink.Sink
}

// start starts a service by name; false if there is no such.
func (s *services) start(name string) (known bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch name {
	case serviceRedis:
		if s.redis == nil {
			s.redis, err = embedredis.Start(s.ports[name].GRPC)
		}
	case serviceMail:
		if s.mail == nil {
			s.mail, err = mailsink.Start(s.ports[name].GRPC)
		}
	default:
		return false, nil
	}
	return true, err
}

// stop stops a service by name, if it is one and runs.
func (s *services) stop(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case name == serviceRedis && s.redis != nil:
		s.redis.Close()
		s.redis = nil
	case name == serviceMail && s.mail != nil:
		_ = s.mail.Close()
		s.mail = nil
	}
}

// mailHandler serves GET /dev/mail.
func (s *services) mailHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		sink := s.mail
		s.mu.Unlock()
		if sink == nil {
			http.Error(w, "the mail sink does not run", http.StatusServiceUnavailable)
			return
		}
		sink.Handler().ServeHTTP(w, r)
	})
}
