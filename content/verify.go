package content

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/retrace-ledger/retrace/schema"
)

// Finding is something that was checked and is not so.
type Finding struct {
	Key    schema.Key // empty if it is about the store itself
	Reason string
}

func (f Finding) String() string {
	if f.Key == "" {
		return f.Reason
	}
	return fmt.Sprintf("%s: %s", f.Key, f.Reason)
}

// Verified counts what was checked.
type Verified struct {
	Keys     int
	Bytes    int64 // of files, each content once
	Findings int
}

// Verify reads all kept bytes again, from the disk and through no cache, and
// compares them with the digests under which they are kept. It calls report
// for each thing that is not so, one at a time, and goes on. An error means
// that something could not be checked, not that it is wrong.
func (s *Store) Verify(ctx context.Context, report func(Finding)) (Verified, error) {
	v := &verification{ctx: ctx, report: report, records: map[schema.Key]record{}}
	leave, err := s.enterToRead(ctx)
	if err != nil {
		return v.result, err
	}
	defer leave()
	if err := s.pull(ctx); err != nil {
		return v.result, err
	}
	bad, err := s.keys.each(func(k schema.Key, r record) { v.records[k] = r })
	if err != nil {
		return v.result, err
	}
	if bad > 0 {
		v.find("", fmt.Sprintf("%d lines of the key index are damaged; the keys that they held are unknown", bad))
	}
	v.result.Keys = len(v.records)
	if v.collecting, err = s.unfinished(); err != nil {
		return v.result, err
	}
	if s.remote == nil {
		if err := v.files(s.sums(), s.blobs()); err != nil {
			return v.result, err
		}
	}
	if len(v.records) == 0 {
		return v.result, nil
	}
	// A repository of its own: one that is open has read the index before.
	v.rep, err = s.openRepository(ctx, false)
	if err != nil {
		if ctx.Err() != nil || errors.Is(err, os.ErrPermission) {
			return v.result, fmt.Errorf("opening the content store %s: %w", s.dir, err)
		}
		v.find("", fmt.Sprintf("the repository in %s does not open: %v", s.dir, err))
		return v.result, nil
	}
	err = v.all()
	return v.result, errors.Join(err, v.rep.close(ctx))
}

// verification is one run of Verify.
type verification struct {
	ctx     context.Context
	report  func(Finding)
	rep     *repository
	records map[schema.Key]record
	// collecting says that a collection was cut off.
	collecting bool

	mu     sync.Mutex
	result Verified
	seen   map[string]bool // digests and objects that were read
}

func (v *verification) find(k schema.Key, reason string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.result.Findings++
	v.report(Finding{Key: k, Reason: reason})
}

// files compares the files of the repository with their checksums.
func (v *verification) files(list sums, dir string) error {
	listed, bad, err := list.read()
	if err != nil {
		return err
	}
	if bad > 0 {
		v.find("", fmt.Sprintf("%d lines of the list of checksums are damaged", bad))
	}
	g, ctx := errgroup.WithContext(v.ctx)
	g.SetLimit(transfers)
	for _, name := range slices.Sorted(maps.Keys(listed)) {
		g.Go(func() error {
			got, err := sumOf(ctx, filepath.Join(dir, filepath.FromSlash(name)))
			switch want := listed[name]; {
			case errors.Is(err, os.ErrNotExist) && v.collecting: // perhaps on purpose; what is kept is read below
			case errors.Is(err, os.ErrNotExist):
				v.find("", fmt.Sprintf("the file blobs/%s is missing", name))
			case err != nil:
				return fmt.Errorf("checking blobs/%s: %w", name, err)
			case got != want:
				v.find("", fmt.Sprintf("the file blobs/%s is damaged: it has %d bytes and the checksum %08x; %d and %08x were written", name, got.size, got.crc, want.size, want.crc))
			}
			return nil
		})
	}
	return g.Wait()
}

func (v *verification) all() error {
	v.seen = map[string]bool{}
	g, ctx := errgroup.WithContext(v.ctx)
	g.SetLimit(transfers)
	for _, k := range slices.Sorted(maps.Keys(v.records)) {
		r := v.records[k]
		switch r.kind {
		case kindAlias:
			if _, ok := v.records[schema.Key(r.handle)]; !ok {
				v.find(k, fmt.Sprintf("it stands for %s, which is not kept", r.handle))
			}
		case kindFile, kindMember:
			g.Go(func() error { return v.file(ctx, k, r.size, r.handle, "") })
		case kindFolder, kindHeld:
			g.Go(func() error { return v.folder(ctx, k, r.handle) })
		}
	}
	return g.Wait()
}

func (v *verification) folder(ctx context.Context, k schema.Key, handle string) error {
	members, err := v.rep.members(ctx, k, handle)
	if err != nil {
		return v.judge(k, "", err)
	}
	for _, m := range members {
		if m.Type != typeFile {
			continue
		}
		if err := v.file(ctx, schema.Key(schema.SHA256+":"+m.SHA256), m.Size, m.Object, m.Path); err != nil {
			return err
		}
	}
	return nil
}

// file reads one object, once for each digest that it should have.
func (v *verification) file(ctx context.Context, k schema.Key, size int64, handle, path string) error {
	id := k.Hex() + " " + handle
	v.mu.Lock()
	seen := v.seen[id]
	v.seen[id] = true
	v.mu.Unlock()
	if seen {
		return nil
	}
	rd, err := v.rep.file(ctx, k, handle)
	if err != nil {
		return v.judge(k, path, err)
	}
	defer rd.Close()
	n, err := io.Copy(io.Discard, &contextReader{ctx, rd})
	if err != nil {
		return v.judge(k, path, err)
	}
	if n != size {
		v.find(k, fmt.Sprintf("it has %d bytes; %d were recorded", n, size))
	}
	v.mu.Lock()
	v.result.Bytes += n
	v.mu.Unlock()
	return nil
}

// judge tells damage, which is a finding, from what could not be checked.
func (v *verification) judge(k schema.Key, path string, err error) error {
	var d *DamageError
	if !errors.As(err, &d) {
		return fmt.Errorf("checking %s: %w", k, err)
	}
	reason := d.Reason
	if path != "" {
		reason = path + ": " + reason
	}
	v.find(k, reason)
	return nil
}
