package ledger

import (
	"errors"
	"fmt"
)

// Errors that callers branch on. All are wrapped with what was being done to
// which ledger.
var (
	// ErrNotFound: there is no such entry below the signed size.
	ErrNotFound = errors.New("no such entry")
	// ErrNoLedger: the directory holds no ledger.
	ErrNoLedger = errors.New("no ledger here")
	// ErrExists: Create found a ledger, or a part of one, in the directory.
	ErrExists = errors.New("there is a ledger here already")
	// ErrUnfinished: an import, or the first pass of a mirror, was interrupted
	// here. Nothing was published; begun again, it starts over or goes on.
	ErrUnfinished = errors.New("an import or a mirror was begun here and has not come to its end; run it again")
	// ErrLocked: another process has the ledger open.
	ErrLocked = errors.New("the ledger is in use")
	// ErrShort: the store holds less than the checkpoint file signed. What is
	// missing was acknowledged; it has to come from a backup.
	ErrShort = errors.New("the store holds less than was signed")
	// ErrReadOnly: the ledger was opened without its private key.
	ErrReadOnly = errors.New("the ledger is open read-only")
	// ErrClosed: Close was called.
	ErrClosed = errors.New("the ledger is closed")
	// ErrStopped: nothing more is written until the ledger is opened again. A
	// commit failed, so that it is not known what of it is durable and nothing
	// of it was acknowledged, or Confront found that the ledger contradicts
	// what it signed; the cause beside it says which.
	ErrStopped = errors.New("the ledger stopped writing; nothing more is written until it is opened again")
	// ErrDiskFull: the disk has too little room left for the commit. Nothing
	// was written, and later appends succeed once there is room.
	ErrDiskFull = errors.New("too little room on the disk")
)

// ForkError says that two checkpoints of one log contradict each other: both
// carry the log key's signature and neither tree extends the other. Both notes
// are here, so that anyone with the public key can check it.
type ForkError struct {
	Old, New []byte // signed notes
}

func (e *ForkError) Error() string {
	return fmt.Sprintf("the log forked: two signed checkpoints contradict each other; keep both:\n%s\n%s", e.Old, e.New)
}

// DamageError says that what the ledger must hold is not there, or is not what
// was signed. It is never an answer of "not found".
type DamageError struct {
	Where   string // such as "entry 7" or "tile level 0, index 3"
	Problem string
	Err     error // the cause, if there is one beneath
	Key     bool  // a key file is gone, and what the store holds is not touched by it
}

func (e *DamageError) Error() string {
	s := "damaged: " + e.Where + ": " + e.Problem
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause, if there is one.
func (e *DamageError) Unwrap() error { return e.Err }

func damage(where, format string, args ...any) error {
	return &DamageError{Where: where, Problem: fmt.Sprintf(format, args...)}
}

// CursorError says that a batch was refused because a source was not where the
// batch says it read from. Nothing of the batch was recorded.
type CursorError struct {
	Source string
	Have   string // the stored cursor
	From   string // what the batch expected
}

func (e *CursorError) Error() string {
	return fmt.Sprintf("the cursor of source %q is %q, not %q as the batch expects: somebody else moved it", e.Source, clip(e.Have), clip(e.From))
}

// Conflict says that somebody else read the source meanwhile.
func (e *CursorError) Conflict() bool { return true }

// LimitError says which limit a batch exceeds. Nothing of it was recorded.
type LimitError struct {
	What  string // what is limited, such as "envelopes in a batch"
	Have  int
	Limit int
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("%d %s; the limit is %d", e.Have, e.What, e.Limit)
}

// clip shortens a string from outside for a message.
func clip(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}
