package live

import (
	"encoding/json"
	"fmt"
	"sync"

	"github.com/bluenviron/gortsplib/v4"
	"github.com/bluenviron/gortsplib/v4/pkg/base"
	"github.com/bluenviron/gortsplib/v4/pkg/description"
	"github.com/bluenviron/gortsplib/v4/pkg/format"
	"github.com/pion/rtp"
)

// loadOf in the environment makes the test binary a process of viewers.
const loadOf = "WAGGLE_LIVE_LOAD"

// load is what a process of viewers does and has seen.
type load struct {
	URL       string
	Viewers   int
	UDP       bool
	Connected int
	Packets   uint64
	Lost      uint64
	Errors    []string
}

// viewersMain plays until the livestream ends.
func viewersMain(spec string) {
	var l load
	if err := json.Unmarshal([]byte(spec), &l); err != nil {
		panic(err)
	}
	var mu sync.Mutex
	var viewing sync.WaitGroup
	for range l.Viewers {
		c, err := l.play(&mu)
		if err != nil {
			mu.Lock()
			l.Errors = append(l.Errors, err.Error())
			mu.Unlock()
			continue
		}
		l.Connected++
		viewing.Go(func() { _ = c.Wait() })
	}
	fmt.Println("ready")
	viewing.Wait()
	out, err := json.Marshal(&l)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(out))
}

func (l *load) play(mu *sync.Mutex) (*gortsplib.Client, error) {
	transport := gortsplib.TransportTCP
	if l.UDP {
		transport = gortsplib.TransportUDP
	}
	u, err := base.ParseURL(l.URL)
	if err != nil {
		return nil, err
	}
	c := &gortsplib.Client{Scheme: u.Scheme, Host: u.Host, Transport: &transport, OnPacketsLost: func(n uint64) { mu.Lock(); defer mu.Unlock(); l.Lost += n }, OnDecodeError: func(error) {}}
	if err := c.Start2(); err != nil {
		return nil, err
	}
	desc, _, err := c.Describe(u)
	if err == nil {
		err = c.SetupAll(desc.BaseURL, desc.Medias)
	}
	if err == nil {
		c.OnPacketRTPAny(func(*description.Media, format.Format, *rtp.Packet) { mu.Lock(); defer mu.Unlock(); l.Packets++ })
		_, err = c.Play(nil)
	}
	if err != nil {
		c.Close()
	}
	return c, err
}
