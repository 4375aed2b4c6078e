package ingesttest

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/retrace-ledger/retrace/schema"
)

// Log is an ingest.Log in memory, with the rules of the ledger: a batch is
// taken whole or not at all, a cursor moves only from where it is, and an
// envelope that is there already is a duplicate. The zero value is empty.
type Log struct {
	// Fail, if set, is called before a batch is taken. If it returns an error,
	// the batch is refused with it.
	Fail func(schema.Batch) error
	// Lose, if set, is called when a batch was taken. If it returns an error,
	// that is the answer, as when a connection breaks before the receipt.
	Lose func(schema.Batch) error

	mu        sync.Mutex
	batches   []schema.Batch
	envelopes []schema.Envelope
	index     map[string]int64
	cursors   map[string]string
}

// Append implements ingest.Log.
func (l *Log) Append(ctx context.Context, b schema.Batch) (schema.Receipt, error) {
	if err := ctx.Err(); err != nil {
		return schema.Receipt{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.Fail != nil {
		if err := l.Fail(b); err != nil {
			return schema.Receipt{}, err
		}
	}
	if err := l.check(b); err != nil {
		return schema.Receipt{}, err
	}
	if l.index == nil {
		l.index, l.cursors = map[string]int64{}, map[string]string{}
	}
	var r schema.Receipt
	for _, e := range b.Envelopes {
		id := b.Namespace + "\x00" + string(e.Raw)
		at, known := l.index[id]
		if !known {
			at = int64(len(l.envelopes))
			l.index[id] = at
			l.envelopes = append(l.envelopes, e)
		}
		r.Entries = append(r.Entries, schema.Recorded{Index: at, Duplicate: known})
	}
	for _, c := range b.Cursors {
		l.cursors[b.Namespace+"\x00"+c.Source] = c.To
	}
	l.batches = append(l.batches, b)
	r.Size = int64(len(l.envelopes))
	if l.Lose != nil {
		if err := l.Lose(b); err != nil {
			return schema.Receipt{}, err
		}
	}
	return r, nil
}

func (l *Log) check(b schema.Batch) error {
	if len(b.Envelopes) > schema.MaxBatchEnvelopes {
		return fmt.Errorf("%d envelopes in a batch; the limit is %d", len(b.Envelopes), schema.MaxBatchEnvelopes)
	}
	bytes := 0
	for _, e := range b.Envelopes {
		bytes += len(e.Raw)
	}
	if bytes > schema.MaxBatchBytes {
		return fmt.Errorf("%d bytes of envelopes in a batch; the limit is %d", bytes, schema.MaxBatchBytes)
	}
	for _, c := range b.Cursors {
		if have := l.cursors[b.Namespace+"\x00"+c.Source]; have != c.From {
			return fmt.Errorf("the cursor of %q is %q, not %q", c.Source, have, c.From)
		}
	}
	return nil
}

// Cursor implements ingest.Log.
func (l *Log) Cursor(_ context.Context, namespace, source string) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cursors[namespace+"\x00"+source], nil
}

// Batches returns what was appended, in order.
func (l *Log) Batches() []schema.Batch {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.batches)
}

// Payloads returns the payload of each entry whose statement has one of the
// given predicate types, or of all entries if none is given.
func (l *Log) Payloads(predicateTypes ...string) ([]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for i, e := range l.envelopes {
		if len(predicateTypes) > 0 {
			s, err := e.Statement()
			if err != nil {
				return nil, fmt.Errorf("entry %d: %w", i, err)
			}
			if !slices.Contains(predicateTypes, s.PredicateType) {
				continue
			}
		}
		out = append(out, string(e.Payload))
	}
	return out, nil
}
