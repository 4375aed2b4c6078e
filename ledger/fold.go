package ledger

import (
	"github.com/retrace-ledger/retrace/ledger/engine"
	"github.com/retrace-ledger/retrace/schema"
)

// A commit of a few entries makes a small segment. The engine keeps it in its
// tables and writes it again each time it merges them, and finds each entry
// through a key of its own. So that a ledger that grew one entry at a time costs
// what one costs that grew in large batches, consecutive small segments are
// folded into one when together they are as large as a segment may be.

// smallSegment is the size in bytes below which a segment is worth folding: the
// engine keeps larger values apart.
const smallSegment = 64 << 10

// segmentRun are consecutive small segments that could be folded.
type segmentRun struct {
	first []int64 // the index at which each begins
	next  int64   // the index after the last
	bytes int
}

// fits says whether a segment of n entries and size bytes would still fit.
func (r *segmentRun) fits(first int64, n, size int) bool {
	return len(r.first) == 0 || first == r.next &&
		r.next+int64(n)-r.first[0] <= maxSegmentEntries && r.bytes+size <= maxSegmentBytes
}

// add takes a segment in, which fits.
func (r *segmentRun) add(first int64, n, size int) {
	r.first = append(r.first, first)
	r.next = first + int64(n)
	r.bytes += size
}

// worth says whether folding the run saves anything: a run that stays small is
// better folded with what follows it.
func (r *segmentRun) worth() bool { return len(r.first) > 1 && r.bytes >= smallSegment }

// note remembers a segment that the commit stores.
func (c *committer) note(first int64, n, size int) {
	small := size < smallSegment
	if !small || !c.small.fits(first, n, size) {
		c.small = segmentRun{}
	}
	if small {
		c.small.add(first, n, size)
	}
}

// fold puts the records of the last run into one segment, in the commit that is
// being made, if what the commit adds no longer fits into the run. A run with a
// record that is not what was committed to is left as it is, for Fsck to find.
func (c *commit) fold(s engine.Snapshot) {
	size := 0
	for _, e := range c.entries {
		size += len(e.envelope) + recordOverhead + schema.SaltSize
	}
	run := c.small
	if len(c.holed) > 0 { // a segment of the run may be written again without a body
		return
	}
	if len(c.entries) == 0 || run.fits(c.base, len(c.entries), size) || !run.worth() {
		return
	}
	seg := make(segment, 0, run.bytes)
	next := run.first[0]
	for item, err := range s.Ascend(segmentKey(run.first[0]), segmentKey(run.next)) {
		if err != nil {
			return
		}
		if first, err := segmentFirst(item.Key()); err != nil || first != next {
			return
		}
		err = item.Value(func(value []byte) error {
			for r, err := range segment(value).records() {
				if err != nil {
					return err
				}
				if len(r.body) > 0 && schema.Commitment(r.body) != r.commitment {
					return damage(entryName(next), "its body is not what was committed to")
				}
				next++
			}
			seg = append(seg, value...)
			return nil
		})
		if err != nil {
			return
		}
	}
	if next != run.next {
		return
	}
	c.small = segmentRun{}
	c.puts = append(c.puts, engine.Put{Key: segmentKey(run.first[0]), Value: seg})
	for _, first := range run.first[1:] {
		c.puts = append(c.puts, engine.Put{Key: segmentKey(first)})
	}
}

// lastRun finds the small segments at the end of a store of the given size, so
// that a process that appends one entry and ends leaves no small segments
// behind for good either.
func lastRun(s engine.Snapshot, size int64) (segmentRun, error) {
	type part struct {
		first   int64
		n, size int
	}
	var parts []part
	next, bytes := size, 0
	for item, err := range s.Descend(segmentKey(size-1), segmentKey(0)) {
		if err != nil {
			return segmentRun{}, &DamageError{Where: entryName(next - 1), Problem: "cannot be read", Err: err}
		}
		first, err := segmentFirst(item.Key())
		if err != nil {
			return segmentRun{}, err
		}
		p := part{first: first}
		err = readValue(segmentName(first), item.Value, func(value []byte) error {
			p.size = len(value)
			for _, err := range segment(value).records() {
				if err != nil {
					return damage(segmentName(first), "%v", err)
				}
				p.n++
			}
			return nil
		})
		if err != nil {
			return segmentRun{}, err
		}
		if bytes += p.size; p.size >= smallSegment || p.first+int64(p.n) != next || size-first > maxSegmentEntries || bytes > maxSegmentBytes {
			break
		}
		parts = append(parts, p)
		next = first
	}
	var run segmentRun
	for i := len(parts) - 1; i >= 0; i-- {
		run.add(parts[i].first, parts[i].n, parts[i].size)
	}
	return run, nil
}
