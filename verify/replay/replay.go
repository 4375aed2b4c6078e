package replay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// Log is what is replayed. Of an entry, only Index, Commitment, State and Body
// are read: whoever parsed it before is not relied on.
type Log interface {
	// Entries yields the entries from index from on, in order.
	Entries(ctx context.Context, from int64) iter.Seq2[schema.Entry, error]
	// Entry returns an entry as it is now. It is asked for entries that were
	// replayed already and that a later one says are erased.
	Entry(ctx context.Context, index int64) (schema.Entry, error)
}

// Replay is a log read up to some size. It is not safe for concurrent use.
type Replay struct {
	key        note.Verifier
	note       []byte // the signed checkpoint that was last replayed towards; nil if none
	tree       tree
	last       time.Time // recordedAt of the newest entry with a body
	trust      trust
	succession *verify.Chain  // of the ledger's own keys; nil without a genesis
	own        []schema.Entry // genesis and the rotations, which the chain is made of

	unexplained map[int64]commitment // erased, and no erasure entry yet says why
	chains      map[chainID]link
	hidden      int64 // index of the newest entry without a body; -1 if there is none

	report Report    // of the entries so far
	final  []Finding // of the end, which later entries can change
	fresh  []Finding // to be yielded
}

// New returns a replay that begins with entry 0 of the log that key signs for.
func New(key note.Verifier) *Replay {
	r := &Replay{
		key: key, tree: newTree(), trust: newTrust(), hidden: -1,
		unexplained: map[int64]commitment{}, chains: map[chainID]link{},
	}
	r.report.Origin = key.Name()
	return r
}

// Size is how many entries were replayed.
func (r *Replay) Size() int64 { return r.tree.size() }

// Run replays the entries that follow, up to the size of checkpoint, and
// compares the tree with it. It yields findings as they come; an error ends it
// and says that the rest could not be checked. After a part of the log, the
// size of which memory decides, it calls pause, if that is not nil: then the
// state can be saved.
//
// What Run finds at the end is not part of the state: the same replay can go on
// to a newer checkpoint.
func (r *Replay) Run(ctx context.Context, log Log, checkpoint verify.Checkpoint, pause func() error) iter.Seq2[Finding, error] {
	return func(yield func(Finding, error) bool) {
		r.final = nil
		r.note = bytes.Clone(checkpoint.Note)
		deliver := func() bool {
			for _, f := range r.fresh {
				if !yield(f, nil) {
					return false
				}
			}
			r.fresh = nil
			return true
		}
		whole, err := r.read(ctx, log, checkpoint.Size, func() error {
			if !deliver() {
				return errStopped
			}
			if pause == nil {
				return nil
			}
			return pause()
		})
		if errors.Is(err, errStopped) {
			return
		}
		if err == nil && whole {
			err = r.conclude(checkpoint)
		}
		if deliver() && err != nil {
			yield(Finding{}, err)
		}
	}
}

// errStopped says that the caller of Run has heard enough.
var errStopped = errors.New("stopped")

// read replays entries up to size and reports whether the log gave them all.
func (r *Replay) read(ctx context.Context, log Log, size int64, pause func() error) (whole bool, err error) {
	if r.tree.size() < size {
		for c := range ahead(ctx, log, r.tree.size(), size) {
			n := r.inOrder(c.entries)
			if n > 0 {
				err = r.apply(ctx, log, c.entries[:n])
				if err == nil {
					err = pause()
				}
			}
			if c.err != nil {
				err = errors.Join(err, fmt.Errorf("replaying entry %d: %w", r.tree.size(), c.err))
			}
			if err != nil {
				return false, err
			}
			if n < len(c.entries) {
				r.end(Finding{r.tree.size(), KindOrder, fmt.Sprintf("the log gives entry %d where entry %d belongs", c.entries[n].Index, r.tree.size())})
				return false, nil
			}
		}
	}
	if err := ctx.Err(); err != nil && r.tree.size() < size {
		return false, err
	}
	if r.tree.size() < size {
		r.end(Finding{r.tree.size(), KindShort, fmt.Sprintf("missing: the log ends there, and its checkpoint covers %d", size)})
		return false, nil
	}
	return true, nil
}

// inOrder is how many of entries stand where they belong.
func (r *Replay) inOrder(entries []schema.Entry) int {
	for i, e := range entries {
		if e.Index != r.tree.size()+int64(i) {
			return i
		}
	}
	return len(entries)
}

// conclude compares what was replayed with the checkpoint.
func (r *Replay) conclude(c verify.Checkpoint) error {
	if r.tree.size() > c.Size {
		return fmt.Errorf("%d entries were replayed, and the checkpoint covers %d: give a newer one, or begin anew", r.tree.size(), c.Size)
	}
	root, err := r.tree.root()
	if err != nil {
		return err
	}
	if root != c.Root {
		r.end(Finding{-1, KindRoot, fmt.Sprintf("the entries give the root %s, and the checkpoint of size %d signs %s", root, c.Size, c.Root)})
	}
	if r.succession != nil && (r.succession.Log().Name() != r.key.Name() || r.succession.Log().KeyHash() != r.key.KeyHash()) {
		r.end(Finding{0, KindGenesis, fmt.Sprintf("it and the rotations since lead to the log key %s, and the checkpoint is checked with %s", keyName(r.succession.Log()), keyName(r.key))})
	}
	for _, index := range r.Unexplained() {
		r.end(Finding{index, KindErasure, "its body is erased, and no erasure entry of the observer's says so"})
	}
	return nil
}

// Unexplained lists entries that are erased without an erasure entry so far.
// One that was erased while the log was read is accounted for beyond the
// checkpoint.
func (r *Replay) Unexplained() []int64 { return sortedKeys(r.unexplained) }

// Add takes a finding about something beside the entries, such as an index
// made of them, into the report.
func (r *Replay) Add(f Finding) { r.final = append(r.final, f) }

// end notes a finding that a later run may not have any more.
func (r *Replay) end(f Finding) {
	r.final = append(r.final, f)
	r.fresh = append(r.fresh, f)
}

// find notes a finding about an entry.
func (r *Replay) find(index int64, kind Kind, format string, args ...any) {
	f := Finding{index, kind, fmt.Sprintf(format, args...)}
	r.report.Faults++
	if len(r.report.Findings) < MaxListed {
		r.report.Findings = append(r.report.Findings, f)
	}
	r.fresh = append(r.fresh, f)
}

// ForkError says that what was replayed earlier is not what the log holds now.
type ForkError struct {
	Size     int64  // that was replayed
	Old, New []byte // the signed checkpoints of then and of now
	Err      error  // how they contradict each other
}

func (e *ForkError) Error() string {
	return fmt.Sprintf("the log is not the one that was replayed up to %d: %v; keep both checkpoints:\n%s\n%s", e.Size, e.Err, e.Old, e.New)
}

// Unwrap returns how the checkpoints contradict each other.
func (e *ForkError) Unwrap() error { return e.Err }

// openOlder opens the checkpoint that was replayed towards, which an older key
// of the log may have signed.
func (r *Replay) openOlder() (verify.Checkpoint, error) {
	if r.succession == nil {
		return verify.OpenCheckpoint(r.note, r.key)
	}
	return r.succession.GivenTo(r.key).Open(r.note)
}

// Confirm checks that the tree of checkpoint begins with what was replayed, and
// with the checkpoint that was replayed towards. prove gives consistency proofs
// of the log. A *ForkError says that it does not: the log was rewritten or put
// back.
func (r *Replay) Confirm(checkpoint verify.Checkpoint, prove func(older, newer int64) ([]tlog.Hash, error)) error {
	root, err := r.tree.root()
	if err != nil {
		return err
	}
	before := []verify.Checkpoint{{Origin: r.report.Origin, Size: r.tree.size(), Root: root}}
	if r.note != nil {
		c, err := r.openOlder()
		if err != nil {
			return err
		}
		before = append(before, c)
	}
	for _, older := range before {
		var proof []tlog.Hash
		if older.Size > 0 && older.Size < checkpoint.Size {
			if proof, err = prove(older.Size, checkpoint.Size); err != nil {
				return fmt.Errorf("proving that size %d of the log extends size %d: %w", checkpoint.Size, older.Size, err)
			}
		}
		if err := verify.VerifyConsistency(older, checkpoint, proof); err != nil {
			return &ForkError{Size: r.tree.size(), Old: r.note, New: checkpoint.Note, Err: err}
		}
	}
	return nil
}
