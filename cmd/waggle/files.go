package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/bytesize"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

const (
	// uploadsDir is where a profile keeps how far uploads are, downloadsDir its
	// locks of downloads.
	uploadsDir   = "uploads"
	downloadsDir = "downloads"
	// searchMax bounds the messages that are looked through for a file.
	searchMax = 20_000
)

// uploadedLine is what `upload` ends with.
type uploadedLine struct {
	File   string `json:"file_id"`
	Size   int64  `json:"size"`
	Blake3 string `json:"blake3"`
	Thread string `json:"thread"`
	Seq    string `json:"seq"`
}

func (a *app) upload() *cobra.Command {
	var to, name string
	var parts int
	cmd := &cobra.Command{
		Use: "upload FILE --to T", Short: "send a file", Args: args(1, 1),
		Long: "Uploads FILE and sends it to T (a user name, an id, d/… or g/…). It goes on across\n" +
			"the death of servers. One that was interrupted goes on where it was when it is\n" +
			"called again with the same FILE, unless its size or modification time is another.\n" +
			"The server stores it encrypted and compares its BLAKE3 before anyone can read it.\n" +
			"Status 0 says that file and message are stored. --parts sends pieces at once,\n" +
			"which pays where one connection does not fill the way.",
		Example: "  waggle upload holiday.jpg --to bob\n  waggle upload disk.img --to bob --parts 4",
	}
	p := a.personFlags(cmd)
	cmd.Flags().StringVar(&to, "to", "", "whom to send it: `T`")
	cmd.Flags().StringVar(&name, "name", "", "the `NAME` that others see; default: FILE's")
	cmd.Flags().IntVar(&parts, "parts", 1, "how many pieces go at once, at most 8")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if to == "" {
			return usagef("--to T is missing: whom to send %s", args[0])
		}
		if parts < 1 || parts > 8 {
			return usagef("--parts %d: from 1 to 8", parts)
		}
		t, err := parseTarget(to)
		if err != nil {
			return err
		}
		dir, err := p.profileDir()
		if err != nil {
			return err
		}
		s, err := p.connect(cmd.Context(), nil)
		if err != nil {
			return err
		}
		defer s.close()
		thread, err := s.threadOf(cmd.Context(), t)
		if err != nil {
			return err
		}
		bar := a.newTransferBar(cmp.Or(name, filepath.Base(args[0])))
		sent, file, err := s.sendFile(cmd.Context(), thread, client.UploadOptions{
			Path: args[0], Name: name, Parts: parts, Book: filepath.Join(dir, uploadsDir), Progress: bar.show,
		})
		bar.end()
		if err != nil {
			return interruptedUpload(cmd.Context(), err, args[0], to)
		}
		if p.json() {
			return printLine(a.out, uploadedLine{file.ID, file.Size, file.Blake3, sent.Thread, decimal(uint64(sent.Seq))})
		}
		_, err = fmt.Fprintf(a.out, "%s (%s) is file %s, stored as %d of %s\n", harmless(file.Name), bytesize.Words(file.Size), file.ID, sent.Seq, sent.Thread)
		return err
	}
	return cmd
}

// interruptedUpload says how to go on.
func interruptedUpload(ctx context.Context, err error, path, to string) error {
	if ctx.Err() == nil {
		return err
	}
	return fmt.Errorf("interrupted: `waggle upload %s --to %s` goes on where it was, for %d days", path, to, int(proto.UploadLifetime.Hours()/24))
}

// sendFile uploads a file and sends it.
func (s *session) sendFile(ctx context.Context, thread string, o client.UploadOptions) (client.Sent, client.File, error) {
	f := s.Files()
	defer f.Close()
	file, err := f.Upload(ctx, o)
	if err != nil {
		return client.Sent{}, file, s.fileError(err)
	}
	pending, err := s.PostBody(client.MessageOf(ctx, thread, file, o.Path))
	if err != nil {
		return client.Sent{}, file, s.failed(err)
	}
	sent, err := pending.Result(ctx)
	if err != nil {
		return sent, file, s.failed(err)
	}
	return sent, file, f.ForgetUpload(ctx, o.Book, o.Path)
}

// fileError is explain for what can also be wrong here: a file, a folder.
func (s *session) fileError(err error) error {
	if _, local := errors.AsType[*fs.PathError](err); local {
		return err
	}
	return explain(s.server, err)
}

// downloadedLine is what `download` ends with.
type downloadedLine struct {
	File   string `json:"file_id"`
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	Blake3 string `json:"blake3"`
	Path   string `json:"path"`
}

// whereFlags name the message that carries a file.
type whereFlags struct {
	thread string
	seq    uint64
}

func (w *whereFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&w.thread, "thread", "", "the conversation `d/…` or g/… it was sent to, with --seq; default: it is looked for")
	cmd.Flags().Uint64Var(&w.seq, "seq", 0, "the message that carries it")
}

func (w *whereFlags) check() error {
	if (w.thread == "") != (w.seq == 0) {
		return usagef("give --thread and --seq together")
	}
	if w.thread != "" {
		if _, err := proto.ParseThreadID(w.thread); err != nil {
			return usagef("--thread: %w", err)
		}
	}
	return nil
}

func (a *app) download() *cobra.Command {
	var where whereFlags
	var dir string
	var force bool
	cmd := &cobra.Command{
		Use: "download FILE_ID", Short: "fetch a file", Args: args(1, 1),
		Long: "Fetches a file that you own or that was sent to you, as in 4096-17, into DIR, and\n" +
			"prints where it is. It is written beside, verified by its BLAKE3 and renamed, so\n" +
			"that there is the whole file or none; what was cut goes on where it was. A file\n" +
			"of that name with another content is kept: --force replaces it.",
		Example: "  waggle download 4096-17 -C ~/Downloads",
	}
	p := a.personFlags(cmd)
	where.add(cmd)
	cmd.Flags().StringVarP(&dir, "directory", "C", ".", "the folder `DIR`, which must exist")
	cmd.Flags().BoolVar(&force, "force", false, "replace a file of that name")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := where.check(); err != nil {
			return err
		}
		return a.withFile(cmd, p, args[0], where, func(s *session, f *client.Files, at client.Place) error {
			bar := a.newTransferBar(args[0])
			locks, err := p.profileDir()
			if err != nil {
				return err
			}
			path, file, err := f.Download(cmd.Context(), client.DownloadOptions{
				File: args[0], At: at, Dir: dir, Locks: filepath.Join(locks, downloadsDir), Force: force, Progress: bar.show,
			})
			bar.end()
			if err != nil && cmd.Context().Err() != nil {
				return fmt.Errorf("interrupted: `waggle download %s -C %s` goes on where it was", args[0], dir)
			}
			if err != nil {
				return s.fileError(err)
			}
			if p.json() {
				return printLine(a.out, downloadedLine{file.ID, file.Name, file.Size, file.Blake3, path})
			}
			_, err = fmt.Fprintf(a.out, "%s (%s)\n", harmless(path), bytesize.Words(file.Size))
			return err
		})
	}
	return cmd
}

// withFile does something with a file that is the user's own or in one of his
// conversations.
func (a *app) withFile(cmd *cobra.Command, p *person, file string, w whereFlags, do func(*session, *client.Files, client.Place) error) error {
	id, err := proto.ParseFileID(file)
	if err != nil {
		return usagef("%w", err)
	}
	s, err := p.connect(cmd.Context(), nil)
	if err != nil {
		return err
	}
	defer s.close()
	f := s.Files()
	defer f.Close()
	at := client.Place{Thread: w.thread, Seq: proto.Seq(w.seq)}
	if id.Owner != s.me && w.thread == "" {
		if at, err = s.placeOf(cmd.Context(), id); err != nil {
			return err
		}
	}
	return do(s, f, at)
}

// placeOf looks for a message that carries a file: in the conversation with its
// owner, then in the others, the newest first.
func (s *session) placeOf(ctx context.Context, id proto.FileID) (client.Place, error) {
	var threads []string
	for cursor := ""; ; {
		var page []*clientpb.Thread
		err := s.do(ctx, func(ctx context.Context) (err error) {
			page, cursor, err = s.Threads(ctx, proto.PageMax, cursor)
			return err
		})
		if err != nil {
			return client.Place{}, err
		}
		for _, t := range page {
			threads = append(threads, t.GetThread())
		}
		if cursor == "" {
			break
		}
	}
	direct := proto.DirectThread(s.me, id.Owner).String()
	slices.SortStableFunc(threads, func(a, b string) int {
		switch direct {
		case a:
			return -1
		case b:
			return 1
		}
		return 0
	})
	left := searchMax
	for _, thread := range threads {
		at, err := s.placeIn(ctx, thread, id, &left)
		if err != nil || at != (client.Place{}) {
			return at, err
		}
		if left <= 0 {
			return at, fmt.Errorf("file %s is in none of the %d messages looked through: name the message with --thread and --seq", id, searchMax)
		}
	}
	return client.Place{}, fmt.Errorf("there is no file %s in your conversations", id)
}

func (s *session) placeIn(ctx context.Context, thread string, id proto.FileID, left *int) (client.Place, error) {
	q := &clientpb.ReadHistory{Thread: thread, Limit: proto.PageMax}
	for *left > 0 {
		var events []*clientpb.Event
		var more bool
		err := s.do(ctx, func(ctx context.Context) (err error) {
			events, more, err = s.History(ctx, q)
			return err
		})
		if err != nil {
			return client.Place{}, err
		}
		if i := slices.IndexFunc(events, func(e *clientpb.Event) bool { return e.GetFile().GetFile() == id.String() }); i >= 0 {
			return client.Place{Thread: thread, Seq: proto.Seq(events[i].Seq)}, nil
		}
		*left -= len(events)
		if !more || len(events) == 0 {
			break
		}
		q.Before = events[0].Seq
	}
	return client.Place{}, nil
}

// ownedLine is one of the user's files.
type ownedLine struct {
	File       string      `json:"file_id"`
	Name       string      `json:"name"`
	Size       int64       `json:"size"`
	Type       string      `json:"type"`
	Blake3     string      `json:"blake3"`
	CreatedAt  string      `json:"created_at"`
	References uint64      `json:"references"`
	Sent       []placeJSON `json:"sent,omitempty"`
	Link       string      `json:"link,omitempty"`
	LinkUntil  string      `json:"link_expires_at,omitempty"`
}

type placeJSON struct {
	Thread string `json:"thread"`
	Seq    string `json:"seq"`
}

func ownedOf(f client.File) ownedLine {
	l := ownedLine{
		File: f.ID, Name: f.Name, Size: f.Size, Type: f.Type, Blake3: f.Blake3, CreatedAt: jsonTime(f.CreatedAt.UnixMilli()), References: f.References,
	}
	for _, at := range f.Sent {
		l.Sent = append(l.Sent, placeJSON{at.Thread, decimal(uint64(at.Seq))})
	}
	return l
}

func (a *app) files() *cobra.Command {
	return chooser(&cobra.Command{
		Use: "files", Short: "your files: list, show, remove",
		Example: "  waggle files ls\n  waggle files show 4096-17 --link\n  waggle files rm 4096-17",
	}, a.filesList(), a.filesShow(), a.filesRemove())
}

func (a *app) filesList() *cobra.Command {
	cmd := &cobra.Command{Use: "ls", Short: "list your files, newest first, and what they take", Args: args(0, 0)}
	p := a.personFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := p.connect(cmd.Context(), nil)
		if err != nil {
			return err
		}
		defer s.close()
		f := s.Files()
		defer f.Close()
		var rows []client.File
		var quota client.FileQuota
		for before := ""; ; {
			var page []client.File
			if page, before, quota, err = f.List(cmd.Context(), before, proto.PageMax); err != nil {
				return explain(s.server, err)
			}
			for _, one := range page {
				if !p.json() {
					rows = append(rows, one)
				} else if err := printLine(a.out, ownedOf(one)); err != nil {
					return err
				}
			}
			if before == "" {
				break
			}
		}
		if p.json() {
			return nil
		}
		if err := printTable(a.out, rows, false, fileColumns()); err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.out, "%d files, %s of %s\n", quota.Files, bytesize.Words(quota.Used), bytesize.Words(quota.Limit))
		return err
	}
	return cmd
}

func fileColumns() []column[client.File] {
	return []column[client.File]{
		{"FILE", false, func(f client.File) string { return f.ID }},
		{"SIZE", false, func(f client.File) string { return bytesize.Words(f.Size) }},
		{"SINCE", false, func(f client.File) string { return f.CreatedAt.Local().Format(time.DateTime) }},
		{"SENT", false, func(f client.File) string { return decimal(f.References) }},
		{"TYPE", false, func(f client.File) string { return harmless(f.Type) }},
		{"NAME", false, func(f client.File) string { return oneLine(harmless(f.Name)) }},
	}
}

func (a *app) filesShow() *cobra.Command {
	var where whereFlags
	var link bool
	cmd := &cobra.Command{
		Use: "show FILE_ID", Short: "describe a file, and to its owner where it was sent", Args: args(1, 1),
		Long: "Describes a file that you own or that was sent to you. With --link also an address\n" +
			"that gives it for ten minutes to whoever has it, for players and curl.",
	}
	p := a.personFlags(cmd)
	where.add(cmd)
	cmd.Flags().BoolVar(&link, "link", false, "make an address that works without a login for ten minutes")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := where.check(); err != nil {
			return err
		}
		return a.withFile(cmd, p, args[0], where, func(s *session, f *client.Files, at client.Place) error {
			file, err := f.Show(cmd.Context(), args[0], at)
			if err != nil {
				return explain(s.server, err)
			}
			l := ownedOf(file)
			if link {
				address, expires, err := f.Link(cmd.Context(), args[0], at)
				if err != nil {
					return explain(s.server, err)
				}
				l.Link, l.LinkUntil = address, jsonTime(expires.UnixMilli())
			}
			if p.json() {
				return printLine(a.out, l)
			}
			pairs := [][2]string{
				{"file", l.File}, {"name", oneLine(harmless(l.Name))}, {"size", fmt.Sprintf("%d (%s)", l.Size, bytesize.Words(l.Size))},
				{"type", harmless(l.Type)}, {"blake3", l.Blake3}, {"since", l.CreatedAt},
			}
			for _, at := range l.Sent {
				pairs = append(pairs, [2]string{"sent", at.Seq + " of " + at.Thread})
			}
			if link {
				pairs = append(pairs, [2]string{"link", l.Link}, [2]string{"until", l.LinkUntil})
			}
			return printPairs(a.out, pairs...)
		})
	}
	return cmd
}

func (a *app) filesRemove() *cobra.Command {
	cmd := &cobra.Command{
		Use: "rm FILE_ID", Short: "remove one of your files", Args: args(1, 1),
		Long: "Removes one of your files. Messages that carry it stay, and nobody can fetch it\n" +
			"from them any more.",
	}
	p := a.personFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if _, err := proto.ParseFileID(args[0]); err != nil {
			return usagef("%w", err)
		}
		s, err := p.connect(cmd.Context(), nil)
		if err != nil {
			return err
		}
		defer s.close()
		f := s.Files()
		defer f.Close()
		if err := f.Remove(cmd.Context(), args[0]); err != nil {
			return explain(s.server, err)
		}
		if p.json() {
			return printLine(a.out, map[string]string{"file_id": args[0]})
		}
		_, err = fmt.Fprintf(a.out, "file %s is removed\n", args[0])
		return err
	}
	return cmd
}
