package ledger

import (
	"context"
	"errors"
	"io"
	"math"
	"os"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/retrace-ledger/retrace/ledger/engine"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// salvage reads what is still there of a store, record by record, and goes
// around what is not. Nothing that it gives was checked.
type salvage struct {
	engine engine.Engine // nil where the store cannot be opened
	stored verify.Checkpoint
	target verify.Checkpoint // of a mirror

	first   int64    // of records
	records []record // of the segment that was read last, as far as it goes
	skip    int64    // below it is nothing that can be read
}

// openSalvage opens the store in dir, as far as that can be done.
func openSalvage(dir string, v note.Verifier) *salvage {
	e, err := engine.InspectBadger(storePath(dir))
	if err != nil {
		e, err = engine.SalvageBadger(storePath(dir))
	}
	if err != nil {
		return &salvage{}
	}
	s := &salvage{engine: e}
	s.look(func(snap engine.Snapshot) error {
		stored, _, err := readState(snap, v)
		if err == nil {
			s.stored = stored
		}
		return nil
	})
	s.look(func(snap engine.Snapshot) error {
		target, err := readTarget(snap, v)
		if err == nil {
			s.target = target
		}
		return nil
	})
	return s
}

func (s *salvage) close() error {
	if s.engine == nil {
		return nil
	}
	return s.engine.Close()
}

// look calls fn with what there is and reports whether all of it could be
// read. What cannot be read is not there, whatever the engine says about it.
func (s *salvage) look(fn func(engine.Snapshot) error) bool {
	return s.engine != nil && s.engine.View(fn) == nil
}

// at is the record of entry index, if it is there. From call to call, index
// grows.
func (s *salvage) at(index int64) (record, bool) {
	if rec, ok := s.loaded(index); ok {
		return rec, true
	}
	if index < s.skip {
		return record{}, false
	}
	s.load(index)
	if rec, ok := s.loaded(index); ok {
		return rec, true
	}
	s.skip = s.nextFrom(index)
	return record{}, false
}

func (s *salvage) loaded(index int64) (record, bool) {
	if at := index - s.first; at >= 0 && at < int64(len(s.records)) {
		return s.records[at], true
	}
	return record{}, false
}

// load reads the segment that entry index should be in.
func (s *salvage) load(index int64) {
	s.records = nil
	s.look(func(snap engine.Snapshot) error {
		return findSegment(snap, index, func(first int64, seg segment) error {
			s.first = first
			for rec, err := range segment(slices.Clone(seg)).records() {
				if err != nil {
					return err
				}
				s.records = append(s.records, rec)
			}
			return nil
		})
	})
}

// nextFrom is where the next segment behind index begins.
func (s *salvage) nextFrom(index int64) int64 {
	next := int64(math.MaxInt64)
	ok := s.look(func(snap engine.Snapshot) error {
		for item, err := range snap.Ascend(segmentKey(index+1), prefixEnd(segmentPrefix)) {
			if err != nil {
				return err
			}
			next, err = segmentFirst(item.Key())
			return err
		}
		return nil
	})
	if !ok && s.engine != nil {
		return index + 1
	}
	return next
}

// erased says whether the store says that entry index was erased.
func (s *salvage) erased(index int64) bool {
	return s.look(func(snap engine.Snapshot) error {
		return snap.Get(erasedKey(index), func([]byte) error { return nil })
	})
}

// commitment is that of entry index as the tiles have it, if tile and entry
// bundle agree on it.
func (s *salvage) commitment(index int64) (c commitment, ok bool) {
	s.look(func(snap engine.Snapshot) error {
		leaves, err := readBundle(snap, index/tileWidth)
		if err != nil {
			return err
		}
		t, err := readTile(snap, tileID{0, index / tileWidth})
		if err != nil {
			return err
		}
		c = leaves[index%tileWidth]
		ok = tlog.RecordHash(c[:]) == t[0][index%tileWidth]
		return nil
	})
	return c, ok
}

// cursors are the sealed cursors that can be read, by key.
func (s *salvage) cursors() map[string][]byte {
	out := map[string][]byte{}
	s.look(func(snap engine.Snapshot) error {
		for item, err := range snap.Ascend([]byte(cursorPrefix), prefixEnd(cursorPrefix)) {
			if err != nil {
				return err
			}
			err = item.Value(func(value []byte) error {
				if _, err := unseal(value); err == nil {
					out[string(item.Key())] = slices.Clone(value)
				}
				return nil
			})
			if err != nil {
				continue // this one is lost
			}
		}
		return nil
	})
	return out
}

// original is a copy that a ledger is repaired from.
type original interface {
	signed() verify.Checkpoint
	// at is the record of entry index, which grows from call to call. A copy
	// that turns out to be damaged is an error.
	at(ctx context.Context, index int64) (record, bool, error)
	// finish is called after the last at, and fails unless everything that at
	// gave is under the signed checkpoint.
	finish(ctx context.Context, recv *receiver) error
	secret() []byte
	cursors() map[string][]byte
	close() error
}

// openOriginal opens the copy at path: a directory or a backup.
func openOriginal(path string, key note.Verifier) (original, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return openDirectory(path, key)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	b, err := openBackup(f, key)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	o := &backupOriginal{backupReader: b, file: f, sealed: map[string][]byte{}, tree: newTree()}
	if err := o.readAhead(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return o, nil
}

// directory is a ledger's directory to repair from. Each record is checked
// against its signed tree.
type directory struct {
	*Ledger
	hidden []byte // the secret of the identities

	first   int64
	entries []schema.Entry
}

func openDirectory(dir string, key note.Verifier) (*directory, error) {
	l, err := OpenReadOnly(dir, key, nil)
	if err != nil {
		return nil, err
	}
	d := &directory{Ledger: l}
	if d.hidden, err = readSecret(dir); err != nil {
		d.hidden = nil
	}
	return d, nil
}

func (d *directory) signed() verify.Checkpoint               { return d.view.Load().checkpoint }
func (d *directory) secret() []byte                          { return d.hidden }
func (d *directory) finish(context.Context, *receiver) error { return nil }
func (d *directory) close() error                            { return d.Close() }

func (d *directory) at(ctx context.Context, index int64) (record, bool, error) {
	if index >= d.Size() {
		return record{}, false, nil
	}
	if at := index - d.first; at < 0 || at >= int64(len(d.entries)) {
		entries, err := d.readSegment(ctx, d.view.Load(), index)
		var damaged *DamageError
		if errors.As(err, &damaged) {
			return record{}, false, nil
		}
		if err != nil {
			return record{}, false, err
		}
		d.first, d.entries = index, entries
	}
	e := d.entries[index-d.first]
	return record{commitment: e.Commitment, body: e.Body, withheld: e.State == schema.Withheld}, true, nil
}

func (d *directory) cursors() map[string][]byte {
	if d.beyond != nil {
		return nil // they stand for entries that are not signed
	}
	return (&salvage{engine: d.engine}).cursors()
}

// backupOriginal is a backup to repair from.
type backupOriginal struct {
	*backupReader
	file   io.Closer
	sealed map[string][]byte
	tree   *tree // over the records that were read

	first   int64
	records []record
}

func (o *backupOriginal) signed() verify.Checkpoint  { return o.checkpoint }
func (o *backupOriginal) secret() []byte             { return o.backupReader.secret }
func (o *backupOriginal) cursors() map[string][]byte { return o.sealed }
func (o *backupOriginal) close() error               { return o.file.Close() }

// readAhead reads what comes before the entries.
func (o *backupOriginal) readAhead() error {
	for {
		name, data, err := o.next()
		if err != nil {
			return err
		}
		switch {
		case strings.HasPrefix(name, cursorMember):
			key, sealed, err := parseCursor(data)
			if err != nil {
				return err
			}
			o.sealed[string(key)] = sealed
		case strings.HasPrefix(name, entriesMember):
			o.ahead = &member{name, data}
			return nil
		case name == endMember:
			return badBackup("it has no entries")
		}
	}
}

func (o *backupOriginal) at(_ context.Context, index int64) (record, bool, error) {
	if index >= o.checkpoint.Size {
		return record{}, false, nil
	}
	for index >= o.first+int64(len(o.records)) {
		name, data, err := o.next()
		if err != nil {
			return record{}, false, err
		}
		if !strings.HasPrefix(name, entriesMember) {
			return record{}, false, badBackup("it ends before entry %d", index)
		}
		if err := o.take(name, data); err != nil {
			return record{}, false, err
		}
	}
	return o.records[index-o.first], true, nil
}

// take checks the records of a member and adds them to the backup's tree.
func (o *backupOriginal) take(name string, data []byte) error {
	o.first, o.records = o.tree.size(), nil
	return recordsOf(name, data, func(rec record) error {
		if !rec.right() {
			return badBackup("the body of entry %d is not the one that its commitment stands for", o.tree.size())
		}
		o.records = append(o.records, rec)
		_, err := o.tree.add(rec.commitment)
		return err
	})
}

// finish reads the rest of the backup.
func (o *backupOriginal) finish(ctx context.Context, recv *receiver) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		name, data, err := o.next()
		if err != nil {
			return err
		}
		switch {
		case strings.HasPrefix(name, entriesMember):
			err = o.take(name, data)
		case strings.HasPrefix(name, duplicatesMember) && string(o.backupReader.secret) == string(recv.secret):
			err = recv.putDuplicates(data)
		case name == endMember:
			root, err := o.tree.root()
			if err == nil && root != o.checkpoint.Root {
				err = badBackup("its entries give the root %s, and its checkpoint signs %s", root, o.checkpoint.Root)
			}
			return err
		}
		if err != nil {
			return err
		}
	}
}
