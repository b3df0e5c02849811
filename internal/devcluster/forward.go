package devcluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// aliveTimeout bounds the look whether a control plane answers.
const aliveTimeout = 500 * time.Millisecond

// rawCodec passes messages on as they are.
type rawCodec struct{}

// Marshal implements encoding.Codec.
func (rawCodec) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }

// Unmarshal implements encoding.Codec.
func (rawCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}

// Name implements encoding.Codec.
func (rawCodec) Name() string { return "proto" }

// newForwarder makes a gRPC server that passes every call on to the first of
// targets that is alive, so that the admin address outlives any one control
// plane.
func newForwarder(targets func() []string) *grpc.Server {
	handler := func(_ any, in grpc.ServerStream) error {
		method, ok := grpc.MethodFromServerStream(in)
		if !ok {
			return status.Error(codes.Internal, "the call has no method")
		}
		target, err := firstAlive(targets())
		if err != nil {
			return status.Error(codes.Unavailable, err.Error())
		}
		conn, err := grpc.NewClient("passthrough:///"+target, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		defer conn.Close()
		ctx, cancel := context.WithCancel(in.Context())
		defer cancel()
		out, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method, grpc.ForceCodec(rawCodec{}))
		if err != nil {
			return err
		}
		go func() { // ends with in, which ends when this handler returns
			if err := pass(in, out); err == nil {
				_ = out.CloseSend()
			} else {
				cancel()
			}
		}()
		err = pass(out, in)
		in.SetTrailer(out.Trailer())
		return err
	}
	return grpc.NewServer(grpc.UnknownServiceHandler(handler), grpc.ForceServerCodec(rawCodec{}))
}

type receiver interface{ RecvMsg(any) error }

type sender interface{ SendMsg(any) error }

// pass copies messages until the source ends.
func pass(from receiver, to sender) error {
	for {
		var msg []byte
		if err := from.RecvMsg(&msg); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := to.SendMsg(&msg); err != nil {
			return err
		}
	}
}

// firstAlive is the first that answers: one that is stopped is still connected
// to, by its kernel.
func firstAlive(targets []string) (string, error) {
	client := http.Client{Timeout: aliveTimeout}
	for _, t := range targets {
		resp, err := client.Get("http://" + t + "/livez")
		if err != nil {
			continue
		}
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return t, nil
		}
	}
	return "", fmt.Errorf("no control plane answers (of %d): it is started again by itself", len(targets))
}
