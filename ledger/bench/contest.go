package bench

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/retrace-ledger/retrace/keys"
	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/schema"
)

// Contest is a ledger and a bare store that take turns, with whatever else
// appends the same envelopes in between. It is for measuring others beside
// them.
type Contest struct {
	Log      *ledger.Ledger
	Verifier note.Verifier // of its checkpoints
	raw      *raw
}

// NewContest makes a ledger, whose keys are key, and a bare store in dir, which
// must be empty or missing.
func NewContest(dir string, key *keys.Private) (*Contest, error) {
	at := filepath.Join(dir, "ledger")
	signer, verifier, err := create(at, key)
	if err != nil {
		return nil, err
	}
	l, err := ledger.Open(at, signer, nil)
	if err != nil {
		return nil, err
	}
	r, err := newRaw(filepath.Join(dir, "raw"))
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &Contest{l, verifier, r}, nil
}

// Close closes both and removes nothing.
func (c *Contest) Close() error {
	c.raw.close()
	return c.Log.Close()
}

// Turn is what one side needed for its turn.
type Turn struct {
	Took time.Duration
	Each []time.Duration // how long each call took; nil if there were none
}

// Append appends to the ledger, one of batches a call, from so many callers at
// once, the statements checked beforehand. It returns, with the turn, how many
// envelopes each of the commits held.
func (c *Contest) Append(ctx context.Context, callers int, batches [][]schema.Envelope) (Turn, []int, error) {
	checked := make([]*ledger.Checked, len(batches))
	for i, envs := range batches {
		var err error
		if checked[i], err = c.Log.Check(schema.Batch{Source: "bench", Envelopes: envs}); err != nil {
			return Turn{}, nil, err
		}
	}
	from := c.Log.Size()
	sizes := make([]int64, len(batches))
	a, err := appendAll(len(batches), callers, func(i int) (schema.Receipt, error) {
		r, err := c.Log.AppendChecked(ctx, checked[i])
		sizes[i] = r.Size
		return r, err
	})
	return Turn{a.took, a.each}, commitsBetween(from, sizes), err
}

// AppendWhole is Append with the checks inside each call.
func (c *Contest) AppendWhole(ctx context.Context, callers int, batches [][]schema.Envelope) (Turn, error) {
	a, err := appendAll(len(batches), callers, func(i int) (schema.Receipt, error) {
		return c.Log.Append(ctx, schema.Batch{Source: "bench", Envelopes: batches[i]})
	})
	return Turn{a.took, a.each}, err
}

// commitsBetween is how many entries each commit added to a ledger that had
// from of them, given the sizes that its callers were told.
func commitsBetween(from int64, sizes []int64) []int {
	var commits []int
	for _, size := range slices.Sorted(slices.Values(sizes)) {
		if size > from {
			commits = append(commits, int(size-from))
			from = size
		}
	}
	return commits
}

// Raw commits keys and values of the number and lengths that a ledger would
// have for envs, in the given commits, to the bare store.
func (c *Contest) Raw(envs []schema.Envelope, commits []int) (Turn, error) {
	entries := make([]prepared, len(envs))
	for i, env := range envs {
		entries[i].Envelope = env
	}
	took, err := c.raw.run(entries, commits)
	return Turn{Took: took}, err
}

// Envelopes makes n different envelopes of about 1.7 KB, signed by a key that
// no ledger knows.
func Envelopes(n int) ([]schema.Envelope, error) {
	producer, err := keys.Generate()
	if err != nil {
		return nil, err
	}
	return envelopes(producer, n)
}
