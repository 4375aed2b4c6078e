package ledger

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/retrace-ledger/retrace/ledger/engine"
	"github.com/retrace-ledger/retrace/ledger/internal/disk"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// CopyOptions changes how a ledger is copied. The zero value is right.
type CopyOptions struct {
	// Key is what the copy has to be signed with. Import takes the key that the
	// backup names where it is nil.
	Key note.Verifier
	// Report, if it is set, is called now and then.
	Report func(Progress)
}

func (o *CopyOptions) report(done, total int64) {
	if o != nil && o.Report != nil {
		o.Report(Progress{done, total})
	}
}

// receiver takes the entries of a log, in order, into a store that nobody
// reads yet. Import, Mirror and Recover share it. Nothing that it took counts
// before publish, which compares the tree with a signed one.
type receiver struct {
	ctx      context.Context
	dir      string // whose disk the store is on
	engine   engine.Engine
	verifier note.Verifier
	older    []note.Verifier // keys that it took the place of: what was stored before may be signed by them
	secret   []byte          // of the identities; nil where no index of duplicates is kept
	free     func(dir string) (uint64, error)

	genesis genesis
	tree    *tree
	last    time.Time            // recordedAt of the newest entry with a body
	roots   map[int64]tlog.Hash  // of the sizes that are its keys, once reached
	orphans map[int64]commitment // entries without a body that no entry said it erased
	gone    map[int64]bool       // entries whose body another erased

	seg   segment // that is filling up
	first int64   // of seg
	count int     // of entries in seg
	puts  []engine.Put
	bytes int // of puts
}

// Bounds of what a receiver commits at once, well inside a transaction of the
// engine.
const (
	receiveBytes = 4 << 20
	receivePuts  = 16 << 10
)

func newReceiver(ctx context.Context, dir string, e engine.Engine, v note.Verifier) *receiver {
	r := &receiver{ctx: ctx, dir: dir, engine: e, verifier: v, free: disk.FreeSpace, roots: map[int64]tlog.Hash{}, orphans: map[int64]commitment{}, gone: map[int64]bool{}}
	r.follow(newTree())
	return r
}

// follow makes t the tree that is added to.
func (r *receiver) follow(t *tree) {
	r.tree, r.first = t, t.size()
	t.full = func(level int, index int64, hashes []tlog.Hash, leaves []commitment) {
		r.put(tileKey(level, index), encodeTile(hashes))
		if level == 0 {
			r.put(bundleKey(index), encodeBundle(leaves))
		}
	}
}

func (r *receiver) put(key, value []byte) {
	r.puts = append(r.puts, engine.Put{Key: key, Value: value})
	r.bytes += len(key) + len(value)
}

// add takes the next entry. A body that is not the one its commitment stands
// for is refused with a *DamageError.
func (r *receiver) add(rec record) error {
	index := r.tree.size()
	switch {
	case rec.withheld:
	case len(rec.body) == 0:
		r.orphans[index] = rec.commitment
	default:
		if got := schema.Commitment(rec.body); got != rec.commitment {
			return damage(entryName(index), "its body hashes to %x, and its commitment is %x", got, rec.commitment)
		}
		if err := r.read(index, rec); err != nil {
			return err
		}
	}
	return r.store(rec)
}

// store takes a record as it is.
func (r *receiver) store(rec record) error {
	if err := r.ctx.Err(); err != nil {
		return err
	}
	if r.count == maxSegmentEntries || r.count > 0 && len(r.seg)+recordOverhead+len(rec.body) > maxSegmentBytes {
		r.cut()
	}
	if _, err := r.tree.add(rec.commitment); err != nil {
		return err
	}
	r.seg = r.seg.put(rec)
	r.count++
	if size := r.tree.size(); len(r.roots) > 0 {
		if _, wanted := r.roots[size]; wanted {
			root, err := r.tree.root()
			if err != nil {
				return err
			}
			r.roots[size] = root
		}
	}
	if r.bytes+len(r.seg) >= receiveBytes || len(r.puts) >= receivePuts {
		return r.flush()
	}
	return nil
}

// cut ends the segment that is filling up.
func (r *receiver) cut() {
	if r.count > 0 {
		r.put(segmentKey(r.first), r.seg)
	}
	r.seg, r.first, r.count = nil, r.tree.size(), 0
}

// flush makes what was taken durable. A segment and the tiles that it fills
// are in one transaction, so that after a crash neither is there without the
// other.
func (r *receiver) flush() error {
	r.cut()
	if len(r.puts) == 0 {
		return nil
	}
	if err := enoughRoom(r.dir, r.free, uint64(r.bytes)); err != nil {
		return err
	}
	if err := r.engine.Commit(r.puts); err != nil {
		return err
	}
	r.puts, r.bytes = nil, 0
	return nil
}

// enoughRoom refuses to write what may not fit on the disk.
func enoughRoom(dir string, free func(string) (uint64, error), bytes uint64) error {
	have, err := free(dir)
	if err != nil {
		return fmt.Errorf("asking how much room is left in %s: %w", dir, err)
	}
	if need := spareRoom + 2*bytes; have < need {
		return fmt.Errorf("writing to %s: %w: %d MiB are free and %d MiB are needed", dir, ErrDiskFull, have>>20, need>>20)
	}
	return nil
}

// read does what the body of an entry asks for: it is the genesis, it has a
// key under which its duplicates are found, or it erases another.
func (r *receiver) read(index int64, rec record) error {
	e, err := schema.ParseEntry(index, rec.body)
	if err != nil {
		return &DamageError{Where: entryName(index), Problem: "is no entry", Err: err}
	}
	r.last = e.Header.RecordedAt
	if index == 0 {
		if r.genesis, err = readGenesis(e.Envelope); err != nil {
			return err
		}
	}
	if r.genesis.observerID == "" {
		return nil // the genesis is withheld: nobody knows who is the observer
	}
	if r.secret != nil {
		id := identify(r.secret, e.Header.Namespace, e.Envelope.Identity(r.genesis.observerID))
		r.put(id.key(), binary.BigEndian.AppendUint64(nil, uint64(index)))
	}
	if target, subject, ok := r.genesis.erases(e.Envelope); ok && target < index {
		return r.erase(target, subject, index)
	}
	return r.followKeys(e)
}

// followKeys takes a rotation of the ledger's own keys into account, and says so in
// the store.
func (r *receiver) followKeys(e schema.Entry) error {
	g, err := r.genesis.follow(e)
	if err != nil {
		return &DamageError{Where: entryName(e.Index), Problem: "is no lawful rotation", Err: err}
	}
	if g.chain != r.genesis.chain {
		r.genesis = g
		r.put([]byte(rotationsKey), formatRotations(rotationsOf(g.chain)))
	}
	return nil
}

// checkKey checks that the log key of the copy is the one in force. A mirror
// that was not given the genesis cannot tell.
func (r *receiver) checkKey() error {
	if r.genesis.chain == nil {
		return nil
	}
	return r.genesis.matches(r.verifier)
}

// erases is the entry whose body is gone on the word of env, if that is an
// erasure signed by the observer, and the commitment that it names, in hex.
func (g genesis) erases(env schema.Envelope) (target int64, subject string, ok bool) {
	p, ours, err := g.erasure(env)
	if err != nil || !ours {
		return 0, "", false
	}
	s, err := env.Statement()
	if err != nil || len(s.Subject) != 1 {
		return 0, "", false
	}
	return p.Index, s.Subject[0].Digest[schema.SHA256], true
}

// erase removes the body of the entry at index, which entry by erases, and
// says so in the store. It becomes durable together with by.
func (r *receiver) erase(index int64, subject string, by int64) error {
	said := func() {
		r.gone[index] = true
		r.put(erasedKey(index), binary.BigEndian.AppendUint64(nil, uint64(by)))
	}
	if c, ok := r.orphans[index]; ok {
		if hex.EncodeToString(c[:]) == subject {
			delete(r.orphans, index)
			said()
		}
		return nil
	}
	if err := r.flush(); err != nil { // what is rewritten has to be there
		return err
	}
	return r.engine.View(func(s engine.Snapshot) error {
		return findSegment(s, index, func(first int64, seg segment) error {
			var without segment
			at, found := first, false
			for rec, err := range seg.records() {
				if err != nil {
					return damage(segmentName(first), "%v", err)
				}
				if at == index && hex.EncodeToString(rec.commitment[:]) == subject {
					rec, found = record{commitment: rec.commitment}, true
				}
				without = without.put(rec)
				at++
			}
			if found {
				r.put(segmentKey(first), without)
				said()
			}
			return nil
		})
	})
}

// check compares the tree with a signed one, of whose size it is.
func (r *receiver) check(cp verify.Checkpoint) error {
	root, err := r.tree.root()
	if err != nil {
		return err
	}
	if r.tree.size() != cp.Size || root != cp.Root {
		return damage(fmt.Sprintf("checkpoint of size %d", cp.Size), "it signs root %s, and the %d entries received give %s", cp.Root, r.tree.size(), root)
	}
	return nil
}

// publish makes cp the checkpoint of the store. The tree is compared with it
// first.
func (r *receiver) publish(cp verify.Checkpoint) error {
	if err := r.check(cp); err != nil {
		return err
	}
	if err := r.checkKey(); err != nil {
		return err
	}
	r.put([]byte(stateKey), formatState(state{recordedAt: r.last, note: cp.Note}))
	return r.flush()
}

// resume goes on behind the entries that the store holds, of which nothing is
// to be trusted before publish.
func (r *receiver) resume() error {
	return r.engine.View(func(s engine.Snapshot) error {
		size, err := storedEntries(s)
		if err != nil || size == 0 {
			return err
		}
		_, width := edgeWidth(size, 0)
		leaves, err := readLeaves(s, size-int64(width), size)
		if err != nil {
			return err
		}
		t, err := rebuildTree(size, leaves, storedRoots(s))
		if err != nil {
			return err
		}
		r.follow(t)
		return r.resumeAt(s)
	})
}

// resumeAt reads of a store what the entries to come are judged by: the
// genesis, the keys that took the place of its, and the time of the newest entry.
func (r *receiver) resumeAt(s engine.Snapshot) error {
	if err := r.resumeGenesis(s); err != nil {
		return err
	}
	_, at, err := readState(s, r.verifier, r.older...)
	r.last = at
	return err
}

// resumeGenesis reads the genesis of a store, and follows its rotations.
func (r *receiver) resumeGenesis(s engine.Snapshot) error {
	err := findSegment(s, 0, func(_ int64, seg segment) error {
		for rec, err := range seg.records() {
			if err != nil || rec.withheld || len(rec.body) == 0 {
				return err
			}
			e, err := schema.ParseEntry(0, rec.body)
			if err != nil {
				return err
			}
			r.genesis, err = readGenesis(e.Envelope)
			return err
		}
		return nil
	})
	if err != nil {
		return err
	}
	return r.resumeKeys(s)
}

// resumeKeys follows the rotations that the store has.
func (r *receiver) resumeKeys(s engine.Snapshot) error {
	if r.genesis.chain == nil {
		return nil
	}
	entries, err := readRotations(s)
	if err != nil {
		return err
	}
	for _, index := range entries {
		e, err := inspectEntry(s, index)
		if err != nil {
			return err
		}
		if r.genesis, err = r.genesis.follow(e); err != nil {
			return &DamageError{Where: entryName(index), Problem: "is no lawful rotation", Err: err}
		}
	}
	return nil
}

// storedEntries is where the last segment of a store ends.
func storedEntries(s engine.Snapshot) (int64, error) {
	for item, err := range s.Descend(prefixLast(segmentPrefix), segmentKey(0)) {
		if err != nil {
			return 0, err
		}
		size, err := segmentFirst(item.Key())
		if err != nil {
			return 0, err
		}
		err = item.Value(func(value []byte) error {
			for _, err := range segment(value).records() {
				if err != nil {
					return damage(segmentName(size), "%v", err)
				}
				size++
			}
			return nil
		})
		return size, err
	}
	return 0, nil
}

// prefixLast is the last key that begins with prefix and ends in a number.
func prefixLast(prefix string) []byte {
	return append([]byte(prefix), slices.Repeat([]byte{0xff}, 8)...)
}

// readTarget reads the checkpoint that a mirror is being brought to; the zero
// Checkpoint if the store is no mirror's.
func readTarget(s engine.Snapshot, v note.Verifier, older ...note.Verifier) (verify.Checkpoint, error) {
	const where = "target of the mirror"
	var st state
	err := s.Get([]byte(targetKey), func(value []byte) (err error) {
		st, err = parseState(value)
		return err
	})
	if errors.Is(err, engine.ErrNotFound) {
		return verify.Checkpoint{}, nil
	}
	if err != nil {
		return verify.Checkpoint{}, &DamageError{Where: where, Problem: "cannot be read", Err: err}
	}
	cp, err := openSigned(st.note, v, older)
	if err != nil {
		return verify.Checkpoint{}, &DamageError{Where: where, Problem: "its checkpoint is not one", Err: err}
	}
	return cp, nil
}

// checkWithheld reports a body that is not here, except in a mirror, which is
// not given all of them.
func (c *checker) checkWithheld(index int64) error {
	if c.target.Size > 0 {
		return nil
	}
	return c.find(entryName(index), "its body is not here, and this is no mirror")
}

// unfinishedPath is a file that is there while nothing in a directory was
// published and something is about to be.
func unfinishedPath(dir string) string { return filepath.Join(dir, "unfinished") }

// begin marks dir as being filled.
func begin(dir string) error {
	return writeFile(unfinishedPath(dir), []byte("a copy of a ledger is being made here; nothing of it counts yet\n"), 0o600)
}

// finish makes cp's note the checkpoint file of dir, durably and in both slots,
// and takes the mark away. What dir holds counts from then on.
func finish(dir string, cp verify.Checkpoint) error {
	slot, err := formatSlot(cp.Note)
	if err != nil {
		return err
	}
	if err := writeFile(checkpointPath(dir), slices.Repeat(slot, slotCount), 0o644); err != nil {
		return err
	}
	if err := os.Remove(unfinishedPath(dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return disk.SyncDir(dir)
}

// writeFile puts data under path in one step that a crash leaves done or not
// done, and makes it durable.
func writeFile(path string, data []byte, mode fs.FileMode) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", tmp, err), os.Remove(tmp))
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return disk.SyncDir(filepath.Dir(path))
}

// readSecret reads the secret of the identities of the ledger in dir; nil if
// there is none.
func readSecret(dir string) ([]byte, error) {
	secret, err := os.ReadFile(secretPath(dir))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case len(secret) != secretSize:
		return nil, damage(secretPath(dir), "it has %d bytes, not %d", len(secret), secretSize)
	}
	return secret, nil
}

// leafHash is the hash of an entry's leaf, RFC 6962 section 2.1.
func (r record) leafHash() tlog.Hash { return tlog.RecordHash(r.commitment[:]) }

// right says whether the body of r, if it has one, is the one that its
// commitment stands for.
func (r record) right() bool {
	return len(r.body) == 0 || [sha256.Size]byte(schema.Commitment(r.body)) == r.commitment
}
