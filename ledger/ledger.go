package ledger

import (
	"context"
	"errors"
	"iter"
	"net/http"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// Options changes how a ledger is opened. The zero value is right.
type Options struct {
	Now func() time.Time // the committer's clock; time.Now if nil
}

type Ledger struct{}

func Create(dir string, key note.Signer, genesis schema.Envelope) error { return errors.ErrUnsupported }
func Open(dir string, key note.Signer, opts *Options) (*Ledger, error) {
	return nil, errors.ErrUnsupported
}
func OpenReadOnly(dir string, key note.Verifier, opts *Options) (*Ledger, error) {
	return nil, errors.ErrUnsupported
}
func (l *Ledger) Append(ctx context.Context, b schema.Batch) (schema.Receipt, error) {
	return schema.Receipt{}, errors.ErrUnsupported
}
func (l *Ledger) Cursor(ctx context.Context, namespace, source string) (string, error) {
	return "", errors.ErrUnsupported
}
func (l *Ledger) Entry(ctx context.Context, index int64) (schema.Entry, error) {
	return schema.Entry{}, errors.ErrUnsupported
}
func (l *Ledger) Entries(ctx context.Context, from int64) iter.Seq2[schema.Entry, error] {
	return func(func(schema.Entry, error) bool) {}
}
func (l *Ledger) Size() int64                                { return 0 }
func (l *Ledger) Wait(ctx context.Context, size int64) error { return errors.ErrUnsupported }
func (l *Ledger) Checkpoint() []byte                         { return nil }
func (l *Ledger) ProveInclusion(ctx context.Context, index, size int64) ([]tlog.Hash, error) {
	return nil, errors.ErrUnsupported
}
func (l *Ledger) ProveConsistency(ctx context.Context, old, new int64) ([]tlog.Hash, error) {
	return nil, errors.ErrUnsupported
}
func (l *Ledger) Proof(ctx context.Context, index int64) (verify.Proof, error) {
	return verify.Proof{}, errors.ErrUnsupported
}
func (l *Ledger) Origin() string        { return "" }
func (l *Ledger) Observer() string      { return "" }
func (l *Ledger) Dir() string           { return "" }
func (l *Ledger) Handler() http.Handler { return nil }
func (l *Ledger) Close() error          { return errors.ErrUnsupported }

// Progress says how far Fsck has come.
type Progress struct{ Done, Total int64 }

// Finding is one fault.
type Finding struct{ Where, Problem string }

func Fsck(ctx context.Context, dir string, key note.Verifier, report func(Progress)) iter.Seq2[Finding, error] {
	return func(func(Finding, error) bool) {}
}
