package files

import (
	"context"
	"errors"
	"time"

	"github.com/waggle-im/waggle/cell/resource/blob"
	"github.com/waggle-im/waggle/proto"
)

// Run collects what nobody refers to, and sends contents after their owners,
// until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	tick, follow := time.NewTicker(s.cfg.CollectEvery), time.NewTicker(s.cfg.FollowEvery)
	defer tick.Stop()
	defer follow.Stop()
	for {
		select {
		case <-follow.C:
			if err := s.follow(ctx); err != nil && ctx.Err() == nil {
				s.log.Warn("files do not follow their owners", "err", err)
			}
		case <-tick.C:
			if err := s.collect(ctx); err != nil && ctx.Err() == nil {
				s.log.Warn("files are not collected", "err", err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// collect removes uploads that took too long, files that were never sent, and
// content that belongs to nothing. It removes content only after the owner's
// range has said that there is no such file; a range that cannot be asked
// keeps what is its own.
func (s *Service) collect(ctx context.Context) error {
	ids, err := s.stagedUploads()
	for _, id := range ids {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if one := s.collectUpload(ctx, id); one != nil {
			s.log.Debug("an upload is not collected", "file", id.String(), "err", one)
		}
	}
	return errors.Join(err, s.store.List(ctx, func(e blob.Entry) error {
		if one := s.collectBlob(ctx, e); one != nil {
			s.log.Debug("a blob is not collected", "blob", e.Name, "err", one)
		}
		return ctx.Err()
	}))
}

// collectUpload ends an upload that took too long, and removes what is left of
// one that ended elsewhere.
func (s *Service) collectUpload(ctx context.Context, id proto.FileID) error {
	r, err := s.loadRecord(id)
	if err != nil {
		return err
	}
	if !s.now().Before(r.expires()) {
		if _, err := s.removeFile(ctx, id, s.now().Add(-proto.UploadLifetime)); err != nil {
			return err
		}
	}
	known, err := s.readFile(ctx, id)
	if err != nil || uploadOf(known) != nil || s.arriving(id) {
		return err
	}
	return s.dropUpload(id)
}

// collectBlob removes a blob that is no file's, and a file that was never sent.
func (s *Service) collectBlob(ctx context.Context, e blob.Entry) error {
	id, ok := ownerOf(e.Name)
	if !ok {
		return nil // not ours
	}
	known, err := s.readFile(ctx, id)
	if err != nil {
		return err
	}
	if file := fileOf(known); file.GetBlob() == e.Name {
		before := s.now().Add(-s.cfg.Grace)
		if file.ClaimedMs != 0 || file.References != 0 || !time.UnixMilli(file.CompletedMs).Before(before) {
			return nil
		}
		row, err := s.removeFile(ctx, id, before)
		if err != nil || row.GetFile().GetBlob() != e.Name {
			return err // it was sent meanwhile
		}
		return s.store.Remove(ctx, e.Name)
	}
	if uploadOf(known) != nil || s.now().Sub(e.Modified) < s.cfg.OrphanAge {
		return nil // it may be about to become a file
	}
	return s.store.Remove(ctx, e.Name)
}
