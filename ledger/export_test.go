package ledger

import (
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/mod/sumdb/note"

	"github.com/retrace-ledger/retrace/ledger/engine"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// WithStep returns options that call step between the steps of each commit.
func WithStep(step func(string) error) *Options { return &Options{step: step} }

// WithFree returns options that ask free how much room the disk has.
func WithFree(free func(dir string) (uint64, error)) *Options { return &Options{free: free} }

// WithFaults returns the options of WithStep and WithFree.
func WithFaults(step func(string) error, free func(dir string) (uint64, error)) *Options {
	return &Options{step: step, free: free}
}

// Steps are the steps of a commit that adds entries, in order, as a step
// function is told them: at the first three nothing or something was written,
// and nobody was answered at any of them.
var Steps = []string{StepAdmitted, StepCommit, StepCommitted, StepSigned}

// The steps of a commit.
const (
	StepAdmitted  = "admitted"  // nothing is written
	StepCommit    = "commit"    // the transaction comes next
	StepCommitted = "committed" // the checkpoint file comes next
	StepSigned    = "signed"    // everything is durable; the answers come next
)

// ParseSlot, FormatSlot, Records, Seal and Unseal are parsers to fuzz.
var (
	ParseSlot  = parseSlot
	FormatSlot = formatSlot
	Seal       = seal
	Unseal     = unseal
	ParseState = parseState
)

// SlotSize is the size of one slot of the checkpoint file.
const SlotSize = slotSize

// Records splits a segment into the bodies of its records.
func Records(seg []byte) (commitments [][32]byte, bodies [][]byte, err error) {
	for r, err := range segment(seg).records() {
		if err != nil {
			return nil, nil, err
		}
		commitments, bodies = append(commitments, r.commitment), append(bodies, r.body)
	}
	return commitments, bodies, nil
}

// AddRecord appends a record to a segment.
func AddRecord(seg, salt, header, envelope []byte) []byte {
	s, _ := segment(seg).add(salt, header, envelope)
	return s
}

// Receive makes a ledger in dir of bodies as they are, under a checkpoint that
// key signs, as a mirror keeps it.
func Receive(ctx context.Context, dir string, key note.Signer, v note.Verifier, bodies [][]byte) error {
	if err := os.Mkdir(storePath(dir), 0o700); err != nil {
		return err
	}
	e, err := engine.OpenBadger(storePath(dir))
	if err != nil {
		return err
	}
	r := newReceiver(ctx, dir, e, v)
	for _, body := range bodies {
		rec := record{commitment: schema.Commitment(body), body: body}
		if err := r.add(rec); err != nil {
			return errors.Join(err, e.Close())
		}
	}
	root, err := r.tree.root()
	if err != nil {
		return errors.Join(err, e.Close())
	}
	cp := verify.Checkpoint{Origin: v.Name(), Size: r.tree.size(), Root: root}
	cp.Note, err = note.Sign(&note.Note{Text: verify.FormatCheckpoint(cp.Origin, cp.Size, cp.Root)}, key)
	if err == nil {
		r.put([]byte(targetKey), formatState(state{recordedAt: r.last, note: cp.Note}))
		err = r.publish(cp)
	}
	if err := errors.Join(err, e.Close()); err != nil {
		return err
	}
	return finish(dir, cp)
}

// ReadBackup reads a backup to its end, as Import does, and keeps nothing.
func ReadBackup(r io.Reader, key note.Verifier) (entries int64, err error) {
	b, err := openBackup(r, key)
	if err != nil {
		return 0, err
	}
	for {
		name, data, err := b.next()
		if err != nil {
			return b.size, err
		}
		switch stage, _ := stageOf(name); stages[stage] {
		case endMember:
			return b.size, nil
		case cursorMember:
			if _, _, err := parseCursor(data); err != nil {
				return b.size, err
			}
		}
	}
}

// SeenEnough is after how many appends a small ledger reads its index of
// duplicates.
const SeenEnough = seenEnough

// FillSeen makes l know every identity that it holds, as many appends do.
func FillSeen(l *Ledger) (whole bool) {
	l.fillSeen(context.Background())
	return l.committer.seen.whole.Load()
}

// DoubtSeen makes l take every identity for one that it may hold.
func DoubtSeen(l *Ledger) {
	all := newLayer(0)
	for i := range all.blocks[0] {
		all.blocks[0][i].Store(^uint64(0))
	}
	l.committer.seen.complete(all)
}

// WrapEngine puts wrap around the engine of a ledger that nobody uses yet.
func WrapEngine(l *Ledger, wrap func(engine.Engine) engine.Engine) { l.engine = wrap(l.engine) }

// BreakCheckpointFile lets every write of the checkpoint file of a ledger that
// nobody uses fail from now on, before it writes or after.
func BreakCheckpointFile(l *Ledger, err error, persist bool) {
	l.committer.file = brokenFile{l.committer.file, err, persist}
}

type brokenFile struct {
	checkpointWriter
	err     error
	persist bool
}

func (b brokenFile) write(signed []byte) error {
	if b.persist {
		if err := b.checkpointWriter.write(signed); err != nil {
			return err
		}
	}
	return b.err
}
