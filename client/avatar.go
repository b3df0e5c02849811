package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/waggle-im/waggle/proto"
)

// SetAvatar makes a picture (JPEG, PNG, GIF or WebP, at most 16 MiB) the user's
// avatar and returns its id, which his profile has from then on; friends are
// told. crop is the part to be shown, of which the server takes the middle
// square; empty: the whole. The server keeps only what it draws anew.
//
// Errors: [proto.CodeBadRequest] for what is no picture, has too many pixels, or
// a crop outside it; [proto.CodeTooBig].
func (f *Files) SetAvatar(ctx context.Context, raw []byte, crop image.Rectangle) (string, error) {
	path := "/avatars"
	if !crop.Empty() {
		text := fmt.Sprintf("%d,%d,%d,%d", crop.Min.X, crop.Min.Y, crop.Dx(), crop.Dy())
		path += "?" + url.Values{"crop": {text}}.Encode()
	}
	return f.changeAvatar(ctx, http.MethodPost, path, raw)
}

// RemoveAvatar takes the user's avatar away.
func (f *Files) RemoveAvatar(ctx context.Context) error {
	_, err := f.changeAvatar(ctx, http.MethodDelete, "/avatars", nil)
	return err
}

func (f *Files) changeAvatar(ctx context.Context, method, path string, raw []byte) (string, error) {
	for a := f.attempts(); ; {
		id, err := f.changeAvatarOnce(ctx, a.server(), fileCall{method: method, path: path}, raw)
		if err == nil {
			return id, nil
		}
		if err := a.wait(ctx, err); err != nil {
			return "", err
		}
	}
}

func (f *Files) changeAvatarOnce(ctx context.Context, server string, call fileCall, raw []byte) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, filesStall)
	defer cancel()
	if raw != nil {
		call.body, call.length = bytes.NewReader(raw), int64(len(raw))
	}
	resp, err := f.once(ctx, server, call)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var answer struct {
		Avatar string `json:"avatar"`
	}
	err = json.NewDecoder(io.LimitReader(resp.Body, filesReplyMax)).Decode(&answer)
	return answer.Avatar, err
}

// Avatar reads somebody's avatar, by the id that his card has, as a JPEG of 48,
// 96, 256 or 512 pixels square.
//
// Errors: [proto.CodeUnknownFile] where he has another one by now.
func (f *Files) Avatar(ctx context.Context, avatar string, size int) ([]byte, error) {
	id, err := proto.ParseFileID(avatar)
	if err != nil {
		return nil, proto.Errorf(proto.CodeBadRequest, "%v", err)
	}
	path := "/avatars/" + id.String() + "?size=" + strconv.Itoa(size)
	for a := f.attempts(); ; {
		raw, err := f.avatarOnce(ctx, a.server(), path)
		if err == nil {
			return raw, nil
		}
		if err := a.wait(ctx, err); err != nil {
			return nil, err
		}
	}
}

func (f *Files) avatarOnce(ctx context.Context, server, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, filesStall)
	defer cancel()
	resp, err := f.once(ctx, server, fileCall{method: http.MethodGet, path: path})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(io.LimitReader(resp.Body, filesReplyMax))
}
