package controlclient

import (
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// ToStatus turns an error of a control plane's handler into a gRPC status
// that carries its code of the registry. nil stays nil.
func ToStatus(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	e := proto.AsError(err)
	st, detailErr := status.New(grpcCode(e.Code), e.Error()).WithDetails(&clientpb.Error{
		Code: uint32(e.Code), Message: e.Message, RetryMs: e.RetryMillis(),
	})
	if detailErr != nil {
		return status.Error(grpcCode(e.Code), e.Error())
	}
	return st.Err()
}

// grpcCode is what generic tools see; our own nodes read the detail.
func grpcCode(c proto.Code) codes.Code {
	switch c {
	case proto.CodeBadRequest, proto.CodeBadFrame, proto.CodeTooBig:
		return codes.InvalidArgument
	case proto.CodeWrongPassword, proto.CodeBadToken, proto.CodeTokenExpired:
		return codes.Unauthenticated
	case proto.CodeUnknownUser, proto.CodeUnknownCell, proto.CodeUnknownThread:
		return codes.NotFound
	case proto.CodeNameTaken:
		return codes.AlreadyExists
	case proto.CodeForbidden, proto.CodeNotMember:
		return codes.PermissionDenied
	case proto.CodeOverloaded, proto.CodeRateLimited:
		return codes.ResourceExhausted
	}
	if c.Class() == proto.ClassRetryLater {
		return codes.Unavailable
	}
	return codes.FailedPrecondition
}

// FromStatus is the error of the registry in an answer of a control plane.
// One that carries none, such as a broken connection, becomes
// [proto.CodeUnavailable]. nil stays nil.
func FromStatus(err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*proto.Error](err); ok {
		return e
	}
	st, _ := status.FromError(err)
	for _, d := range st.Details() {
		if e, ok := d.(*clientpb.Error); ok && e.Code != 0 {
			return &proto.Error{Code: proto.Code(e.Code), Message: e.Message, Retry: time.Duration(e.RetryMs) * time.Millisecond}
		}
	}
	switch st.Code() {
	case codes.PermissionDenied, codes.Unauthenticated:
		return proto.Errorf(proto.CodeForbidden, "%s", st.Message())
	case codes.Unimplemented:
		return proto.Errorf(proto.CodeUnsupported, "%s", st.Message())
	}
	return proto.Errorf(proto.CodeUnavailable, "the control plane cannot be reached (%s): try again", st.Message())
}
