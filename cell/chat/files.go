package chat

import (
	"net/http"
	"slices"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// fileCommand is what a resource node asks of a user's range, as a command;
// nil: it is none of that.
func fileCommand(req *cellpb.RelayRequest) *cellpb.Command {
	switch body := req.Body.(type) {
	case *cellpb.RelayRequest_CreateFile:
		return &cellpb.Command{Body: &cellpb.Command_CreateFile{CreateFile: body.CreateFile}}
	case *cellpb.RelayRequest_ReserveFile:
		return &cellpb.Command{Body: &cellpb.Command_ReserveFile{ReserveFile: body.ReserveFile}}
	case *cellpb.RelayRequest_CompleteFile:
		return &cellpb.Command{Body: &cellpb.Command_CompleteFile{CompleteFile: body.CompleteFile}}
	case *cellpb.RelayRequest_RemoveFile:
		return &cellpb.Command{Body: &cellpb.Command_RemoveFile{RemoveFile: body.RemoveFile}}
	case *cellpb.RelayRequest_PlaceFile:
		return &cellpb.Command{Body: &cellpb.Command_PlaceFile{PlaceFile: body.PlaceFile}}
	case *cellpb.RelayRequest_SetAvatar:
		return &cellpb.Command{Body: &cellpb.Command_SetAvatar{SetAvatar: body.SetAvatar}}
	}
	return nil
}

// checkFile refuses what can be no file in a message.
func checkFile(f *clientpb.FileMessage) *proto.Error {
	_, known := clientpb.FileKind_name[int32(f.Kind)]
	_, err := proto.ParseFileID(f.File)
	switch {
	case err != nil:
		return proto.Errorf(proto.CodeBadRequest, "%v", err)
	case !known:
		return proto.Errorf(proto.CodeBadRequest, "a file is shown as file, image, audio or video")
	case len(f.Thumbnail) > proto.ThumbnailBytesMax:
		return proto.Errorf(proto.CodeTooBig, "the thumbnail has %d bytes, the limit is %d", len(f.Thumbnail), proto.ThumbnailBytesMax)
	case len(f.Thumbnail) > 0 && !slices.Contains([]string{"image/jpeg", "image/png", "image/webp"}, http.DetectContentType(f.Thumbnail)):
		return proto.Errorf(proto.CodeBadRequest, "the thumbnail is no JPEG, PNG or WebP picture")
	}
	return nil
}

// completeBody fills in what the sender of a message does not choose.
func (h *host) completeBody(c *cellpb.AppendMessage, done func(*proto.Error)) {
	if c.File == nil {
		h.nameCard(c.Card, done)
		return
	}
	h.claimFile(c, done)
}

// claimFile holds the sender's file for his message and takes from his range
// what the file is. The claim is committed before the message is: so the file
// cannot be collected while the message, or the row that tells of it, is on
// its way.
func (h *host) claimFile(c *cellpb.AppendMessage, done func(*proto.Error)) {
	id, err := proto.ParseFileID(c.File.File)
	if err != nil || id.Owner != proto.EntityID(c.From) {
		done(proto.Errorf(proto.CodeUnknownFile, "file %.64q is not yours: upload it first", c.File.File))
		return
	}
	claim := &cellpb.ClaimFile{User: uint64(id.Owner), Number: id.Number}
	h.propose(&cellpb.Command{Body: &cellpb.Command_ClaimFile{ClaimFile: claim}}, 50, func(r *cellpb.Result, err *proto.Error) {
		if err == nil && r.Code != 0 {
			err = proto.AsError(proto.FromWire(r.Code, r.Message, r.RetryMs))
		}
		file := r.GetFile().GetFile()
		if err == nil && file == nil {
			err = proto.Errorf(proto.CodeUnavailable, "the answer lacks the file")
		}
		if err != nil {
			done(err)
			return
		}
		said := c.File
		c.File = &clientpb.FileMessage{
			File: id.String(), Kind: said.Kind, Name: file.Name, Size: file.Size, Type: file.Type, Blake3: file.Blake3,
			Thumbnail: said.Thumbnail, Width: said.Width, Height: said.Height, DurationMs: said.DurationMs,
		}
		done(nil)
	})
}
