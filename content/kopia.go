package content

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/blob/filesystem"
	"github.com/kopia/kopia/repo/blob/sharded"
	kopiacontent "github.com/kopia/kopia/repo/content"
	"github.com/kopia/kopia/repo/format"
	"github.com/kopia/kopia/repo/object"

	"github.com/retrace-ledger/retrace/schema"
)

// keyDerivation turns the password into the key of the repository's format
// blob. The password is 256 random bits, so no work factor protects it or has
// to: kopia offers scrypt and PBKDF2, and this is the cheaper of the two
// (0.1 s against 0.2 s at each opening).
const keyDerivation = "pbkdf2-sha256-600000"

// compressor is kopia's fastest that still halves text: writing must keep up
// with the disk.
const compressor = "s2-default"

// repository is an open kopia repository.
type repository struct {
	dir string // "" for one in an object store
	rep repo.Repository
}

// createRepository makes an empty repository in dir with a new random
// password. The caller holds the store's lock.
func createRepository(ctx context.Context, dir, passwordFile string) error {
	var secret [32]byte
	rand.Read(secret[:])
	password := hex.EncodeToString(secret[:])
	if err := writeDurably(passwordFile, []byte(password+"\n")); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	st, err := filesystem.New(ctx, storageOptions(dir), true)
	if err != nil {
		return err
	}
	err = initialize(ctx, st, password)
	return errors.Join(err, st.Close(ctx))
}

// initialize makes an empty repository in st.
func initialize(ctx context.Context, st blob.Storage, password string) error {
	return repo.Initialize(ctx, st, &repo.NewRepositoryOptions{
		BlockFormat: format.ContentFormat{
			// 256 bits; the default cuts its hash to 128.
			Hash: "HMAC-SHA256", Encryption: "AES256-GCM-HMAC-SHA256",
			// Set here, or an environment variable would decide it.
			MutableParameters: format.MutableParameters{Version: format.FormatVersion3},
		},
		FormatBlockKeyDerivationAlgorithm: keyDerivation,
	}, password)
}

func storageOptions(dir string) *filesystem.Options {
	return &filesystem.Options{
		Path: dir, FileMode: 0o600, DirectoryMode: 0o700,
		Options: sharded.Options{DirectoryShards: []int{2}},
	}
}

// openRepository opens the repository in dir.
func openRepository(ctx context.Context, dir, passwordFile string) (*repository, error) {
	password, err := os.ReadFile(passwordFile)
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	r, err := connect(ctx, repo.LocalConfig{
		Storage: &blob.ConnectionInfo{Type: "filesystem", Config: storageOptions(dir)},
		// No cache: the repository is local already, and what is verified must
		// come from it.
		Caching: &kopiacontent.CachingOptions{},
	}, string(bytes.TrimSpace(password)))
	if err != nil {
		return nil, err
	}
	r.dir = dir
	return r, nil
}

// connect opens a repository. kopia wants a configuration file that names the
// place; it is written anew each time, so that a store can be moved and be read
// where nothing can be written.
func connect(ctx context.Context, c repo.LocalConfig, password string) (*repository, error) {
	c.ClientOptions = repo.ClientOptions{Hostname: "retrace", Username: "retrace"}
	config, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp("", "retrace-content-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	file := filepath.Join(tmp, "repository.config")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return nil, err
	}
	r := &repository{}
	// The repository outlives the call that happened to open it.
	r.rep, err = repo.Open(context.WithoutCancel(ctx), file, password, &repo.Options{
		DisableInternalLog: true,
		OnFatalError:       func(error) {}, // the operation fails with it as well; the default ends the process
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (r *repository) close(ctx context.Context) error { return r.rep.Close(context.WithoutCancel(ctx)) }

// session writes objects. Nothing of it is durable before commit.
type session struct {
	r       *repository
	w       repo.RepositoryWriter
	started time.Time
	pages   map[[sha256.Size]byte]string // that it wrote
}

func (r *repository) begin(ctx context.Context) (*session, error) {
	s := &session{r: r, started: time.Now(), pages: map[[sha256.Size]byte]string{}}
	_, w, err := r.rep.NewWriter(ctx, repo.WriteSessionOptions{Purpose: "retrace"})
	if err != nil {
		return nil, err
	}
	s.w = w
	return s, nil
}

// Prefixes of objects. What has one lies in packs of its own, so that listings
// are read without what they list.
const (
	bytesOfFiles kopiacontent.IDPrefix = ""
	pages        kopiacontent.IDPrefix = "k"
)

// fine is the size, in bytes, below which a file is cut into pieces of some
// 256 KB, so that a row more in a table costs little. Larger ones are cut less
// finely, since each piece costs memory wherever the store is open.
const fine = 64 << 20

// write keeps what fill writes, of about size bytes, as one object and returns
// its handle.
func (s *session) write(ctx context.Context, prefix kopiacontent.IDPrefix, size int64, fill func(io.Writer) error) (string, error) {
	splitter := "" // the default, of some 4 MB
	if size < fine {
		splitter = "DYNAMIC-256K-BUZHASH"
	}
	w := s.w.NewObjectWriter(ctx, object.WriterOptions{
		Prefix: prefix, Splitter: splitter, Compressor: compressor, MetadataCompressor: compressor, AsyncWrites: 4,
	})
	defer w.Close()
	if err := fill(w); err != nil {
		return "", err
	}
	id, err := w.Result()
	if err != nil {
		return "", err
	}
	return id.String(), nil
}

// commit makes all objects of the session durable. The caller holds the
// store's lock.
func (s *session) commit(ctx context.Context, marker string, list sums) error {
	if err := s.w.Flush(ctx); err != nil {
		return err
	}
	if w, ok := s.w.(repo.DirectRepositoryWriter); ok {
		if err := mergeIndex(ctx, w); err != nil {
			return err
		}
	}
	if s.r.dir == "" {
		return nil // what an object store has taken is durable
	}
	return syncBlobs(ctx, s.r.dir, marker, list, s.started)
}

func (s *session) close(ctx context.Context) error { return s.w.Close(context.WithoutCancel(ctx)) }

// holds says whether the repository finds what was written to it, however its
// clock went: nil if so.
func (r *repository) holds(ctx context.Context, written map[schema.Key]record) error {
	if err := r.rep.Refresh(ctx); err != nil {
		return err
	}
	for k, w := range written {
		id, err := object.ParseID(w.handle)
		if err != nil {
			return err
		}
		if _, err := r.rep.VerifyObject(ctx, id); err != nil {
			return fmt.Errorf("%s was written and is not there: %w; is the clock right?", k, err)
		}
	}
	return nil
}

// open reads an object. What another process added since is looked for once.
func (r *repository) open(ctx context.Context, handle string) (io.ReadCloser, error) {
	id, err := object.ParseID(handle)
	if err != nil {
		return nil, err
	}
	rd, err := r.rep.OpenObject(ctx, id)
	if errors.Is(err, object.ErrObjectNotFound) || errors.Is(err, kopiacontent.ErrContentNotFound) {
		if err := r.rep.Refresh(ctx); err != nil {
			return nil, err
		}
		rd, err = r.rep.OpenObject(ctx, id)
	}
	if err != nil {
		return nil, err
	}
	return rd, nil
}

// syncBlobs makes durable every file that was written since the session
// started or since blobs were last made durable, whichever is earlier: kopia
// renames its files into place without flushing them. The marker's time is
// when that last happened. Their checksums are added to list. Objects that the session found already there and
// another process wrote are covered, because that process held the lock when
// it did this.
func syncBlobs(ctx context.Context, dir, marker string, list sums, started time.Time) error {
	now := time.Now()
	since := started
	if info, err := os.Stat(marker); err != nil {
		since = time.Time{}
	} else if info.ModTime().Before(since) {
		since = info.ModTime()
	}
	since = since.Add(-5 * time.Second) // the clock of a file system may lag
	var written []string
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a temporary file of another writer
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) || err == nil && info.ModTime().Before(since) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := syncFile(name); errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err == nil && d.Type().IsRegular() && stays(filepath.ToSlash(rel)) {
			written = append(written, filepath.ToSlash(rel))
		}
		return err
	})
	if err == nil {
		err = list.add(ctx, dir, written)
	}
	if err != nil {
		return fmt.Errorf("making %s durable: %w", dir, err)
	}
	if err := os.WriteFile(marker, nil, 0o600); err != nil {
		return err
	}
	return os.Chtimes(marker, now, now)
}

// stays says whether a file of the repository is there for good: it is neither
// being written nor the marker of a session, which kopia takes away.
func stays(name string) bool {
	return !strings.Contains(name, ".tmp.") && !strings.HasPrefix(name, "s")
}

func syncFile(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// writeDurably creates or replaces a file of secrets.
func writeDurably(name string, b []byte) error {
	tmp := name + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, name); err != nil {
		return err
	}
	return syncDir(filepath.Dir(name))
}
