package content

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/retrace-ledger/retrace/schema"
)

// transfers is how many files are read or written at once. Most are small and
// wait for the disk, so it is well above the number of processors.
const transfers = 16

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
	return s.put(ctx, t, "")
}

// attempts is how often a snapshot of a folder that changes meanwhile is tried.
const attempts = 3

// Snapshot is PutFiles of a folder that is taken again and again, and may be in
// use. It is kept until holder lets it go (see [Store.Release]), for good if
// that is "". Files that did not change since the last time are not read,
// unless all are to be.
//
// Each file is what it was at one moment, but not all at the same one: what is
// written to is looked at once more, and a file that grows is taken as far as
// it went when reading it began. The error is [ErrChanged] where that does not
// help.
func (s *Store) Snapshot(ctx context.Context, path, holder string, all bool) (schema.Key, []schema.SnapshotFile, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", nil, err
	}
	known := openKnown(s.cache, abs)
	if all {
		clear(known.files)
	}
	for attempt := 1; ; attempt++ {
		key, files, err := s.snapshot(ctx, path, holder, known)
		if err == nil {
			return key, files, known.save()
		}
		known.again()
		if attempt == attempts || !errors.Is(err, ErrChanged) {
			known.next = known.files // so that what was read need not be once more
			return "", nil, errors.Join(err, known.save())
		}
	}
}

func (s *Store) snapshot(ctx context.Context, path, holder string, known *known) (schema.Key, []schema.SnapshotFile, error) {
	t, err := openTree(path, s.exclude)
	if err != nil {
		return "", nil, err
	}
	defer t.Close()
	t.known, t.growing = known, true
	return s.put(ctx, t, holder)
}

// put keeps t for holder, or for good. Nothing that it finds kept already goes
// away meanwhile.
func (s *Store) put(ctx context.Context, t *tree, holder string) (schema.Key, []schema.SnapshotFile, error) {
	key, files, err := t.digest(ctx)
	if err != nil {
		return "", nil, err
	}
	leave, err := s.enter(ctx)
	if err != nil {
		return "", nil, err
	}
	defer leave()
	if err := s.keep(ctx, t, key, files, holder); err != nil {
		return "", nil, fmt.Errorf("keeping %s: %w", t.path, err)
	}
	return key, files, nil
}

// Digest is [Digest] with what the store excludes left out as well.
func (s *Store) Digest(ctx context.Context, path string, exclude ...string) (schema.Key, []schema.SnapshotFile, error) {
	return Digest(ctx, path, slices.Concat(s.exclude, exclude)...)
}

// keep writes what the store lacks of t and adds its keys.
func (s *Store) keep(ctx context.Context, t *tree, key schema.Key, files []schema.SnapshotFile, holder string) error {
	if err := s.pull(ctx); err != nil {
		return err
	}
	r, _, err := s.lookup(key)
	switch {
	case err == nil:
		return s.hold(ctx, key, r, holder)
	case !errors.Is(err, ErrNotKept):
		return err
	}
	rep, err := s.repository(ctx, true)
	if err != nil {
		return err
	}
	s.mu.Lock()
	mark, err := parseMark(s.collected)
	s.mu.Unlock()
	if err == nil {
		err = waitPast(ctx, mark)
	}
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
	if mark > 0 {
		if err := rep.holds(ctx, added); err != nil {
			return err
		}
	}
	s.remember(w)
	var lines []line
	for k, r := range added {
		switch {
		case k == key && r.kind == kindFolder && holder != "":
			r.kind = kindHeld
			lines = append(lines, line{k, record{kind: kindHold, handle: s.holderID(holder)}})
		case k != key:
			r.kind = kindMember
		}
		lines = append(lines, line{k, r})
	}
	return s.record(ctx, lines...)
}

// hold has what is kept under key kept for holder too, or for good.
func (s *Store) hold(ctx context.Context, key schema.Key, r record, holder string) error {
	var added line
	switch mine, _ := s.keys.holds(key, s.holderID(holder)); {
	case holder == "" && r.kind == kindHeld:
		r.kind = kindFolder
		added = line{key, r}
	case holder == "" && r.kind == kindMember:
		r.kind = kindFile
		added = line{key, r}
	case holder != "" && r.kind == kindHeld && !mine:
		added = line{key, record{kind: kindHold, handle: s.holderID(holder)}}
	default:
		return nil
	}
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	return s.record(ctx, added)
}

// holderID stands for a holder in a line of keys, which has no spaces.
func (s *Store) holderID(holder string) string {
	sum := sha256.Sum256([]byte(s.owner + "\n" + holder))
	return hex.EncodeToString(sum[:16])
}

// upload writes the files whose bytes are not kept, each digest once, and
// returns the records that are to be added.
func (s *Store) upload(ctx context.Context, w *session, t *tree, files []schema.SnapshotFile) (map[schema.Key]record, error) {
	if err := s.keys.refresh(); err != nil {
		return nil, err
	}
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
		if _, ok := s.keys.peek(key); ok {
			continue
		}
		g.Go(func() error {
			handle, err := w.write(gctx, bytesOfFiles, f.Size, func(dst io.Writer) error { return t.copy(gctx, f, dst) })
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

// copy writes the file f to dst, if it still has the digest that it had.
func (t *tree) copy(ctx context.Context, f schema.SnapshotFile, dst io.Writer) error {
	var sum string
	var err error
	if t.growing {
		sum, err = t.copyGrowing(ctx, f.Path, f.Size, dst)
	} else {
		sum, _, err = t.hash(ctx, f.Path, dst)
	}
	if err == nil && sum != f.SHA256 {
		err = fmt.Errorf("reading %s: it %w", t.at(f.Path), ErrChanged)
	}
	return err
}
