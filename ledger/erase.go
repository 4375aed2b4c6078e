package ledger

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/retrace-ledger/retrace/ledger/engine"
	"github.com/retrace-ledger/retrace/schema"
)

// ErasedError says that an entry cannot be erased, since it was.
type ErasedError struct {
	Index int64
	By    int64 // the entry that erased it
}

func (e *ErasedError) Error() string {
	return fmt.Sprintf("entry %d was erased already, by entry %d", e.Index, e.By)
}

// Conflict says that somebody else erased it meanwhile.
func (e *ErasedError) Conflict() bool { return true }

// KeepError says that an entry must not be erased, and why.
type KeepError struct {
	Index  int64
	Reason string
}

func (e *KeepError) Error() string {
	return fmt.Sprintf("entry %d cannot be erased: %s", e.Index, e.Reason)
}

// Erase removes the body of the entry at index, its salt with it, and records
// env, which says so, in one commit: after a crash both have happened or
// neither has. env is a schema.ErasureV1 statement about the entry, signed by
// the observer. The entry's place, its commitment and with them the tree, every
// proof and every checkpoint stay.
//
// Entry 0, and what the observer signed to decide how others are graded or to
// say why a body is missing, are refused with a *KeepError; an entry that was
// erased before with an *ErasedError; one that does not exist with ErrNotFound.
//
// The key under which a duplicate of the removed envelope is recognized stays:
// without the ledger's secret it says nothing, and the fact does not come back
// the next time that its source is read.
//
// What the engine wrote before stays on the disk until Purge.
func (l *Ledger) Erase(ctx context.Context, index int64, env schema.Envelope) (schema.Receipt, error) {
	if l.committer == nil {
		return schema.Receipt{}, fmt.Errorf("erasing in %s: %w", l.dir, ErrReadOnly)
	}
	p, err := l.checkErasure(ctx, index, env)
	if err != nil {
		return schema.Receipt{}, fmt.Errorf("erasing in %s: %w", l.dir, err)
	}
	return l.submit(ctx, p)
}

// checkErasure does in the caller's goroutine all that can be done there.
func (l *Ledger) checkErasure(ctx context.Context, index int64, env schema.Envelope) (*pending, error) {
	if index <= 0 {
		return nil, &KeepError{index, "it is the genesis, which says whose ledger this is"}
	}
	target, err := l.Entry(ctx, index)
	if err != nil {
		return nil, err
	}
	if err := l.genesis.checkErasure(env, target); err != nil {
		return nil, err
	}
	if target.State == schema.Present {
		if err := l.genesis.erasable(target); err != nil {
			return nil, err
		}
	}
	namespace := target.Header.Namespace // whoever may read it may read why it is gone
	r, err := newRequest(schema.Batch{Namespace: namespace, Source: "erase", Submitter: l.genesis.observerID, Envelopes: []schema.Envelope{env}})
	if err != nil {
		return nil, err
	}
	r.erases = index
	r.bytes += maxSegmentBytes // of the segment that is written again
	l.identify(r)
	p := newPending(r)
	return p, l.lookUp(ctx, p)
}

// checkErasure refuses an envelope that is not the observer's word that target
// is erased.
func (g genesis) checkErasure(env schema.Envelope, target schema.Entry) error {
	if err := g.checkEnvelope(env); err != nil {
		return err
	}
	p, ours, err := g.erasure(env)
	switch {
	case err != nil:
		return err
	case !ours:
		return &schema.FieldError{Reason: "the envelope is not an erasure signed by the observer key " + g.observerID}
	case p.Index != target.Index:
		return &schema.FieldError{Field: "predicate.index", Reason: fmt.Sprintf("is %d, and the entry to erase is %d", p.Index, target.Index)}
	}
	return checkErased(env, target.Commitment)
}

// checkErased checks that an erasure is about the entry with this commitment.
func checkErased(env schema.Envelope, c commitment) error {
	s, err := env.Statement()
	if err != nil {
		return err
	}
	want := hex.EncodeToString(c[:])
	if len(s.Subject) != 1 || len(s.Subject[0].Digest) != 1 || s.Subject[0].Digest[schema.SHA256] != want {
		return &schema.FieldError{Field: "subject", Reason: "is not the leaf commitment of the entry, sha256:" + want}
	}
	return nil
}

// erasure is what env erases, if it is an erasure that the observer signed.
func (g genesis) erasure(env schema.Envelope) (p schema.Erasure, ours bool, err error) {
	s, err := env.Statement()
	if err != nil || s.PredicateType != schema.ErasureV1 {
		return p, false, nil // an envelope that states nothing erases nothing
	}
	if ours, err = g.checkOwn(env); err != nil || !ours {
		return p, false, err
	}
	err = schema.DecodePredicate(s, true, &p)
	return p, err == nil, err
}

// refuseErasure keeps out of a batch what only Erase may record: the word that
// a body is gone, while it is not.
func (g genesis) refuseErasure(env schema.Envelope) error {
	_, ours, err := g.erasure(env)
	if err != nil {
		return err
	}
	if ours {
		return &schema.FieldError{Field: "predicateType", Reason: "an erasure that the observer signed is recorded by `retrace erase` alone, together with what it erases"}
	}
	return nil
}

// erasable refuses entries that others rest on.
func (g genesis) erasable(e schema.Entry) error {
	if slices.Contains(rotationsOf(g.chain), e.Index) {
		return &KeepError{e.Index, "it rotates a key of the ledger, and without it nothing after it could be checked"}
	}
	s, err := e.Envelope.Statement()
	if err != nil {
		return nil // what states nothing decides nothing
	}
	if ours, err := g.at(e.Index).checkOwn(e.Envelope); err != nil || !ours {
		return nil // anybody's wish: nothing heeds it
	}
	switch s.PredicateType {
	case schema.TrustV1:
		return &KeepError{e.Index, "it decides whose signatures count, and every grade after it would change"}
	case schema.ErasureV1:
		return &KeepError{e.Index, "it says why another entry has no body"}
	}
	return nil
}

// erasedBy is the entry that erased the one at index. Without one, a missing
// body is damage.
func erasedBy(s engine.Snapshot, index int64) (int64, error) {
	var by int64
	err := s.Get(erasedKey(index), func(value []byte) (err error) {
		by, err = parseErased(index, value)
		return err
	})
	if errors.Is(err, engine.ErrNotFound) {
		return 0, damage(entryName(index), "its body is missing, and no entry says that it was erased")
	}
	if err != nil {
		return 0, &DamageError{Where: entryName(index), Problem: "its body is missing, and what erased it cannot be read", Err: err}
	}
	return by, nil
}

func erasedKey(index int64) []byte {
	return binary.BigEndian.AppendUint64([]byte(erasedPrefix), uint64(index))
}

func parseErased(index int64, value []byte) (int64, error) {
	if len(value) != 8 {
		return 0, fmt.Errorf("%d bytes are no index", len(value))
	}
	by := int64(binary.BigEndian.Uint64(value))
	if by <= index {
		return 0, fmt.Errorf("entry %d cannot have erased it", by)
	}
	return by, nil
}

// erase takes the body at index out of its segment, in favour of the entry
// that says so.
func (c *commit) erase(s engine.Snapshot, index int64, by schema.Recorded) error {
	if other, ok := c.erasing[index]; ok {
		return &ErasedError{index, other}
	}
	first, seg, err := c.segmentOf(s, index)
	if err != nil {
		return err
	}
	holed, was, err := seg.without(int(index - first))
	if err != nil {
		return damage(segmentName(first), "%v", err)
	}
	if len(was.body) == 0 {
		other, err := erasedBy(s, index)
		if err != nil {
			return err
		}
		return &ErasedError{index, other}
	}
	if by.Duplicate {
		return damage(entryName(by.Index), "it says that entry %d is erased, and the body of that is there", index)
	}
	c.erasing[index], c.holed[first] = by.Index, holed
	return nil
}

// segmentOf is a copy of the segment that holds the entry at index, as this
// commit has it so far.
func (c *commit) segmentOf(s engine.Snapshot, index int64) (first int64, seg segment, err error) {
	if index >= c.base {
		return 0, nil, fmt.Errorf("entry %d of a ledger of %d: %w", index, c.base, ErrNotFound)
	}
	err = findSegment(s, index, func(at int64, stored segment) error {
		first = at
		if seg = c.holed[at]; seg == nil {
			seg = append(seg, stored...)
		}
		return nil
	})
	return first, seg, err
}

// putErasures writes the segments that lost bodies, and which entry says so.
func (c *commit) putErasures() {
	for first, seg := range c.holed {
		c.puts = append(c.puts, engine.Put{Key: segmentKey(first), Value: seg})
	}
	for index, by := range c.erasing {
		c.puts = append(c.puts, engine.Put{Key: erasedKey(index), Value: binary.BigEndian.AppendUint64(nil, uint64(by))})
	}
}

// without returns s with the body of its nth record removed, and the record as
// it was.
func (s segment) without(n int) (holed segment, was record, err error) {
	at, i := 0, 0
	for r, err := range s.records() {
		if err != nil {
			return nil, was, err
		}
		end := at + recordOverhead + len(r.body)
		if i == n {
			holed = append(holed, s[:at]...)
			holed = append(holed, r.commitment[:]...)
			holed = binary.BigEndian.AppendUint32(holed, 0)
			return append(holed, s[end:]...), r, nil
		}
		at, i = end, i+1
	}
	return nil, was, fmt.Errorf("it ends before entry %d of it", n)
}
