package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// S3 is a store in a bucket. Names of objects are those of the blobs.
type S3 struct {
	bucket string
	core   minio.Core
}

// NewS3 makes a store of an address as in s3://KEY:SECRET@HOST:PORT/BUCKET,
// with ?tls=none for a server without TLS and ?region=NAME where it must be
// said. Without KEY the usual variables of the environment (AWS_ACCESS_KEY_ID
// …) are read. It does not connect.
func NewS3(address string) (*S3, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "s3" || u.Host == "" || len(u.Path) < 2 {
		// The address may hold a secret: it is not repeated.
		return nil, errors.New("blob: the address of the bucket is not s3://[KEY:SECRET@]HOST[:PORT]/BUCKET")
	}
	creds := credentials.NewEnvAWS()
	if u.User != nil {
		secret, _ := u.User.Password()
		creds = credentials.NewStaticV4(u.User.Username(), secret, "")
	}
	core, err := minio.NewCore(u.Host, &minio.Options{
		Creds: creds, Secure: u.Query().Get("tls") != "none", Region: u.Query().Get("region"),
	})
	if err != nil {
		return nil, fmt.Errorf("blob: S3 at %s: %w", u.Host, err)
	}
	return &S3{bucket: u.Path[1:], core: *core}, nil
}

// Put implements [Store].
func (s *S3) Put(ctx context.Context, name, file string) error {
	if err := checkName(name); err != nil {
		return err
	}
	_, err := s.core.FPutObject(ctx, s.bucket, name, file, minio.PutObjectOptions{ContentType: "application/octet-stream"})
	if err != nil {
		return fmt.Errorf("blob: put %s to bucket %s: %w", name, s.bucket, err)
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("blob: put %s: %w", name, err)
	}
	return nil
}

// Open implements [Store].
func (s *S3) Open(ctx context.Context, name string, offset int64) (io.ReadCloser, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	var opts minio.GetObjectOptions
	if offset > 0 {
		if err := opts.SetRange(offset, 0); err != nil {
			return nil, fmt.Errorf("blob: %s: %w", name, err)
		}
	}
	body, _, _, err := s.core.GetObject(ctx, s.bucket, name, opts)
	if err != nil {
		return nil, s.mapError(name, err)
	}
	return body, nil
}

// Size implements [Store].
func (s *S3) Size(ctx context.Context, name string) (int64, error) {
	if err := checkName(name); err != nil {
		return 0, err
	}
	info, err := s.core.StatObject(ctx, s.bucket, name, minio.StatObjectOptions{})
	if err != nil {
		return 0, s.mapError(name, err)
	}
	return info.Size, nil
}

// Remove implements [Store].
func (s *S3) Remove(ctx context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	err := s.core.RemoveObject(ctx, s.bucket, name, minio.RemoveObjectOptions{})
	if err = s.mapError(name, err); errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// List implements [Store].
func (s *S3) List(ctx context.Context, visit func(Entry) error) error {
	ctx, cancel := context.WithCancel(ctx) // ends the listing when visit fails
	defer cancel()
	for info := range s.core.Client.ListObjectsIter(ctx, s.bucket, minio.ListObjectsOptions{}) {
		if info.Err != nil {
			return fmt.Errorf("blob: list bucket %s: %w", s.bucket, info.Err)
		}
		if checkName(info.Key) != nil {
			continue // not ours
		}
		if err := visit(Entry{Name: info.Key, Modified: info.LastModified}); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (s *S3) mapError(name string, err error) error {
	if err == nil {
		return nil
	}
	if code := minio.ToErrorResponse(err).Code; code == minio.NoSuchKey {
		return fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	return fmt.Errorf("blob: %s in bucket %s: %w", name, s.bucket, err)
}
