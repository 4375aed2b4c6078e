package content

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/retrace-ledger/retrace/schema"
)

// transfers is how many files are read or written at once. Most are small and
// wait for the disk, so it is well above the number of processors.
const transfers = 16

// member is one line of the object that stands for a folder.
type member struct {
	schema.SnapshotFile
	Object string `json:"object,omitempty"` // handle of a file's bytes
}

// Put keeps the file or folder at path and returns its key. When it returns
// without an error, the bytes are durable. What is kept already is read and
// digested, to know, but not written again.
//
// What Put takes and refuses is what [Digest] does. Bytes that change while
// they are read are an error that is [ErrChanged], and nothing is kept under
// a wrong key.
func (s *Store) Put(ctx context.Context, path string) (schema.Key, error) {
	key, _, err := s.PutFiles(ctx, path)
	return key, err
}

// PutFiles is Put that also says what it found, as [Digest] does.
func (s *Store) PutFiles(ctx context.Context, path string) (schema.Key, []schema.SnapshotFile, error) {
	t, err := openTree(path, s.exclude)
	if err != nil {
		return "", nil, err
	}
	defer t.Close()
	key, files, err := t.digest(ctx)
	if err != nil {
		return "", nil, err
	}
	_, _, err = s.lookup(key)
	if err == nil {
		return key, files, nil
	}
	if !errors.Is(err, ErrNotKept) {
		return "", nil, err
	}
	if err := s.keep(ctx, t, key, files); err != nil {
		return "", nil, fmt.Errorf("keeping %s: %w", path, err)
	}
	return key, files, nil
}

// Digest is [Digest] with what the store excludes left out as well.
func (s *Store) Digest(ctx context.Context, path string, exclude ...string) (schema.Key, []schema.SnapshotFile, error) {
	return Digest(ctx, path, slices.Concat(s.exclude, exclude)...)
}

// keep writes what the store lacks of t and adds its keys.
func (s *Store) keep(ctx context.Context, t *tree, key schema.Key, files []schema.SnapshotFile) error {
	rep, err := s.repository(ctx, true)
	if err != nil {
		return err
	}
	w, err := rep.begin(ctx)
	if err != nil {
		return err
	}
	defer w.close(ctx)
	added, err := s.upload(ctx, w, t, files)
	if err != nil {
		return err
	}
	if t.single == "" {
		r, err := s.list(ctx, w, files, added)
		if err != nil {
			return err
		}
		added[key] = r
	}
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if err := w.commit(ctx, s.marker(), s.sums()); err != nil {
		return err
	}
	return s.keys.add(added)
}

// upload writes the files whose bytes are not kept, each digest once, and
// returns the records that are to be added.
func (s *Store) upload(ctx context.Context, w *session, t *tree, files []schema.SnapshotFile) (map[schema.Key]record, error) {
	var mu sync.Mutex
	added := map[schema.Key]record{}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(transfers)
	claimed := map[string]bool{}
	for _, f := range files {
		if f.Type != typeFile || claimed[f.SHA256] {
			continue
		}
		claimed[f.SHA256] = true
		key := schema.Key(schema.SHA256 + ":" + f.SHA256)
		if _, ok, err := s.keys.get(key); err != nil {
			return nil, errors.Join(err, g.Wait())
		} else if ok {
			continue
		}
		g.Go(func() error {
			handle, err := w.write(gctx, func(dst io.Writer) error {
				sum, _, err := t.hash(gctx, f.Path, dst)
				if err == nil && sum != f.SHA256 {
					err = fmt.Errorf("reading %s: it %w", t.at(f.Path), ErrChanged)
				}
				return err
			})
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			added[key] = record{kind: kindFile, size: f.Size, handle: handle}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return added, nil
}

// list writes the object of a folder.
func (s *Store) list(ctx context.Context, w *session, files []schema.SnapshotFile, added map[schema.Key]record) (record, error) {
	folder := record{kind: kindFolder}
	members := make([]member, len(files))
	for i, f := range files {
		members[i].SnapshotFile = f
		if f.Type != typeFile {
			continue
		}
		key := schema.Key(schema.SHA256 + ":" + f.SHA256)
		r, ok := added[key]
		if !ok {
			var err error
			if r, ok, err = s.keys.get(key); err != nil {
				return folder, err
			}
		}
		if !ok {
			return folder, fmt.Errorf("%s of %s %w, though it was a moment ago", key, f.Path, ErrNotKept)
		}
		members[i].Object = r.handle
		folder.size += f.Size
	}
	var err error
	folder.handle, err = w.write(ctx, func(dst io.Writer) error {
		return json.NewEncoder(dst).Encode(members)
	})
	return folder, err
}
