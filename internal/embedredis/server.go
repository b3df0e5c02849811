package embedredis

import (
	"fmt"

	"github.com/alicebob/miniredis/v2"
)

// Server is one running server.
type Server struct{ redis *miniredis.Miniredis }

// Start listens on addr (host:port; port 0: any free one) and serves until
// Close.
func Start(addr string) (*Server, error) {
	m := miniredis.NewMiniRedis()
	m.ClockTTL(true) // or nothing would ever expire
	if err := m.StartAddr(addr); err != nil {
		return nil, fmt.Errorf("embedded Redis on %s: %w", addr, err)
	}
	return &Server{m}, nil
}

// URL is how clients reach the server.
func (s *Server) URL() string { return "redis://" + s.redis.Addr() }

// Close ends the server and every connection, and waits for them.
func (s *Server) Close() { s.redis.Close() }
