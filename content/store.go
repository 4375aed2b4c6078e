package content

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/lockedfile"

	"github.com/retrace-ledger/retrace/schema"
)

// ErrNotKept says that the store does not hold the bytes of a key.
var ErrNotKept = errors.New("is not in the content store")

// Store is a content store in a folder. Its methods may be called by many
// goroutines, and many processes may use one folder at once.
type Store struct {
	dir     string
	exclude []string
	cache   string
	owner   string
	remote  *Remote // nil for a store in dir alone
	keys    keyIndex

	step func() error // called between the steps of Collect by tests

	mu        sync.Mutex
	rep       *repository                  // nil until bytes are read or written
	collected string                       // what the marker of Collect said when rep was read
	pages     map[[sha256.Size]byte]string // handles of pages that are in rep since then, by what they say
	pulled    time.Time                    // when a key was last looked for in the remote store
}

// Options of a store. The zero value excludes nothing.
type Options struct {
	// Exclude are files and folders that are left out of whatever is kept,
	// such as the ledger's own folder.
	Exclude []string
	// Cache is a folder for what was read of folders by Snapshot. Empty for
	// none: every file is read each time.
	Cache string
	// Owner tells the ledgers apart that share the store: the holders that one
	// names are its own. A ledger's origin serves.
	Owner string
	// Remote keeps the bytes in an object store; nil keeps them in the folder of
	// the store.
	Remote *Remote
}

// Open returns the store in dir. It reads and writes nothing: the folder is
// made by the first Put, and what costs time is opened when bytes are first
// read or written.
func Open(_ context.Context, dir string, opts *Options) (*Store, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the content store %s: %w", dir, err)
	}
	s := &Store{dir: abs, pages: map[[sha256.Size]byte]string{}, keys: keyIndex{dir: filepath.Join(abs, "keys")}}
	if opts != nil {
		s.cache, s.owner, s.remote = opts.Cache, opts.Owner, opts.Remote
		for _, e := range opts.Exclude {
			if e, err = filepath.Abs(e); err != nil {
				return nil, fmt.Errorf("opening the content store %s: %w", dir, err)
			}
			s.exclude = append(s.exclude, e)
		}
	}
	s.exclude = append(s.exclude, abs)
	return s, nil
}

// Close releases what the store opened. The store must not be used after.
func (s *Store) Close(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rep == nil {
		return nil
	}
	r := s.rep
	s.rep = nil
	if err := r.close(ctx); err != nil {
		return fmt.Errorf("closing the content store %s: %w", s.dir, err)
	}
	return nil
}

// Excluded returns what is left out when the folder dir is kept, as paths
// relative to it with slashes. What does not exist is not listed.
func (s *Store) Excluded(dir string) []string {
	var out []string
	root, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil
	}
	if root, err = filepath.Abs(root); err != nil {
		return nil
	}
	for _, e := range s.exclude {
		if e, err = filepath.EvalSymlinks(e); err != nil {
			continue
		}
		if rel, err := filepath.Rel(root, e); err == nil && filepath.IsLocal(rel) {
			out = append(out, filepath.ToSlash(rel))
		}
	}
	slices.Sort(out)
	var outermost []string
	for _, rel := range out {
		if n := len(outermost); n == 0 || rel != outermost[n-1] && !strings.HasPrefix(rel, outermost[n-1]+"/") {
			outermost = append(outermost, rel)
		}
	}
	return outermost
}

// Info is what the store knows of a key without reading its bytes.
type Info struct {
	Type   string     // "file" or "folder"
	Size   int64      // bytes of the file, or of all files of the folder
	Key    schema.Key // what an alias stands for, else the key itself
	Handle string     // where the store keeps it; means something to this store only
}

// Stat says what is kept under key; an error that is [ErrNotKept] if nothing.
func (s *Store) Stat(ctx context.Context, key schema.Key) (Info, error) {
	_, info, err := s.find(ctx, key)
	return info, err
}

// Has says whether the bytes of key are kept.
func (s *Store) Has(ctx context.Context, key schema.Key) (bool, error) {
	_, err := s.Stat(ctx, key)
	if errors.Is(err, ErrNotKept) {
		return false, nil
	}
	return err == nil, err
}

// lookup finds the record that key leads to.
func (s *Store) lookup(key schema.Key) (record, Info, error) {
	at := key
	r, ok, err := s.keys.get(at)
	if err == nil && ok && r.kind == kindAlias {
		at = schema.Key(r.handle)
		r, ok, err = s.keys.get(at)
	}
	if err != nil {
		return r, Info{}, err
	}
	if !ok || r.kind == kindAlias {
		return r, Info{}, fmt.Errorf("%s %w", key, ErrNotKept)
	}
	info := Info{Type: typeFile, Size: r.size, Key: at, Handle: r.handle}
	if r.folder() {
		info.Type = typeFolder
	}
	return r, info, nil
}

// Alias makes key lead to the bytes of target, which are kept: so that those
// of a Git pack are found by its commit. Whoever fetches by an alias checks
// the bytes by the alias's own rules.
func (s *Store) Alias(ctx context.Context, key, target schema.Key) error {
	r, info, err := s.find(ctx, target)
	if err != nil {
		return fmt.Errorf("aliasing %s: %w", key, err)
	}
	if old, _, err := s.lookup(key); err == nil && old == r {
		return nil
	}
	if alg := key.Algorithm(); alg == schema.SHA256 || alg == schema.RetraceTree1 || !key.Digested() {
		return fmt.Errorf("aliasing %s: the store's own keys are digests of the bytes and cannot stand for others", key)
	}
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	return s.record(ctx, line{key, record{kind: kindAlias, size: info.Size, handle: string(info.Key)}})
}

// lock waits until no other goroutine or process adds to the store.
func (s *Store) lock() (unlock func(), err error) {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the content store: %w", err)
	}
	unlock, err = lockedfile.MutexAt(filepath.Join(s.dir, "lock")).Lock()
	if err != nil {
		return nil, fmt.Errorf("locking the content store: %w", err)
	}
	return unlock, nil
}

func (s *Store) blobs() string    { return filepath.Join(s.dir, "blobs") }
func (s *Store) password() string { return filepath.Join(s.dir, "password") }
func (s *Store) marker() string   { return filepath.Join(s.dir, "synced") }
func (s *Store) sums() sums       { return sums{filepath.Join(s.dir, "sums")} }

// repository opens kopia, once. With create, an empty one is made where there
// is none.
func (s *Store) repository(ctx context.Context, create bool) (*repository, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rep != nil {
		return s.rep, nil
	}
	r, err := s.openRepository(ctx, create)
	if err != nil {
		return nil, fmt.Errorf("opening the content store %s: %w", s.dir, err)
	}
	s.rep = r
	return r, nil
}

// openRepository opens kopia anew.
func (s *Store) openRepository(ctx context.Context, create bool) (*repository, error) {
	if s.remote != nil {
		return s.remote.open(ctx, filepath.Join(s.dir, "cache"), create)
	}
	if create {
		if err := s.create(ctx); err != nil {
			return nil, fmt.Errorf("making it: %w", err)
		}
	}
	return openRepository(ctx, s.blobs(), s.password())
}

// create makes the repository unless there is one. It is made beside its place
// and moved there when it is durable, so that it is whole or absent.
func (s *Store) create(ctx context.Context) error {
	if made, err := s.made(); err != nil || made {
		return err
	}
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if made, err := s.made(); err != nil || made {
		return err // another process was first
	}
	fresh := s.blobs() + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	if err := createRepository(ctx, fresh, s.password()); err != nil {
		return err
	}
	if err := syncBlobs(ctx, fresh, s.marker(), s.sums(), time.Time{}); err != nil {
		return err
	}
	if err := os.Rename(fresh, s.blobs()); err != nil {
		return err
	}
	return syncDir(s.dir)
}

// made says whether there is a repository. Keys without one are damage, over
// which nothing new must be written.
func (s *Store) made() (bool, error) {
	_, err := os.Stat(s.blobs())
	if !errors.Is(err, fs.ErrNotExist) {
		return err == nil, err
	}
	if _, err := os.Stat(s.keys.dir); !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("%s is missing, though keys say what was in it", s.blobs())
	}
	return false, nil
}
