package client

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/waggle-im/waggle/proto"
)

const (
	// filesPatience is how long a request about files is tried again while
	// nothing gets through: above the restart of an edge and of a node.
	filesPatience = 2 * time.Minute
	// filesStall ends an attempt in which nothing moved for so long; servers
	// end theirs after the same time.
	filesStall = time.Minute
	// filesReplyMax bounds an answer that is no content: a page of a list.
	filesReplyMax = 4 << 20
	// The wait before another attempt doubles from min to max.
	filesRetryMin = 100 * time.Millisecond
	filesRetryMax = 5 * time.Second
)

// Place names the message that carries a file: who is not its owner reads it
// as a member of that thread. Zero for the owner.
type Place struct {
	Thread string
	Seq    proto.Seq
}

func (p Place) query() url.Values {
	q := url.Values{}
	if p.Thread != "" {
		q.Set("thread", p.Thread)
		q.Set("seq", strconv.FormatUint(uint64(p.Seq), 10))
	}
	return q
}

// File is what is known of a file.
type File struct {
	ID         string
	Name       string // cleaned by the server, to be cleaned again before it is a path
	Size       int64
	Type       string // by its first bytes
	Blake3     string // of the content, hexadecimal
	CreatedAt  time.Time
	References uint64  // messages that carry it; its owner sees it
	Sent       []Place // its owner sees where, at most 200
}

// FileQuota is what a user's files take.
type FileQuota struct {
	Used, Limit int64 // bytes, uploads under way counted
	Files       int64
}

// Files moves files up and down and manages them, over HTTP/1.1 beside the
// client's connection: bulk neither delays messages nor is delayed by them. It
// survives the death of edges and nodes as long as something gets through every
// two minutes.
type Files struct {
	c    *Client
	http *http.Client
}

// Files are the user's files. Close frees their connections. The client need
// not be connected, but refreshes its token only while it runs or is asked.
func (c *Client) Files() *Files {
	transport := &http.Transport{
		// Without HTTP/2, whose frames cost a third of the rate of bulk.
		TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{},
		// A node that is started again takes its time; a dead one says nothing.
		TLSHandshakeTimeout: c.cfg.DialTimeout, WriteBufferSize: 64 << 10, ReadBufferSize: 64 << 10,
	}
	if c.cfg.Transport != Plain {
		transport.TLSClientConfig = tlsConfig(&c.cfg, c.cfg.Server)
		transport.TLSClientConfig.NextProtos = []string{"http/1.1"}
		if c.cfg.TLS == nil || c.cfg.TLS.ServerName == "" {
			transport.TLSClientConfig.ServerName = "" // that of each edge
		}
	}
	noRedirects := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Files{c: c, http: &http.Client{Transport: transport, CheckRedirect: noRedirects}}
}

// Close frees idle connections.
func (f *Files) Close() { f.http.CloseIdleConnections() }

// fileCall is one request about files.
type fileCall struct {
	method, path string
	header       map[string]string
	body         io.Reader // used up by one attempt
	length       int64
}

// once makes one attempt at a server. An answer that is no success is an error.
func (f *Files) once(ctx context.Context, server string, call fileCall) (*http.Response, error) {
	if err := f.c.freshToken(ctx); err != nil {
		return nil, err
	}
	scheme := "https://"
	if f.c.cfg.Transport == Plain {
		scheme = "http://"
	}
	req, err := http.NewRequestWithContext(ctx, call.method, scheme+server+call.path, call.body)
	if err != nil {
		return nil, fmt.Errorf("client: files: %w", err)
	}
	if call.body != nil {
		req.ContentLength = call.length
	}
	f.c.mu.Lock()
	token := f.c.tokens.Token
	f.c.mu.Unlock()
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Tus-Resumable", "1.0.0")
	for name, value := range call.header {
		req.Header.Set(name, value)
	}
	resp, err := f.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	err = refusalOf(resp)
	if proto.CodeOf(err) == proto.CodeTokenExpired {
		f.c.helloRefused(err)
	}
	return nil, err
}

// httpError is an answer that is no success.
type httpError struct {
	status int
	retry  time.Duration // what Retry-After says
	err    *proto.Error  // what the server says of it, as far as it is known
}

// Error implements error.
func (e *httpError) Error() string { return e.err.Error() }

// Unwrap gives the error of the registry.
func (e *httpError) Unwrap() error { return e.err }

// refusalOf reads an answer that is no success.
func refusalOf(resp *http.Response) error {
	raw, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	var said struct {
		Code   string `json:"code"`
		Detail string `json:"detail"`
	}
	e := &httpError{status: resp.StatusCode, err: &proto.Error{Code: codeOfStatus(resp.StatusCode)}}
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
		e.retry = time.Duration(seconds) * time.Second
	}
	if json.Unmarshal(raw, &said) == nil && said.Detail != "" {
		if code, ok := proto.CodeNamed(said.Code); ok {
			e.err.Code = code
		}
		e.err.Message = said.Detail
		return e
	}
	text := strings.TrimSpace(string(raw))
	if _, after, ok := strings.Cut(text, ": "); ok && strings.HasPrefix(text, "ERR_") {
		text = after
	}
	if e.err.Message = text; text == "" {
		e.err.Message = fmt.Sprintf("the server answered with status %d", resp.StatusCode)
	}
	return e
}

// codeOfStatus is the code of an answer that names none.
func codeOfStatus(status int) proto.Code {
	switch status {
	case http.StatusUnauthorized:
		return proto.CodeBadToken
	case http.StatusNotFound, http.StatusGone:
		return proto.CodeUnknownFile
	case http.StatusRequestEntityTooLarge:
		return proto.CodeTooBig
	case http.StatusTooManyRequests:
		return proto.CodeRateLimited
	case http.StatusLocked, http.StatusRequestTimeout:
		return proto.CodeUnavailable
	}
	if status >= 500 {
		return proto.CodeUnavailable
	}
	return proto.CodeBadRequest
}

func statusOf(err error) int {
	if e, ok := errors.AsType[*httpError](err); ok {
		return e.status
	}
	return 0
}

// mayPass tells whether what failed may work later, or at another edge.
func (f *Files) mayPass(err error) bool {
	e, refused := errors.AsType[*proto.Error](err)
	if !refused {
		return true // the connection broke
	}
	return e.Code.Class() != proto.ClassGiveUp || e.Code == proto.CodeTokenExpired && f.c.canRefresh()
}

// attempts is one request, or one transfer, across attempts.
type attempts struct {
	f       *Files
	servers []string
	at      int // of the server to ask
	backoff time.Duration
	since   time.Time // of the last time that something got through
}

func (f *Files) attempts() *attempts {
	f.c.mu.Lock()
	defer f.c.mu.Unlock()
	return &attempts{f: f, servers: slices.Clone(f.c.servers), backoff: filesRetryMin, since: time.Now()}
}

func (a *attempts) server() string { return a.servers[a.at%len(a.servers)] }

// passed notes that something got through.
func (a *attempts) passed() { a.backoff, a.since = filesRetryMin, time.Now() }

// wait waits before the next attempt, at the next edge; err if there is none.
func (a *attempts) wait(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if !a.f.mayPass(err) || time.Since(a.since) > filesPatience {
		return err
	}
	wait := rand.N(a.backoff)
	if e, ok := errors.AsType[*httpError](err); ok {
		wait += e.retry
	}
	a.backoff = min(2*a.backoff, filesRetryMax)
	a.at++
	select {
	case <-time.After(wait):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ask makes a request without a body that may be repeated, and reads the
// answer into v if that is not nil.
func (f *Files) ask(ctx context.Context, call fileCall, v any) (http.Header, error) {
	for a := f.attempts(); ; {
		header, err := f.askOnce(ctx, a.server(), call, v)
		if err == nil {
			return header, nil
		}
		if err := a.wait(ctx, err); err != nil {
			return nil, err
		}
	}
}

func (f *Files) askOnce(ctx context.Context, server string, call fileCall, v any) (http.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, filesStall)
	defer cancel()
	resp, err := f.once(ctx, server, call)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, filesReplyMax))
	if err == nil && v != nil {
		err = json.Unmarshal(raw, v)
	}
	return resp.Header, err
}

// fileJSON is a file as servers write it.
type fileJSON struct {
	ID         string    `json:"id"`
	Name       string    `json:"name"`
	Size       int64     `json:"size"`
	Type       string    `json:"type"`
	Blake3     string    `json:"blake3"`
	CreatedAt  time.Time `json:"created_at"`
	References uint64    `json:"references"`
	Sent       []struct {
		Thread string    `json:"thread"`
		Seq    proto.Seq `json:"seq"`
	} `json:"sent"`
}

func (j fileJSON) file() File {
	out := File{ID: j.ID, Name: j.Name, Size: j.Size, Type: j.Type, Blake3: j.Blake3, CreatedAt: j.CreatedAt, References: j.References}
	for _, s := range j.Sent {
		out.Sent = append(out.Sent, Place(s))
	}
	return out
}

// List pages through the user's files, newest first. before is empty for the
// first page; next is empty after the last.
func (f *Files) List(ctx context.Context, before string, limit int) (files []File, next string, quota FileQuota, err error) {
	q := url.Values{"limit": {strconv.Itoa(limit)}}
	if before != "" {
		id, err := proto.ParseFileID(before)
		if err != nil {
			return nil, "", quota, proto.Errorf(proto.CodeBadRequest, "%v", err)
		}
		q.Set("before", strconv.FormatUint(id.Number, 10))
	}
	var page struct {
		Files []fileJSON `json:"files"`
		More  bool       `json:"more"`
		Quota struct {
			Used  int64 `json:"used"`
			Limit int64 `json:"limit"`
			Files int64 `json:"files"`
		} `json:"quota"`
	}
	if _, err := f.ask(ctx, fileCall{method: http.MethodGet, path: "/files?" + q.Encode()}, &page); err != nil {
		return nil, "", quota, err
	}
	for _, one := range page.Files {
		files = append(files, one.file())
	}
	if page.More && len(files) > 0 {
		next = files[len(files)-1].ID
	}
	return files, next, FileQuota(page.Quota), nil
}

// Show describes a file.
//
// Errors: [proto.CodeUnknownFile], also for one that may not be read.
func (f *Files) Show(ctx context.Context, file string, at Place) (File, error) {
	path, err := filePath(file, "/info", at.query())
	if err != nil {
		return File{}, err
	}
	var j fileJSON
	_, err = f.ask(ctx, fileCall{method: http.MethodGet, path: path}, &j)
	return j.file(), err
}

// Remove removes one of the user's own files, sent or not.
func (f *Files) Remove(ctx context.Context, file string) error {
	path, err := filePath(file, "", nil)
	if err == nil {
		_, err = f.ask(ctx, fileCall{method: http.MethodDelete, path: path}, nil)
	}
	return err
}

// Link makes an address that gives the file without a token, for players and
// image tags, until it expires.
func (f *Files) Link(ctx context.Context, file string, at Place) (address string, expires time.Time, err error) {
	path, err := filePath(file, "/link", at.query())
	if err != nil {
		return "", expires, err
	}
	var j struct {
		URL       string    `json:"url"`
		ExpiresAt time.Time `json:"expires_at"`
	}
	if _, err := f.ask(ctx, fileCall{method: http.MethodPost, path: path}, &j); err != nil {
		return "", expires, err
	}
	scheme := "https://"
	if f.c.cfg.Transport == Plain {
		scheme = "http://"
	}
	return scheme + f.attempts().server() + j.URL, j.ExpiresAt, nil
}

// filePath is the address of a file, whose id is checked: none is ever built
// from what somebody has typed.
func filePath(file, below string, q url.Values) (string, error) {
	id, err := proto.ParseFileID(file)
	if err != nil {
		return "", proto.Errorf(proto.CodeBadRequest, "%v", err)
	}
	path := "/files/" + id.String() + below
	if len(q) > 0 {
		path += "?" + q.Encode()
	}
	return path, nil
}
