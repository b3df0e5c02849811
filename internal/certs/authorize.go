package certs

import (
	"context"
	"crypto/tls"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// Allowed is who may call what: the one table of rights between nodes. What
// it does not name is refused. Health may be asked by every node.
func Allowed(fullMethod string, id Identity) bool {
	service, method, ok := strings.Cut(strings.TrimPrefix(fullMethod, "/"), "/")
	if !ok {
		return false
	}
	const (
		chat     = "waggle.cell.v1.Chat"
		storage  = "waggle.cell.v1.Storage"
		node     = "waggle.cell.v1.Node"
		accounts = "waggle.control.v1.Accounts"
		operator = "waggle.control.v1.Operator"
		health   = "grpc.health.v1.Health"
	)
	if service == health {
		return true
	}
	switch id.Role {
	case RoleEdge:
		return service == chat && method == "Attach" || service == node || service == accounts
	case RoleCell:
		// FindUser, FindPeople: hosts look names up for their sessions.
		return service == chat && method == "Relay" || service == storage || service == node ||
			service == accounts && (method == "FindUser" || method == "FindPeople")
	case RoleControlPlane:
		// It places replicas; the rest of storage is between nodes of cells.
		places := method == "CreateReplica" || method == "ChangeRange" || method == "RemoveReplica" ||
			method == "DigestRange" || method == "RecoverReplica"
		return service == chat && method == "Relay" || service == storage && places || service == node
	case RoleOperator:
		return service == operator
	}
	return false
}

// PeerIdentity is who calls, from the context of a gRPC handler. It is false
// when the connection has no verified node certificate.
func PeerIdentity(ctx context.Context) (Identity, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return Identity{}, false
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return Identity{}, false
	}
	return PeerOf(&info.State)
}

// PeerOf is who is at the other end of a connection. It is false when that
// shows no verified node certificate.
func PeerOf(state *tls.ConnectionState) (Identity, bool) {
	if state == nil || len(state.VerifiedChains) == 0 {
		return Identity{}, false
	}
	id, err := identityOf(state.VerifiedChains[0][0])
	return id, err == nil
}

// CheckPeer refuses a caller that says it is node and holds the certificate of
// another. Without mutual TLS, as in tests, nobody can be checked.
func CheckPeer(ctx context.Context, node string) error {
	id, ok := PeerIdentity(ctx)
	if ok && id.Node != node {
		return status.Errorf(codes.PermissionDenied, "%s says it is node %q", id, node)
	}
	return nil
}

// Authorize makes the server options that refuse, with PermissionDenied, what
// allow does not grant to the caller. Pass [Allowed] unless in a test.
func Authorize(allow func(fullMethod string, id Identity) bool) []grpc.ServerOption {
	check := func(ctx context.Context, method string) error {
		id, ok := PeerIdentity(ctx)
		if !ok {
			return status.Errorf(codes.Unauthenticated, "%s needs a node certificate of this cluster (waggle certs node)", method)
		}
		if !allow(method, id) {
			return status.Errorf(codes.PermissionDenied, "%s may not call %s", id, method)
		}
		return nil
	}
	unary := func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		if err := check(ctx, info.FullMethod); err != nil {
			return nil, err
		}
		return next(ctx, req)
	}
	stream := func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		if err := check(ss.Context(), info.FullMethod); err != nil {
			return err
		}
		return next(srv, ss)
	}
	return []grpc.ServerOption{grpc.ChainUnaryInterceptor(unary), grpc.ChainStreamInterceptor(stream)}
}
