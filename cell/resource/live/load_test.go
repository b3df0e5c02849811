//go:build unix

package live

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/bluenviron/gortsplib/v4"
)

func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkViewers shows what viewers of one stream of 2 Mbit/s take: cores of
// the node, and packets lost. The viewers are another process. It runs for ten
// seconds: use -benchtime 1x.
func BenchmarkViewers(b *testing.B) {
	for _, transport := range []string{"tcp", "udp"} {
		for _, viewers := range []int{50, 200} {
			b.Run(transport+"/"+strconv.Itoa(viewers), func(b *testing.B) {
				for range b.N {
					benchmarkViewers(b, viewers, transport == "udp")
				}
			})
		}
	}
}

func benchmarkViewers(b *testing.B, viewers int, udp bool) {
	const seconds, perSecond, pictureBytes = 10, 25, 10_000
	n := start(b, Config{RecheckInterval: 5 * time.Second, ReportInterval: time.Second}, newFakeRights())
	defer n.end(b)
	s := mustSynthetic(b, n, spsA)
	defer s.Client.Close()
	spec, err := json.Marshal(load{URL: n.watchURL("rtsp", "t1"), Viewers: viewers, UDP: udp})
	if err != nil {
		b.Fatal(err)
	}
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), loadOf+"="+string(spec))
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := child.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() { _ = child.Process.Kill(); _ = child.Wait() }()
	var ready string
	if _, err := fmt.Fscanln(out, &ready); err != nil || ready != "ready" {
		b.Fatalf("the viewers say %q, %v", ready, err)
	}
	used, began := cpu(), time.Now()
	tick := time.NewTicker(time.Second / perSecond)
	defer tick.Stop()
	for range seconds * perSecond {
		<-tick.C
		if err := s.send(pictureBytes); err != nil {
			b.Fatal(err)
		}
	}
	cores := float64(cpu()-used) / float64(time.Since(began))
	n.End(testID, "enough")
	var l load
	if err := json.NewDecoder(out).Decode(&l); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(cores, "cores")
	b.ReportMetric(float64(l.Lost), "lost")
	b.ReportMetric(float64(l.Packets)/time.Since(began).Seconds(), "packets/s")
	b.ReportMetric(float64(l.Connected), "viewers")
	if l.Connected != viewers || len(l.Errors) > 0 {
		b.Errorf("%d of %d viewers are there: %v", l.Connected, viewers, l.Errors)
	}
	if slow := n.log.String(); l.Lost > 0 {
		b.Log(slow)
	}
}

// BenchmarkLatency shows how long a picture takes from its publisher to a viewer
// by RTSP, and until it stands in a part of HLS that can be fetched. A player of
// HLS waits for PART-HOLD-BACK more.
func BenchmarkLatency(b *testing.B) {
	for range b.N {
		benchmarkLatency(b)
	}
}

func benchmarkLatency(b *testing.B) {
	const pictures, perSecond = 150, 25
	n := start(b, Config{}, newFakeRights())
	defer n.end(b)
	s := mustSynthetic(b, n, spsA)
	defer s.Client.Close()
	w, err := newWatcher(n, "t1", gortsplib.TransportTCP)
	if err != nil {
		b.Fatal(err)
	}
	defer w.Client.Close()
	sent := make([]time.Time, pictures)
	var rtsp []time.Duration
	parts := make(chan time.Duration, pictures)
	stop := make(chan struct{})
	var mu sync.Mutex // guards sent
	go func() {
		defer close(parts)
		for seen := -1; ; {
			select {
			case <-stop:
				return
			default:
			}
			newest, ok := newestPart(n.http.URL + "/live/" + testID.String() + "/")
			mu.Lock()
			if ok && newest > seen && newest < pictures {
				seen = newest
				parts <- time.Since(sent[newest])
			}
			mu.Unlock()
		}
	}()
	tick := time.NewTicker(time.Second / perSecond)
	defer tick.Stop()
	for i := range pictures {
		<-tick.C
		mu.Lock()
		sent[i] = time.Now()
		mu.Unlock()
		if err := s.send(10_000); err != nil {
			b.Fatal(err)
		}
		if i > syntheticGroup {
			w.until(b, i)
			rtsp = append(rtsp, time.Since(sent[i]))
		}
	}
	close(stop)
	n.End(testID, "enough")
	var hls []time.Duration
	for d := range parts {
		hls = append(hls, d)
	}
	for name, all := range map[string][]time.Duration{"rtsp": rtsp, "hls-part": hls} {
		if len(all) == 0 {
			b.Errorf("nothing was seen by %s", name)
			continue
		}
		slices.Sort(all)
		b.ReportMetric(float64(all[len(all)/2].Milliseconds()), name+"-p50-ms")
		b.ReportMetric(float64(all[len(all)-1].Milliseconds()), name+"-max-ms")
	}
}

// newestPart fetches the newest part that a playlist names and finds the last
// picture in it.
func newestPart(at string) (picture int, ok bool) {
	list, ok := fetch(at + "video1_stream.m3u8")
	found := regexp.MustCompile(`#EXT-X-PART:.*URI="([^"]+)"`).FindAllStringSubmatch(list, -1)
	if !ok || len(found) == 0 {
		return 0, false
	}
	body, ok := fetch(at + found[len(found)-1][1])
	numbers := regexp.MustCompile(`[Ae]([0-9]{9})U`).FindAllStringSubmatch(body, -1)
	if !ok || len(numbers) == 0 {
		return 0, false
	}
	number, err := strconv.Atoi(numbers[len(numbers)-1][1])
	return number - 1, err == nil
}

func fetch(url string) (string, bool) {
	res, err := http.Get(url)
	if err != nil {
		return "", false
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return string(body), err == nil && res.StatusCode == http.StatusOK
}
