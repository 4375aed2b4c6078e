package bench

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/schema"
)

// Contest is a ledger and a bare store that take turns, with whatever else
// appends the same envelopes in between. It is for measuring others beside
// them.
type Contest struct {
	ledger *ledger.Ledger
	raw    *raw
}

// NewContest makes a ledger and a bare store in dir, which must be empty or
// missing.
func NewContest(dir string) (*Contest, error) {
	l, err := newLedger(filepath.Join(dir, "ledger"))
	if err != nil {
		return nil, err
	}
	r, err := newRaw(filepath.Join(dir, "raw"))
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &Contest{l, r}, nil
}

// Close closes both and removes nothing.
func (c *Contest) Close() error {
	c.raw.close()
	return c.ledger.Close()
}

// Turn is what one side needed for its turn.
type Turn struct {
	Took time.Duration
	Each []time.Duration // how long each call took; nil if there were none
}

// Ledger appends each of envs in a call of its own from so many callers at
// once, the statements checked beforehand. It returns, with the turn, how many
// envelopes each of the commits held.
func (c *Contest) Ledger(ctx context.Context, callers int, envs []schema.Envelope) (Turn, []int, error) {
	checked := make([]*ledger.Checked, len(envs))
	for i, env := range envs {
		var err error
		if checked[i], err = c.ledger.Check(batchOf(env)); err != nil {
			return Turn{}, nil, err
		}
	}
	a, err := appendAll(len(envs), callers, func(i int) (schema.Receipt, error) { return c.ledger.AppendChecked(ctx, checked[i]) })
	return Turn{a.took, a.each}, a.batches, err
}

// Raw commits keys and values of the number and lengths that a ledger would
// have for envs, in the given batches, to the bare store.
func (c *Contest) Raw(envs []schema.Envelope, batches []int) (Turn, error) {
	entries := make([]prepared, len(envs))
	for i, env := range envs {
		entries[i].Envelope = env
	}
	took, err := c.raw.run(entries, batches)
	return Turn{Took: took}, err
}

// Envelopes makes n different envelopes of about 1.7 KB, signed by a key that
// no ledger knows.
func Envelopes(n int) ([]schema.Envelope, error) { return envelopes(n) }

// Call calls do for each number below n from so many callers at once, each
// with one call at a time.
func Call(n, callers int, do func(i int) error) (Turn, error) {
	a, err := appendAll(n, callers, func(i int) (schema.Receipt, error) { return schema.Receipt{}, do(i) })
	return Turn{a.took, a.each}, err
}
