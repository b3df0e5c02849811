package gateway

import (
	"context"
	"net/http"

	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/proto"
)

// Live passes requests about livestreams on to the resource nodes of the cell
// that can serve them, as [Files] does, and serves what viewers of HLS ask.
//
//	/live             POST   to a node of the caller's cell
//	/live/ID          GET    to a node of the owner's cell
//	/live/ID/ticket   POST   to a node of the owner's cell
//	/live/ID/FILE     GET    playlists and media: no token, but a ticket or a session
type Live struct {
	Files *Files
	HLS   http.Handler
}

// Routes implements [Mount].
func (l *Live) Routes(mux *http.ServeMux) {
	mux.HandleFunc("POST /live", l.serve)
	mux.HandleFunc("GET /live/{id}", l.serve)
	mux.HandleFunc("POST /live/{id}/ticket", l.serve)
	mux.Handle("GET /live/{id}/{file...}", l.HLS)
}

func (l *Live) serve(w http.ResponseWriter, r *http.Request) {
	caller, err := l.Files.caller(r)
	if err == nil && caller == nil {
		err = proto.Errorf(proto.CodeBadToken, `the header "Authorization: Bearer TOKEN" is missing: log in`)
	}
	var node proto.NodeID
	if err == nil {
		node, err = l.node(r, caller)
	}
	if err != nil {
		cellclient.WriteLiveProblem(w, err)
		return
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	r.Body = http.MaxBytesReader(w, r.Body, bodyBytesMax)
	l.Files.Proxy.Forward(w, r, cellclient.Forwarding{
		Node: node, Caller: caller, Scheme: scheme, Failed: cellclient.WriteLiveProblem,
	})
}

func (l *Live) node(r *http.Request, caller *cellclient.Caller) (proto.NodeID, error) {
	text := r.PathValue("id")
	if text == "" {
		return l.Files.near(r.Context(), caller)
	}
	id, err := proto.ParseLiveID(text)
	if err != nil {
		return "", proto.Errorf(proto.CodeUnknownLive, "%v", err)
	}
	return l.NodeOf(r.Context(), id)
}

// NodeOf is a resource node of the cell in which the owner of a livestream
// lives, the same one as long as it lives.
//
// Errors: [proto.CodeUnknownLive], [proto.CodeUnavailable].
func (l *Live) NodeOf(ctx context.Context, id proto.LiveID) (proto.NodeID, error) {
	node, err := l.Files.of(ctx, id.Owner)
	if proto.CodeOf(err) == proto.CodeUnknownFile {
		return "", proto.Errorf(proto.CodeUnknownLive, "there is no livestream %s for you", id)
	}
	return node, err
}
