package files

import (
	"context"
	"encoding/hex"
	"net/http"
	"strconv"
	"time"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// fileJSON is a file as clients see it.
type fileJSON struct {
	ID         string `json:"id"`
	Name       string `json:"name"`
	Size       uint64 `json:"size"`
	Type       string `json:"type"`
	Blake3     string `json:"blake3"`
	CreatedAt  string `json:"created_at"`
	References uint64 `json:"references"` // messages that carry it
}

type quotaJSON struct {
	Used  uint64 `json:"used"` // uploads under way counted
	Limit int64  `json:"limit"`
	Files uint64 `json:"files"`
}

type listJSON struct {
	Files []fileJSON `json:"files"`
	More  bool       `json:"more"` // go on with before = the last number
	Quota quotaJSON  `json:"quota"`
}

type infoJSON struct {
	fileJSON
	Sent []place `json:"sent,omitempty"` // its owner sees where, at most 200
}

type linkJSON struct {
	URL       string `json:"url"` // a path on the same server
	ExpiresAt string `json:"expires_at"`
}

func asJSON(row *cellpb.FileRow) fileJSON {
	f := row.File
	return fileJSON{
		ID: proto.FileID{Owner: proto.EntityID(row.User), Number: row.Number}.String(), Name: f.Name, Size: f.Size, Type: f.Type,
		Blake3: hex.EncodeToString(f.Blake3), CreatedAt: time.UnixMilli(f.CompletedMs).UTC().Format(time.RFC3339), References: f.References,
	}
}

// list pages through the caller's files.
func (s *Service) list(w http.ResponseWriter, r *http.Request) {
	caller, err := s.caller(r)
	if err != nil {
		writeProblem(w, err)
		return
	}
	ask := &cellpb.ReadFiles{User: uint64(caller.User)}
	for name, into := range map[string]func(uint64){
		"before": func(n uint64) { ask.Before = n },
		"limit":  func(n uint64) { ask.Limit = uint32(min(n, proto.PageMax)) },
	} {
		text := r.URL.Query().Get(name)
		if text == "" {
			continue
		}
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			writeProblem(w, proto.Errorf(proto.CodeBadRequest, "%s is not a number", name))
			return
		}
		into(n)
	}
	reply, err := s.ask(r.Context(), caller.User, &cellpb.RelayRequest{Body: &cellpb.RelayRequest_ReadFiles{ReadFiles: ask}})
	if err != nil {
		writeProblem(w, err)
		return
	}
	found := reply.GetFiles()
	out := listJSON{
		Files: []fileJSON{}, More: found.More,
		Quota: quotaJSON{Used: found.Usage.Bytes, Limit: s.cfg.QuotaBytes, Files: found.Usage.Files},
	}
	for _, row := range found.Files {
		if row.File != nil {
			out.Files = append(out.Files, asJSON(row))
		}
	}
	writeJSON(w, out)
}

// readable reads what is known of a file that the caller may read.
func (s *Service) readable(r *http.Request) (reading, *cellpb.Files, error) {
	ask, err := s.reading(r)
	if err == nil {
		err = s.mayRead(r.Context(), ask.caller, ask.id, ask.at)
	}
	if err != nil {
		return ask, nil, err
	}
	known, err := s.readFile(r.Context(), ask.id)
	if err == nil && fileOf(known) == nil {
		err = errUnknownFile(ask.id)
	}
	return ask, known, err
}

// info describes a file.
func (s *Service) info(w http.ResponseWriter, r *http.Request) {
	ask, known, err := s.readable(r)
	if err != nil {
		writeProblem(w, err)
		return
	}
	out := infoJSON{fileJSON: asJSON(known.Files[0])}
	if ask.caller.User == ask.id.Owner {
		for _, ref := range known.Sent {
			out.Sent = append(out.Sent, place{Thread: ref.Thread, Seq: ref.Seq})
		}
	} else {
		out.References = 0 // in how many threads it is, is its owner's business
	}
	writeJSON(w, out)
}

// makeLink makes a signed link to a file that the caller may read now.
func (s *Service) makeLink(w http.ResponseWriter, r *http.Request) {
	ask, _, err := s.readable(r)
	if err != nil {
		writeProblem(w, err)
		return
	}
	expires := s.now().Add(linkLifetime)
	text := s.signLink(link{File: ask.id.String(), Caller: ask.caller, Place: ask.at, Expires: expires.Unix()})
	writeJSON(w, linkJSON{URL: "/files/" + ask.id.String() + "?link=" + text, ExpiresAt: expires.UTC().Format(time.RFC3339)})
}

// remove removes a file of the caller, whether or not it was sent. Its blob
// goes at once if it lies here, else with the next collection where it lies.
func (s *Service) remove(w http.ResponseWriter, r *http.Request) {
	ask, err := s.reading(r)
	if err == nil && (ask.caller.User != ask.id.Owner || r.URL.Query().Has("link")) {
		err = errUnknownFile(ask.id)
	}
	if err != nil {
		writeProblem(w, err)
		return
	}
	known, err := s.readFile(r.Context(), ask.id)
	if err == nil && fileOf(known) == nil {
		err = errUnknownFile(ask.id)
	}
	var row *cellpb.FileRow
	if err == nil {
		row, err = s.removeFile(r.Context(), ask.id, time.Time{})
	}
	if err != nil {
		writeProblem(w, err)
		return
	}
	if file := row.GetFile(); file != nil && s.elsewhere(file) == "" {
		s.logFailed(ask.id, s.store.Remove(context.WithoutCancel(r.Context()), file.Blob))
	}
	w.WriteHeader(http.StatusNoContent)
}
