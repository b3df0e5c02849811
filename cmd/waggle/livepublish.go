package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/atomicfile"
)

const (
	// liveKeysDir is where a profile keeps the stream keys of its livestreams.
	liveKeysDir  = "live"
	transportRTP = "rtsp"
	transportFLV = "rtmp"
	// streamKeyVar is the environment variable with a stream key.
	streamKeyVar = "WAGGLE_STREAM_KEY"
)

// keepStreamKey remembers a stream key in the profile, which only its user
// reads. Where it cannot, it says so: the livestream can be published all the
// same.
func (a *app) keepStreamKey(p *person, made client.CreatedLive) {
	dir, err := p.profileDir()
	if err == nil {
		dir = filepath.Join(dir, liveKeysDir)
		err = os.MkdirAll(dir, 0o700)
	}
	if err == nil {
		err = atomicfile.Write(filepath.Join(dir, made.ID+".key"), []byte(made.StreamKey+"\n"), 0o600)
	}
	if err != nil {
		fmt.Fprintf(a.err, "waggle: the stream key cannot be kept in the profile: %v\n", err)
	}
}

// streamKey finds the stream key of a livestream: of the file named, of the
// environment, or of this profile.
func (a *app) streamKey(p *person, live, file string) (string, error) {
	if file == "" {
		if key := a.getenv(streamKeyVar, ""); key != "" {
			return key, nil
		}
		dir, err := p.profileDir()
		if err != nil {
			return "", err
		}
		file = filepath.Join(dir, liveKeysDir, live+".key")
	}
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", usagef("the stream key of %s is not in this profile, which did not create it: name a file that has it with --key-file, or set %s", live, streamKeyVar)
	}
	if err != nil {
		return "", fmt.Errorf("--key-file: %w", err)
	}
	return strings.TrimRight(string(raw), "\r\n"), nil
}

func (a *app) livePublish() *cobra.Command {
	var to, keyFile string
	var l client.NewLive
	transport := choice{value: transportRTP, allowed: []string{transportRTP, transportFLV}}
	cmd := &cobra.Command{
		Use: "publish LIVE_ID FILE | publish FILE --to T", Short: "send a video file as a livestream", Args: args(1, 2),
		Long: "Sends FILE, in its own time, as livestream LIVE_ID, until it ends or is interrupted;\n" +
			"with --to T it makes a livestream first. It runs ffmpeg, which must be installed;\n" +
			"FILE can be whatever ffmpeg reads. The stream key is the one `waggle live create`\n" +
			"left in this profile, that of --key-file, or WAGGLE_STREAM_KEY. Cameras and other\n" +
			"programs publish at the addresses `waggle live create` prints.",
		Example: "  waggle live publish 4096-1 garden.mp4\n  waggle live publish garden.mp4 --to bob --title 'my garden'",
	}
	p := a.personFlags(cmd)
	cmd.Flags().StringVar(&to, "to", "", "make a livestream for `T` first")
	cmd.Flags().StringVar(&l.Title, "title", "", "with --to: what it is called")
	cmd.Flags().BoolVar(&l.Record, "record", false, "with --to: send a recording when it ends")
	cmd.Flags().StringVar(&keyFile, "key-file", "", "`FILE` with the stream key")
	cmd.Flags().Var(&transport, "transport", "rtsp or rtmp")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if (to == "") != (len(args) == 2) {
			return usagef("name LIVE_ID and FILE, or FILE and --to T")
		}
		file := args[len(args)-1]
		if to == "" {
			if err := parseLive(args[0]); err != nil {
				return err
			}
		}
		return a.withLive(cmd.Context(), p, func(s *session, f *client.Files) error {
			address, err := a.publishAddress(cmd.Context(), p, s, f, publishing{args[0], to, keyFile, transport.value, l})
			if err != nil {
				return err
			}
			return a.runFFmpeg(cmd.Context(), ffmpegArgs(file, transport.value, address))
		})
	}
	return cmd
}

// publishing is what is to be published.
type publishing struct {
	live, to, keyFile, transport string
	make                         client.NewLive
}

// publishAddress is where to publish, stream key included; it makes the
// livestream where one is asked for.
func (a *app) publishAddress(ctx context.Context, p *person, s *session, f *client.Files, what publishing) (string, error) {
	if what.to != "" {
		t, err := parseTarget(what.to)
		if err != nil {
			return "", err
		}
		made, err := s.createLive(ctx, f, t, what.make)
		if err != nil {
			return "", err
		}
		a.keepStreamKey(p, made)
		fmt.Fprintf(a.err, "waggle: livestream %s was announced to %s\n", made.ID, what.to)
		return addressFor(what.transport, made.RTSP, made.RTMP), nil
	}
	key, err := a.streamKey(p, what.live, what.keyFile)
	if err != nil {
		return "", err
	}
	l, err := f.ShowLive(ctx, what.live)
	if err != nil {
		return "", explain(s.server, err)
	}
	u, err := url.Parse(addressFor(what.transport, l.RTSP, l.RTMP))
	if err != nil || u.Host == "" {
		return "", fmt.Errorf("no node takes livestreams by %s just now", what.transport)
	}
	u.RawQuery = url.Values{"key": {key}}.Encode()
	return u.String(), nil
}

func addressFor(transport, rtsp, rtmp string) string {
	if transport == transportFLV {
		return rtmp
	}
	return rtsp
}

// createLive makes a livestream for a target.
func (s *session) createLive(ctx context.Context, f *client.Files, t target, l client.NewLive) (client.CreatedLive, error) {
	thread, err := s.threadOf(ctx, t)
	if err != nil {
		return client.CreatedLive{}, err
	}
	l.Thread = thread
	made, err := f.CreateLive(ctx, l)
	if err != nil {
		return made, explain(s.server, err)
	}
	return made, nil
}

// ffmpegArgs send a file in its own time, as what every player understands.
func ffmpegArgs(file, transport, address string) []string {
	args := []string{
		"-hide_banner", "-loglevel", "error", "-nostdin", "-re", "-i", file,
		"-c:v", "libx264", "-preset", "veryfast", "-tune", "zerolatency", "-pix_fmt", "yuv420p", "-g", "60",
		"-c:a", "aac", "-b:a", "128k",
	}
	if transport == transportFLV {
		return append(args, "-f", "flv", address)
	}
	return append(args, "-f", "rtsp", "-rtsp_transport", "tcp", address)
}

// runFFmpeg runs ffmpeg until it ends; interrupting it is a good end.
func (a *app) runFFmpeg(ctx context.Context, args []string) error {
	program, err := exec.LookPath("ffmpeg")
	if err != nil {
		return fmt.Errorf("ffmpeg is not installed (Debian: apt install ffmpeg): install it, or run where it is: ffmpeg %s", shellWords(args))
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.Stderr = a.err
	err = cmd.Run()
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("ffmpeg has failed (%w): what it says is above", err)
	}
	return nil
}

// shellWords writes a command line that can be pasted.
func shellWords(args []string) string {
	quoted := make([]string, len(args))
	for i, arg := range args {
		quoted[i] = arg
		if strings.ContainsAny(arg, " '\"$&?*;|<>()\\`") {
			quoted[i] = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
		}
	}
	return strings.Join(quoted, " ")
}
