package main

import (
	"context"
	"fmt"
	"image"
	"os"

	"github.com/spf13/cobra"
)

// avatarFlags are what `profile set` is told of an avatar.
type avatarFlags struct {
	file, crop string

	given bool
	raw   []byte // empty: none any more
	part  image.Rectangle
}

// avatarBytesMax is the server's limit of a picture.
const avatarBytesMax = 16 << 20

func (f *avatarFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.file, "avatar", "", "`FILE` with your picture: JPEG, PNG, GIF or WebP, at most 16 MiB")
	cmd.Flags().StringVar(&f.crop, "crop", "", "the part of it to show: `X,Y,W,H` in pixels")
}

// read checks the flags and reads the picture.
func (f *avatarFlags) read(cmd *cobra.Command) error {
	if f.given = cmd.Flags().Changed("avatar"); !f.given || f.file == "" {
		if f.crop != "" {
			return usagef("--crop needs --avatar FILE")
		}
		return nil
	}
	if f.crop != "" {
		var x, y, w, h int
		var rest string
		if n, _ := fmt.Sscanf(f.crop, "%d,%d,%d,%d%s", &x, &y, &w, &h, &rest); n != 4 || x < 0 || y < 0 || w < 1 || h < 1 {
			return usagef("--crop %s: X,Y,W,H in pixels, as in 10,0,200,200", f.crop)
		}
		f.part = image.Rect(x, y, x+w, y+h)
	}
	info, err := os.Stat(f.file)
	if err != nil {
		return fmt.Errorf("--avatar: %w", err)
	}
	if info.Size() == 0 || info.Size() > avatarBytesMax {
		return fmt.Errorf("--avatar %s: has %d bytes, from 1 to %d", f.file, info.Size(), avatarBytesMax)
	}
	if f.raw, err = os.ReadFile(f.file); err != nil {
		return fmt.Errorf("--avatar: %w", err)
	}
	return nil
}

func (f *avatarFlags) set(ctx context.Context, s *session) error {
	if !f.given {
		return nil
	}
	files := s.Files()
	defer files.Close()
	if len(f.raw) == 0 {
		return files.RemoveAvatar(ctx)
	}
	_, err := files.SetAvatar(ctx, f.raw, f.part)
	return err
}
