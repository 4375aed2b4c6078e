package main

import (
	"errors"
	"syscall"

	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/lineage"
)

// Exit status (DESIGN 7.1). False and "could not tell" are never confused.
const (
	exitDone  = 0 // it is so, or done
	exitFalse = 1 // checked, and it is not so
	exitError = 2 // could not be done or checked
)

// statusError carries an exit status. Its message may be empty when what is
// to be said was printed already.
type statusError struct {
	status int
	err    error
}

func (e *statusError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *statusError) Unwrap() error { return e.err }

// isFalse says that something was checked and is not so.
func isFalse(err error) error { return &statusError{exitFalse, err} }

// cannot says that something could not be done or checked.
func cannot(err error) error { return &statusError{exitError, err} }

func exitStatus(err error) int {
	var s *statusError
	if errors.As(err, &s) {
		return s.status
	}
	return exitError
}

// errNoLedger is returned where no ledger is found.
var errNoLedger = errors.New("no ledger")

// hinted is an error of which the place where it arose knows what to do.
type hinted struct {
	error
	hint string
}

func (e *hinted) Unwrap() error { return e.error }

// hintFor is what to do about an error, where it is known.
func hintFor(err error) string {
	var h *hinted
	var ref *lineage.RefError
	switch {
	case errors.As(err, &h):
		return h.hint
	case errors.Is(err, errNoLedger):
		return "run `retrace init` to make one, or name one with --dir or RETRACE_DIR"
	case errors.Is(err, ledger.ErrLocked):
		return "wait for the other command to end, or stop the server that holds the ledger"
	case runbookPage(err) != "":
		return "docs/runbook.md#" + runbookPage(err) + " says what happened and what to do"
	case errors.Is(err, ledger.ErrReadOnly):
		return "without its private keys, or on a disk that cannot be written to, a ledger can be read and verified, not written; if a key is lost, see docs/runbook.md#key-lost"
	case errors.As(err, &ref):
		return "`retrace help refs` says how to write a REF"
	case errors.Is(err, lineage.ErrNotFound):
		return "`retrace models` and `retrace log` list what is recorded, `retrace help refs` says how to name it"
	}
	return ""
}

// runbookPage is the section of docs/runbook.md about an error that stops a
// ledger; empty if there is none.
func runbookPage(err error) string {
	var fork *ledger.ForkError
	var damage *ledger.DamageError
	var back *ledger.RollbackError
	switch {
	case errors.As(err, &back):
		return "rolled-back"
	case errors.As(err, &fork):
		return "fork"
	case errors.Is(err, ledger.ErrShort):
		return "short"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, ledger.ErrDiskFull):
		return "disk-full"
	case errors.As(err, &damage) && damage.Key:
		return "key-lost"
	case errors.As(err, &damage):
		return "damaged"
	}
	return ""
}
