package content

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/blob/s3"
	kopiacontent "github.com/kopia/kopia/repo/content"
	"github.com/kopia/kopia/repo/format"

	"github.com/retrace-ledger/retrace/schema"
)

// Remote is a prefix of a bucket of an object store. Below it are
//
//	blobs/  the kopia repository
//	keys/   lines of the key index, an object for each time that some were added
//
// The folder of the store has a copy of the key index, and a cache. Several
// ledgers on several machines may use one prefix: each finds what the others
// keep, and writes nothing twice.
type Remote struct {
	Bucket, Prefix string
	Endpoint       string // URL; Amazon's if empty
	Region         string
	// Secrets are asked for when bytes are first read or written.
	Secrets func() (RemoteSecrets, error)
}

// RemoteSecrets are what a remote store is opened with.
type RemoteSecrets struct {
	AccessKey, SecretKey string
	Password             string // encrypts all that is kept there
}

// cacheBytes is how much of an object store is cached, of files and of listings
// each.
const cacheBytes = 512 << 20

// storage is how kopia reaches what is below the prefix and part.
func (r *Remote) storage(part string, secrets RemoteSecrets) (*s3.Options, error) {
	o := &s3.Options{
		BucketName: r.Bucket, Prefix: strings.TrimPrefix(r.Prefix+"/", "/") + part + "/", Region: r.Region,
		Endpoint: "s3.amazonaws.com", AccessKeyID: secrets.AccessKey, SecretAccessKey: secrets.SecretKey,
	}
	if r.Endpoint == "" {
		return o, nil
	}
	u, err := url.Parse(r.Endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || strings.Trim(u.Path, "/") != "" {
		return nil, fmt.Errorf("%q is not the URL of an object store: want http://HOST or https://HOST", r.Endpoint)
	}
	o.Endpoint, o.DoNotUseTLS = u.Host, u.Scheme == "http"
	return o, nil
}

// open opens the repository, and makes it with create where there is none.
func (r *Remote) open(ctx context.Context, cache string, create bool) (*repository, error) {
	secrets, err := r.Secrets()
	if err != nil {
		return nil, err
	}
	at, err := r.storage("blobs", secrets)
	if err != nil {
		return nil, err
	}
	if create {
		st, err := s3.New(ctx, at, true)
		if err != nil {
			return nil, err
		}
		err = initialize(ctx, st, secrets.Password)
		// Another ledger may have been first.
		if closed := st.Close(ctx); errors.Is(err, format.ErrAlreadyInitialized) || err == nil {
			err = closed
		}
		if err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return nil, err
	}
	return connect(ctx, repo.LocalConfig{
		Storage: &blob.ConnectionInfo{Type: "s3", Config: at},
		Caching: &kopiacontent.CachingOptions{CacheDirectory: cache, ContentCacheSizeBytes: cacheBytes, MetadataCacheSizeBytes: cacheBytes},
	}, secrets.Password)
}

// segments is the part of a remote store that holds lines of the key index.
func (r *Remote) segments(ctx context.Context) (blob.Storage, error) {
	secrets, err := r.Secrets()
	if err != nil {
		return nil, err
	}
	at, err := r.storage("keys", secrets)
	if err != nil {
		return nil, err
	}
	return s3.New(ctx, at, false)
}

// record makes lines part of the key index: of the remote one first, where there
// is one. The caller holds the lock, and what they point at is durable.
func (s *Store) record(ctx context.Context, lines ...line) error {
	if s.remote != nil {
		st, err := s.remote.segments(ctx)
		if err != nil {
			return err
		}
		defer st.Close(ctx)
		var raw []byte
		for _, l := range lines {
			raw = appendRecord(raw, l.key, l.record)
		}
		// In order of time, as far as clocks agree.
		id := blob.ID(fmt.Sprintf("%016x-%s", time.Now().UnixNano(), rand.Text()))
		if err := st.PutBlob(ctx, id, bytesOf(raw), blob.PutOptions{}); err != nil {
			return fmt.Errorf("adding to the keys in %s: %w", s.remote.Bucket, err)
		}
		if err := s.keys.add(lines...); err != nil {
			return err
		}
		return s.noteSegments(id)
	}
	return s.keys.add(lines...)
}

// pull reads what other machines added to the key index of a remote store.
func (s *Store) pull(ctx context.Context) error {
	if s.remote == nil {
		return nil
	}
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	have, err := s.readSegments()
	if err != nil {
		return err
	}
	st, err := s.remote.segments(ctx)
	if err != nil {
		return err
	}
	defer st.Close(ctx)
	var fresh []blob.ID
	err = st.ListBlobs(ctx, "", func(m blob.Metadata) error {
		if !have[m.BlobID] {
			fresh = append(fresh, m.BlobID)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("listing the keys in %s: %w", s.remote.Bucket, err)
	}
	slices.Sort(fresh)
	for _, id := range fresh {
		var raw writeBuffer
		if err := st.GetBlob(ctx, id, 0, -1, &raw); err != nil {
			return fmt.Errorf("reading the keys in %s: %w", s.remote.Bucket, err)
		}
		var lines []line
		for text := range bytes.Lines(raw.Bytes()) {
			k, r, ok := parseRecord(bytes.TrimSuffix(text, []byte{'\n'}))
			if !ok {
				return fmt.Errorf("the keys in %s are damaged: keys/%s", s.remote.Bucket, id)
			}
			lines = append(lines, line{k, r})
		}
		if err := s.keys.add(lines...); err != nil {
			return err
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	return s.noteSegments(fresh...)
}

// The file segments in the folder of the store lists which objects of the
// remote key index were read. Reading one twice changes nothing.
func (s *Store) segmentsFile() string { return filepath.Join(s.dir, "segments") }

func (s *Store) readSegments() (map[blob.ID]bool, error) {
	raw, err := os.ReadFile(s.segmentsFile())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	have := map[blob.ID]bool{}
	for id := range strings.Lines(string(raw)) {
		if name, whole := strings.CutSuffix(id, "\n"); whole {
			have[blob.ID(name)] = true
		}
	}
	return have, nil
}

func (s *Store) noteSegments(ids ...blob.ID) error {
	var raw []byte
	for _, id := range ids {
		raw = append(append(raw, id...), '\n')
	}
	return appendDurably(s.segmentsFile(), raw, func([]byte) bool { return false })
}

// again is how long a key that was not found is not looked for again in an
// object store.
const again = 5 * time.Second

// find is lookup that asks the remote store where the folder has no answer.
func (s *Store) find(ctx context.Context, key schema.Key) (record, Info, error) {
	r, info, err := s.lookup(key)
	if !errors.Is(err, ErrNotKept) || s.remote == nil {
		return r, info, err
	}
	s.mu.Lock()
	recent := time.Since(s.pulled) < again
	if !recent {
		s.pulled = time.Now()
	}
	s.mu.Unlock()
	if recent {
		return r, info, err
	}
	if err := s.pull(ctx); err != nil {
		return r, info, err
	}
	return s.lookup(key)
}

// bytesOf is a blob to write.
type bytesOf []byte

func (b bytesOf) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(b)
	return int64(n), err
}

func (b bytesOf) Length() int { return len(b) }

func (b bytesOf) Reader() io.ReadSeekCloser { return blobReader{bytes.NewReader(b)} }

type blobReader struct{ *bytes.Reader }

func (blobReader) Close() error { return nil }

// writeBuffer is a blob that is read.
type writeBuffer struct{ bytes.Buffer }

func (b *writeBuffer) Length() int { return b.Len() }
