package ledger

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/retrace-ledger/retrace/ledger/engine"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// Progress says how far Fsck has come.
type Progress struct {
	Done, Total int64 // entries
}

// Finding is one fault.
type Finding struct {
	Where   string // such as "entry 7" or the path of a file
	Problem string
}

// Fsck reads everything that the ledger in dir holds and compares it: bodies
// with commitments, commitments with tiles, tiles with the signed root, and
// the index of duplicates with the entries. It uses no cache of its own, trusts
// nothing that was checked before, and works where Open refuses. It changes
// nothing. No finding means that the ledger holds exactly what was signed with
// key.
//
// Faults are yielded in the order of the entries; the first is the place to
// look. An error ends the sequence and says that the rest could not be
// checked. report, which may be nil, is called now and then.
func Fsck(ctx context.Context, dir string, key note.Verifier, report func(Progress)) iter.Seq2[Finding, error] {
	return func(yield func(Finding, error) bool) {
		c := &checker{ctx: ctx, dir: dir, verifier: key, report: report, yield: yield}
		if c.report == nil {
			c.report = func(Progress) {}
		}
		if err := c.run(); err != nil && !errors.Is(err, errStopped) {
			yield(Finding{}, fmt.Errorf("checking the ledger in %s: %w", dir, err))
		}
	}
}

// errStopped says that the caller of Fsck has heard enough.
var errStopped = errors.New("stopped")

// checker is one run of Fsck.
type checker struct {
	ctx      context.Context
	dir      string
	verifier note.Verifier
	report   func(Progress)
	yield    func(Finding, error) bool

	signed  []verify.Checkpoint // of the checkpoint file, the newest last
	stored  verify.Checkpoint   // of the store
	target  verify.Checkpoint   // of a mirror; zero in any other ledger
	outside []outside           // that others vouch for
	tree    *tree               // over the entries read so far
	roots   map[int64]tlog.Hash // of the sizes in signed and stored, as read
	older   []note.Verifier     // the log's keys before verifier
	genesis genesis
	rotated []int64 // entries that rotate keys
	secret  []byte  // nil in a copy without it
	last    state   // recordedAt of the entry before
	dups    int64   // entries that should be found in the index of duplicates
	erased  erasures
}

// find yields a fault.
func (c *checker) find(where, format string, args ...any) error {
	if !c.yield(Finding{where, fmt.Sprintf(format, args...)}, nil) {
		return errStopped
	}
	return nil
}

// findError yields err as a fault if it is damage, and returns it otherwise.
func (c *checker) findError(err error) error {
	var d *DamageError
	if !errors.As(err, &d) {
		return err
	}
	if d.Err != nil {
		return c.find(d.Where, "%s: %v", d.Problem, d.Err)
	}
	return c.find(d.Where, "%s", d.Problem)
}

func (c *checker) run() error {
	lock, err := lockToRead(c.dir)
	if err != nil {
		return err
	}
	defer lock.release()
	c.findKeys()
	if err := c.readCheckpoints(); err != nil {
		return err
	}
	e, err := engine.InspectBadger(storePath(c.dir))
	if err != nil {
		return c.findError(cannotOpen(storePath(c.dir), err))
	}
	defer e.Close()
	if err := e.VerifyChecksums(c.ctx); err != nil {
		if err := c.find(storePath(c.dir), "a checksum of the engine does not hold: %v", err); err != nil {
			return err
		}
	}
	return e.View(c.readStore)
}

// readCheckpoints reads the checkpoint file and the secret beside it.
func (c *checker) readCheckpoints() error {
	file, signed, faults, err := openCheckpointFile(c.dir, c.verifier, false, c.older...)
	for _, f := range faults {
		if err := c.find(checkpointPath(c.dir), "%s", f); err != nil {
			return err
		}
	}
	if err != nil {
		// What the store holds is still worth reading.
		if err := c.findError(err); err != nil {
			return err
		}
	} else {
		file.Close()
	}
	c.signed = signed
	if err := c.readOutside(); err != nil {
		return err
	}
	secret, err := os.ReadFile(secretPath(c.dir))
	if err == nil && len(secret) != secretSize {
		return c.find(secretPath(c.dir), "it has %d bytes, not %d", len(secret), secretSize)
	}
	if err == nil {
		c.secret = secret
	}
	return nil
}

// readStore reads the store from the first entry to the last.
func (c *checker) readStore(s engine.Snapshot) error {
	var err error
	if c.stored, _, err = readState(s, c.verifier); err != nil {
		if err := c.findError(err); err != nil {
			return err
		}
	}
	if c.target, err = readTarget(s, c.verifier); err != nil {
		if err := c.findError(err); err != nil {
			return err
		}
	}
	c.tree = newTree()
	c.roots = map[int64]tlog.Hash{}
	c.erased = erasures{}
	for _, check := range []func(engine.Snapshot) error{
		c.readSegments, c.readErasures, c.compareRoots, c.compareOutside, c.compareKeys, c.readExtra, c.readCursors,
	} {
		if err := check(s); err != nil {
			return err
		}
	}
	return nil
}

// total is the size that the entries should reach.
func (c *checker) total() int64 {
	total := c.stored.Size
	for _, cp := range c.signed {
		total = max(total, cp.Size)
	}
	return total
}

// readSegments reads all entries and the tiles over them.
func (c *checker) readSegments(s engine.Snapshot) error {
	c.tree.full = nil
	for item, err := range s.Ascend(segmentKey(0), prefixEnd(segmentPrefix)) {
		if err != nil {
			return c.find("store", "the segments cannot be read: %v", err)
		}
		first, err := segmentFirst(item.Key())
		if err != nil {
			return c.findError(err)
		}
		if first != c.tree.size() {
			return c.gap(first)
		}
		var records []record
		err = readValue(segmentName(first), item.Value, func(value []byte) error {
			for r, err := range segment(slices.Clone(value)).records() {
				if err != nil {
					return damage(segmentName(first), "%v", err)
				}
				records = append(records, r)
			}
			return nil
		})
		if err != nil {
			if err := c.findError(err); err != nil {
				return err
			}
		}
		for _, r := range records {
			if err := c.readRecord(s, r); err != nil {
				return err
			}
		}
		c.report(Progress{c.tree.size(), c.total()})
	}
	return c.end()
}

// gap reports that the segment after the entries read so far begins elsewhere.
// The tree cannot be continued beyond it.
func (c *checker) gap(first int64) error {
	if next := c.tree.size(); first > next {
		return c.find(entryName(next), "missing: the store goes on with entry %d", first)
	}
	return c.find(segmentName(first), "it holds entries that the segment before holds too")
}

// end reports entries that are missing at the end.
func (c *checker) end() error {
	size := c.tree.size()
	var newest int64
	if len(c.signed) > 0 {
		newest = c.signed[len(c.signed)-1].Size
	}
	switch {
	case size < newest:
		return c.find(entryName(size), "missing: the store ends there, and size %d was signed", newest)
	case size < c.stored.Size:
		return c.find(entryName(size), "missing: the store ends there, and says that its size is %d", c.stored.Size)
	case size > c.stored.Size && size <= c.target.Size:
		// A mirror on its way: what it has beyond is not published.
	case size > c.stored.Size:
		return c.find("state of the store", "it says that the size is %d, and there are %d entries", c.stored.Size, size)
	}
	return nil
}

// readRecord checks one entry and takes it into the tree.
func (c *checker) readRecord(s engine.Snapshot, r record) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	index := c.tree.size()
	var faults []error
	c.tree.full = func(level int, n int64, hashes []tlog.Hash, leaves []commitment) {
		faults = append(faults, compareTile(s, level, n, hashes, leaves))
	}
	if err := c.checkBody(s, index, r); err != nil {
		return err
	}
	if _, err := c.tree.add(r.commitment); err != nil {
		return err
	}
	for _, err := range faults {
		if err != nil {
			if err := c.findError(err); err != nil {
				return err
			}
		}
	}
	return c.noteRoot()
}

// noteRoot keeps the root of each size that somebody signed.
func (c *checker) noteRoot() error {
	size := c.tree.size()
	wanted := size == c.stored.Size
	for _, cp := range c.signed {
		wanted = wanted || size == cp.Size
	}
	for _, o := range c.outside {
		wanted = wanted || size == o.Size
	}
	if !wanted {
		return nil
	}
	root, err := c.tree.root()
	c.roots[size] = root
	return err
}

// checkBody compares a body with its commitment and its envelope with the
// rules for one.
func (c *checker) checkBody(s engine.Snapshot, index int64, r record) error {
	if r.withheld {
		return c.checkWithheld(index)
	}
	if len(r.body) == 0 {
		if index == 0 {
			return c.find(entryName(index), "the genesis is erased")
		}
		return c.noteErased(s, index, r.commitment)
	}
	e, err := schema.ParseEntry(index, r.body)
	if e.Commitment != r.commitment {
		return c.find(entryName(index), "its body hashes to %x, and its commitment is %x", e.Commitment, r.commitment)
	}
	if err != nil {
		return c.find(entryName(index), "%v", err)
	}
	if e.Header.RecordedAt.Before(c.last.recordedAt) {
		if err := c.find(entryName(index), "it was recorded at %s, before the entry before it", e.Header.RecordedAt); err != nil {
			return err
		}
	}
	c.last.recordedAt = e.Header.RecordedAt
	if index == 0 {
		if c.genesis, err = readGenesis(e.Envelope); err == nil && len(c.older) == 0 {
			err = c.genesis.matches(c.verifier)
		}
		if err != nil {
			return c.find(entryName(index), "%v", err)
		}
	} else if rotated, err := c.followRotation(e); err != nil {
		return c.find(entryName(index), "%v", err)
	} else if rotated {
		return c.checkDuplicate(s, e)
	} else if c.genesis.chain == nil {
		return nil // what genesis lacks was found
	} else if _, err := c.genesis.checkOwn(e.Envelope); err != nil {
		return c.find(entryName(index), "%v", err)
	}
	if err := c.noteErasure(e); err != nil {
		return err
	}
	return c.checkDuplicate(s, e)
}

// checkDuplicate checks that the entry is the one that its identity leads to.
func (c *checker) checkDuplicate(s engine.Snapshot, e schema.Entry) error {
	if c.secret == nil || c.genesis.observerID == "" {
		return nil
	}
	c.dups++
	id := identify(c.secret, e.Header.Namespace, e.Envelope.Identity(c.genesis.observerAt(e.Index)))
	var index uint64
	err := s.Get(id.key(), func(value []byte) error {
		if len(value) != 8 {
			return fmt.Errorf("%d bytes are no index", len(value))
		}
		index = binary.BigEndian.Uint64(value)
		return nil
	})
	switch {
	case errors.Is(err, engine.ErrNotFound) && e.Index == 0:
		c.secret = nil // and nothing else would be found under it either
		return c.find(secretPath(c.dir), "the genesis is not found under it; it is not the secret of this ledger, or the index of duplicates is damaged")
	case errors.Is(err, engine.ErrNotFound):
		return c.find(entryName(e.Index), "the index of duplicates does not know it")
	case err != nil:
		return c.find(entryName(e.Index), "the index of duplicates cannot be read: %v", err)
	case int64(index) != e.Index:
		return c.find(entryName(e.Index), "the index of duplicates says that its envelope is entry %d", index)
	}
	return nil
}

// compareTile compares a full tile as computed from the entries with the
// stored one.
func compareTile(s engine.Snapshot, level int, n int64, hashes []tlog.Hash, leaves []commitment) error {
	if err := compareValue(s, tileName(level, n), tileKey(level, n), encodeTile(hashes)); err != nil || level > 0 {
		return err
	}
	return compareValue(s, bundleName(n), bundleKey(n), encodeBundle(leaves))
}

func compareValue(s engine.Snapshot, where string, key, want []byte) error {
	err := s.Get(key, func(value []byte) error {
		if !slices.Equal(value, want) {
			return errors.New("it is not what the entries give")
		}
		return nil
	})
	switch {
	case errors.Is(err, engine.ErrNotFound):
		return damage(where, "missing")
	case err != nil:
		return &DamageError{Where: where, Problem: "does not hold", Err: err}
	}
	return nil
}

// compareRoots compares the roots as computed from the entries with what was
// signed.
func (c *checker) compareRoots(engine.Snapshot) error {
	for _, cp := range append(slices.Clone(c.signed), c.stored) {
		root, reached := c.roots[cp.Size]
		if !reached || root == cp.Root {
			continue // a size that was not reached was reported as missing
		}
		where := fmt.Sprintf("checkpoint of size %d", cp.Size)
		if err := c.find(where, "it signs root %s, and the entries give %s", cp.Root, root); err != nil {
			return err
		}
	}
	return nil
}

// readExtra reports what the store holds beyond the entries.
func (c *checker) readExtra(s engine.Snapshot) error {
	var dups, tiles, bundles int64
	for _, count := range []struct {
		prefix string
		n      *int64
	}{{dedupPrefix, &dups}, {tilePrefix, &tiles}, {bundlePrefix, &bundles}} {
		for _, err := range s.Ascend([]byte(count.prefix), prefixEnd(count.prefix)) {
			if err != nil {
				return c.find("store", "keys under %q cannot be read: %v", count.prefix, err)
			}
			*count.n++
		}
	}
	size := c.tree.size()
	var want int64
	for level := range edgeLevels(size) {
		n, _ := edgeWidth(size, level)
		want += n
	}
	full, _ := edgeWidth(size, 0)
	switch {
	case tiles != want:
		return c.find("store", "it holds %d full tiles, and %d entries give %d", tiles, size, want)
	case bundles != full:
		return c.find("store", "it holds %d full entry bundles, and %d entries give %d", bundles, size, full)
	case c.secret != nil && dups < c.dups:
		return c.find("index of duplicates", "it knows %d envelopes of %d", dups, c.dups)
	}
	return nil
}

// readCursors checks that every cursor can be read.
func (c *checker) readCursors(s engine.Snapshot) error {
	for item, err := range s.Ascend([]byte(cursorPrefix), prefixEnd(cursorPrefix)) {
		if err != nil {
			return c.find("store", "the cursors cannot be read: %v", err)
		}
		if _, err := readCursor(s, slices.Clone(item.Key())); err != nil {
			if err := c.findError(err); err != nil {
				return err
			}
		}
	}
	return nil
}

// prefixEnd is the first key after all that begin with prefix.
func prefixEnd(prefix string) []byte {
	end := []byte(prefix)
	end[len(end)-1]++
	return end
}
