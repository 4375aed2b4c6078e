package ledger

import (
	"context"
	"iter"

	"golang.org/x/mod/sumdb/note"
)

// Progress says how far Fsck has come.
type Progress struct {
	Done, Total int64 // entries
}

// Finding is one fault.
type Finding struct {
	Where, Problem string
}

func Fsck(ctx context.Context, dir string, key note.Verifier, report func(Progress)) iter.Seq2[Finding, error] {
	return func(func(Finding, error) bool) {}
}
