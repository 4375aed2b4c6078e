package ledger

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"

	"filippo.io/torchwood"
	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/retrace-ledger/retrace/ledger/engine"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// A RemoteLog is somebody else's log, as Mirror reads it. Nothing that it says
// is believed unless it is under the log's signature.
type RemoteLog interface {
	// Checkpoint is its newest signed note (C2SP tlog-tiles, /checkpoint).
	Checkpoint(ctx context.Context) ([]byte, error)
	// Tile is the content of a hash tile or, at level -1, of an entry bundle
	// (C2SP tlog-tiles, /tile/).
	Tile(ctx context.Context, t tlog.Tile) ([]byte, error)
	// Entries yields the entries from index from up to but not including to,
	// with the bodies that the reader may have. The only error may be
	// ErrNoBodies, where the log gives none at all.
	Entries(ctx context.Context, from, to int64) iter.Seq2[schema.Entry, error]
}

// ErrNoBodies says that a log serves its tiles alone.
var ErrNoBodies = errors.New("the log serves no bodies")

// BehindError says that a log shows less than it has signed: it was put back to
// an older state, or an old answer was kept on the way. Both notes are here.
type BehindError struct {
	Ours, Theirs []byte // signed notes
}

func (e *BehindError) Error() string {
	return fmt.Sprintf("the log shows an older checkpoint than the one that it signed before; keep both:\n%s\n%s", e.Ours, e.Theirs)
}

// Mirrored says how far a mirror is.
type Mirrored struct {
	Checkpoint verify.Checkpoint
	// LogKey is the vkey that took the place of the one given, by a rotation that
	// the log holds; "" while the one given is in force.
	LogKey   string
	New      int64 // entries that were not there before
	Withheld int64 // of them, those without a body
}

// Mirror brings the copy in dir up to the newest checkpoint of the log: it
// makes one if dir holds none. What dir holds is never replaced by anything else:
// the log's new tree has to begin with the old one, each entry has to be in the
// new one, and what was read counts when all of it was. A kill loses nothing;
// the next call goes on.
//
// A log that signed two histories gives a *ForkError; both notes are written to
// the file "fork" in dir first. One that shows an older state of the same
// history gives a *BehindError. A body that an entry of the log's observer
// erases is removed from the copy too.
//
// Where the log key was rotated since, the entries that say so are followed from
// the key given on; a log that gives no bodies has to be mirrored anew.
//
// The result is a ledger directory without private keys, for OpenReadOnly and
// Fsck. A log with a method Cosigned(ctx) ([]byte, error) is asked for its newest
// cosigned checkpoint, which goes to the file "cosigned".
func Mirror(ctx context.Context, dir string, key note.Verifier, log RemoteLog, opts *CopyOptions) (got Mirrored, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("mirroring into %s: %w", dir, err)
		}
	}()
	raw, err := log.Checkpoint(ctx)
	if err != nil {
		return got, fmt.Errorf("reading the log's checkpoint: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return got, err
	}
	defer func() { err = errors.Join(err, lock.release()) }()
	m := &mirroring{ctx: ctx, dir: dir, key: key, log: log, opts: opts}
	if got.LogKey, err = m.open(raw); err != nil {
		return got, fmt.Errorf("the log's checkpoint: %w", err)
	}
	if m.tiles, err = lru.New[tlog.Tile, []byte](tileCacheSize); err != nil {
		return got, err
	}
	if m.file, m.ours, err = m.published(); err != nil {
		return got, err
	}
	if m.file != nil {
		defer func() { err = errors.Join(err, m.file.Close()) }()
	}
	if err := errors.Join(m.run(), m.keepCosigned()); err != nil {
		return Mirrored{Checkpoint: m.ours, LogKey: got.LogKey}, m.evidence(err)
	}
	return Mirrored{Checkpoint: m.ours, LogKey: got.LogKey, New: m.added, Withheld: m.withheld}, nil
}

// mirroring is one pass of Mirror.
type mirroring struct {
	ctx    context.Context
	dir    string
	key    note.Verifier   // in force
	older  []note.Verifier // that it took the place of
	log    RemoteLog
	opts   *CopyOptions
	target verify.Checkpoint
	tiles  *lru.Cache[tlog.Tile, []byte] // of target's tree, each checked

	file            *checkpointFile   // nil before the first pass has ended
	ours            verify.Checkpoint // what dir holds and answers from
	added, withheld int64
}

// published is what dir holds that counts. Where there is nothing yet, dir is
// marked as being filled.
func (m *mirroring) published() (*checkpointFile, verify.Checkpoint, error) {
	_, err := os.Stat(checkpointPath(m.dir))
	if errors.Is(err, fs.ErrNotExist) {
		_, storeErr := os.Stat(storePath(m.dir))
		if _, begun := os.Stat(unfinishedPath(m.dir)); begun != nil && storeErr == nil {
			return nil, verify.Checkpoint{}, missingCheckpoint(m.dir)
		}
		return nil, verify.Checkpoint{}, begin(m.dir)
	}
	if err != nil {
		return nil, verify.Checkpoint{}, err
	}
	file, signed, _, err := openCheckpointFile(m.dir, m.key, true, m.older...)
	if err != nil {
		return nil, verify.Checkpoint{}, err
	}
	return file, signed[len(signed)-1], nil
}

func (m *mirroring) run() (err error) {
	if m.target.Size == m.ours.Size && m.target.Root == m.ours.Root {
		return nil
	}
	if err := os.MkdirAll(storePath(m.dir), 0o700); err != nil {
		return err
	}
	e, err := engine.OpenBadger(storePath(m.dir))
	if err != nil {
		return cannotOpen(storePath(m.dir), err)
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	recv := newReceiver(m.ctx, m.dir, e, m.key)
	recv.older = m.older
	if err := m.compare(e); err != nil {
		return err
	}
	if err := recv.resume(); err != nil {
		return err
	}
	return m.receive(recv)
}

// compare compares what dir holds, and what it was being brought to, with the
// new checkpoint. A store that is ahead of the checkpoint file is finished.
func (m *mirroring) compare(e engine.Engine) error {
	var stored, before verify.Checkpoint
	err := e.View(func(s engine.Snapshot) (err error) {
		if stored, _, err = readState(s, m.key, m.older...); err != nil {
			return err
		}
		before, err = readTarget(s, m.key, m.older...)
		return err
	})
	if err != nil {
		return err
	}
	if m.file != nil && before.Size == 0 {
		return fmt.Errorf("%w: %s is a ledger of its own and no mirror", ErrExists, m.dir)
	}
	switch {
	case m.file != nil && stored.Size < m.ours.Size:
		return fmt.Errorf("%w: it ends at size %d, and the checkpoint file signed size %d", ErrShort, stored.Size, m.ours.Size)
	case stored.Size > m.ours.Size:
		if err := m.sign(stored); err != nil {
			return err
		}
	}
	for _, old := range []verify.Checkpoint{m.ours, before} {
		if err := m.extends(e, old); err != nil {
			return err
		}
	}
	if before.Size > m.target.Size {
		return &BehindError{Ours: before.Note, Theirs: m.target.Note}
	}
	return nil
}

// extends checks that the log's tree and that of an older checkpoint are one
// history.
func (m *mirroring) extends(e engine.Engine, old verify.Checkpoint) error {
	switch {
	case old.Size == 0:
		return nil
	case old.Size == m.target.Size && old.Root != m.target.Root:
		return &ForkError{Old: old.Note, New: m.target.Note}
	case old.Size > m.target.Size:
		return m.behind(e, old)
	}
	// From tiles that are authenticated under the new checkpoint.
	root, err := tlog.TreeHash(old.Size, m.hashes())
	if err != nil {
		return fmt.Errorf("comparing the log's tree of size %d with the one of size %d: %w", m.target.Size, old.Size, err)
	}
	if root != old.Root {
		return &ForkError{Old: old.Note, New: m.target.Note}
	}
	return nil
}

// behind tells a log that was put back from one that forked, as far as the
// tree of an older checkpoint is here.
func (m *mirroring) behind(e engine.Engine, old verify.Checkpoint) error {
	if old.Size != m.ours.Size { // not all of it was read
		return &BehindError{Ours: old.Note, Theirs: m.target.Note}
	}
	l, err := newLedger(m.dir, m.key)
	if err != nil {
		return err
	}
	return e.View(func(s engine.Snapshot) error {
		t, err := loadTree(s, old)
		if err != nil {
			return err
		}
		l.publish(old, t)
		root, err := tlog.TreeHash(m.target.Size, l.hashes(s, l.view.Load()))
		switch {
		case err != nil:
			return err
		case root != m.target.Root:
			return &ForkError{Old: old.Note, New: m.target.Note}
		}
		return &BehindError{Ours: old.Note, Theirs: m.target.Note}
	})
}

// receive takes the entries from where the store ends to the target.
func (m *mirroring) receive(recv *receiver) error {
	from := recv.tree.size()
	if from > m.target.Size {
		return &BehindError{Ours: m.ours.Note, Theirs: m.target.Note}
	}
	recv.put([]byte(targetKey), formatState(state{recordedAt: recv.last, note: m.target.Note}))
	if err := recv.flush(); err != nil {
		return err
	}
	next, stop := iter.Pull2(m.log.Entries(m.ctx, from, m.target.Size))
	defer stop()
	for recv.tree.size() < m.target.Size {
		leaves, err := m.leaves(recv.tree.size())
		if err != nil {
			return err
		}
		var bodies []schema.Entry
		if next != nil {
			if bodies, err = pull(next, len(leaves), recv.tree.size()); errors.Is(err, ErrNoBodies) {
				next, bodies, err = nil, nil, nil
			}
		}
		if err != nil {
			return err
		}
		if err := m.take(recv, leaves, bodies); err != nil {
			return err
		}
		m.opts.report(recv.tree.size(), m.target.Size)
	}
	recv.put([]byte(targetKey), formatState(state{recordedAt: recv.last, note: m.target.Note}))
	if err := recv.publish(m.target); err != nil {
		return err
	}
	return m.sign(m.target)
}

// pull takes n entries, of which the first has index from.
func pull(next func() (schema.Entry, error, bool), n int, from int64) ([]schema.Entry, error) {
	out := make([]schema.Entry, 0, n)
	for len(out) < n {
		e, err, ok := next()
		if err != nil {
			return nil, err
		}
		if want := from + int64(len(out)); !ok || e.Index != want {
			return nil, fmt.Errorf("the log does not send entry %d", want)
		}
		out = append(out, e)
	}
	return out, nil
}

// leaves are the hashes, under the target's tree, of the leaves from index
// from up to the end of their tile.
func (m *mirroring) leaves(from int64) ([]tlog.Hash, error) {
	to := min((from/tileWidth+1)*tileWidth, m.target.Size)
	indexes := make([]int64, 0, tileWidth)
	for i := from; i < to; i++ {
		indexes = append(indexes, tlog.StoredHashIndex(0, i))
	}
	hashes, err := m.hashes().ReadHashes(indexes)
	if err != nil {
		return nil, fmt.Errorf("reading the log's tiles over entry %d: %w", from, err)
	}
	return hashes, nil
}

// take adds the entries under leaves, with bodies if there are any.
func (m *mirroring) take(recv *receiver, leaves []tlog.Hash, bodies []schema.Entry) error {
	first := recv.tree.size()
	var bundle []commitment
	if bodies == nil {
		var err error
		if bundle, err = m.bundle(first, len(leaves)); err != nil {
			return err
		}
	}
	for i, leaf := range leaves {
		rec := record{withheld: true}
		if bodies == nil {
			rec.commitment = bundle[i]
		} else {
			// A body that the log calls erased is withheld until the entry that
			// erases it was read, and its signature checked.
			e := bodies[i]
			rec = record{commitment: e.Commitment, body: e.Body, withheld: e.State != schema.Present}
			if rec.withheld {
				rec.body = nil
			}
		}
		if rec.leafHash() != leaf {
			return fmt.Errorf("the log sends %x for entry %d, which its signed tree does not hold there", rec.commitment, first+int64(i))
		}
		if rec.withheld {
			m.withheld++
		}
		m.added++
		if err := recv.add(rec); err != nil {
			return err
		}
	}
	return nil
}

// bundle reads the commitments of n entries from index first on, which are in
// one tile.
func (m *mirroring) bundle(first int64, n int) ([]commitment, error) {
	from := int(first % tileWidth)
	t := tlog.Tile{H: tileHeight, L: -1, N: first / tileWidth, W: from + n}
	raw, err := m.tile(t)
	if err != nil {
		return nil, fmt.Errorf("reading the entry bundle over entry %d: %w", first, err)
	}
	out := make([]commitment, 0, n)
	for i := range from + n {
		var entry []byte
		if entry, raw, err = torchwood.ReadTileEntry(raw); err != nil {
			return nil, fmt.Errorf("reading the entry bundle over entry %d: %w", first, err)
		}
		if len(entry) != len(commitment{}) {
			return nil, fmt.Errorf("entry %d of the log has %d bytes in its bundle, and a ledger's has a commitment of %d: it is no retrace log", first-int64(from)+int64(i), len(entry), len(commitment{}))
		}
		if i >= from {
			out = append(out, commitment(entry))
		}
	}
	return out, nil
}

// tile reads a tile. A log may have removed a partial one that filled up
// meanwhile; the full one holds it.
func (m *mirroring) tile(t tlog.Tile) ([]byte, error) {
	raw, err := m.log.Tile(m.ctx, t)
	if err == nil || t.W == tileWidth || !errors.Is(err, ErrNotFound) {
		return raw, err
	}
	full := t
	full.W = tileWidth
	raw, fullErr := m.log.Tile(m.ctx, full)
	if fullErr != nil {
		return nil, err
	}
	if t.L >= 0 && len(raw) >= t.W*tlog.HashSize {
		raw = raw[:t.W*tlog.HashSize]
	}
	return raw, nil
}

// hashes reads hashes of the target's tree from tiles that are checked against
// its root.
func (m *mirroring) hashes() tlog.HashReader {
	return tlog.TileHashReader(tlog.Tree{N: m.target.Size, Hash: m.target.Root}, (*remoteTiles)(m))
}

// remoteTiles is a tlog.TileReader.
type remoteTiles mirroring

func (*remoteTiles) Height() int { return tileHeight }

func (r *remoteTiles) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	out := make([][]byte, len(tiles))
	for i, t := range tiles {
		var ok bool
		if out[i], ok = r.tiles.Get(t); ok {
			continue
		}
		var err error
		if out[i], err = (*mirroring)(r).tile(t); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// SaveTiles is called with tiles that were checked.
func (r *remoteTiles) SaveTiles(tiles []tlog.Tile, data [][]byte) {
	for i, t := range tiles {
		r.tiles.Add(t, data[i])
	}
}

// sign makes cp what dir answers from.
func (m *mirroring) sign(cp verify.Checkpoint) error {
	if m.file != nil {
		if err := m.file.write(cp.Note); err != nil {
			return err
		}
	} else if err := finish(m.dir, cp); err != nil {
		return err
	}
	m.ours = cp
	return nil
}

// keepCosigned keeps the newest checkpoint that witnesses cosigned, if the log
// has one of the history that is mirrored. What the witnesses' signatures are
// worth, whoever reads it decides.
func (m *mirroring) keepCosigned() error {
	log, ok := m.log.(interface {
		Cosigned(ctx context.Context) ([]byte, error)
	})
	if !ok || m.ours.Size != m.target.Size {
		return nil
	}
	raw, err := log.Cosigned(m.ctx)
	if err != nil || raw == nil {
		return err
	}
	cp, err := openSigned(raw, m.key, m.older)
	if err != nil {
		return fmt.Errorf("the log's cosigned checkpoint: %w", err)
	}
	if cp.Size == 0 || cp.Size > m.target.Size { // newer than what was asked for a moment ago
		return nil
	}
	root, err := tlog.TreeHash(cp.Size, m.hashes())
	if err != nil {
		return err
	}
	if root != cp.Root {
		return &ForkError{Old: cp.Note, New: m.target.Note}
	}
	path := filepath.Join(m.dir, cosignedMember)
	if have, err := os.ReadFile(path); err == nil && string(have) == string(raw) {
		return nil
	}
	return writeFile(path, raw, 0o644)
}

// evidence writes the two notes of a fork to a file, where there is none yet,
// and returns err.
func (m *mirroring) evidence(err error) error {
	var fork *ForkError
	if !errors.As(err, &fork) {
		return err
	}
	path := filepath.Join(m.dir, "fork")
	if _, statErr := os.Stat(path); statErr == nil {
		return err
	}
	return errors.Join(err, writeFile(path, fmt.Appendf(nil, "%s\n%s", fork.Old, fork.New), 0o644))
}
