package ingest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/retrace-ledger/retrace/schema"
)

// coverageRoom is how much of a batch is left free for coverage statements.
const coverageRoom = 16 << 10 // bytes

// batcher cuts one read into batches that end at cursors.
type batcher struct {
	r       *Runner
	started time.Time

	// What is safe in the log.
	from        string // cursor of the source
	coveredFrom string // cursor of its coverage, as stored
	covered     covered
	progress    Progress

	// What goes into the next append: whole groups, up to the cursor to.
	envelopes []schema.Envelope
	bytes     int
	to        string
	read      int // facts and skipped objects among them
	refused   []schema.Refusal

	// What came after to, and cannot be resumed from yet.
	group        []schema.Envelope
	groupBytes   int
	groupFacts   int
	groupRefused []schema.Refusal

	total   int
	listing *Listing
}

// add takes one event, and appends when a batch is full.
func (b *batcher) add(ctx context.Context, e Event) error {
	if err := b.take(e); err != nil {
		return err
	}
	b.total = max(b.total, e.Total)
	if e.Listing != nil {
		b.listing = e.Listing
	}
	if len(b.group) > MaxGroup {
		return fmt.Errorf("reading %s: more than %d facts without a cursor between them", b.r.name, MaxGroup)
	}
	if e.Cursor == "" {
		return nil
	}
	return b.close(ctx, e.Cursor)
}

// take puts the event's envelope into the group, or counts what was skipped.
func (b *batcher) take(e Event) error {
	if e.Skipped != nil {
		// Sources that are listed anew each time have it in every listing.
		if e.Cursor != "" && e.Cursor != b.to || !b.knows(e.Skipped.refusal()) {
			b.skip(*e.Skipped)
		}
		return nil
	}
	if !e.Fact() {
		return nil
	}
	envelope, err := b.r.envelope(e)
	if fe := (*schema.FieldError)(nil); errors.As(err, &fe) {
		b.skip(Skip{Object: describe(e), Reason: err, Digest: digestOf(e)})
		return nil
	}
	if err != nil {
		return fmt.Errorf("signing what was read from %s: %w", b.r.name, err)
	}
	b.group = append(b.group, envelope)
	b.groupBytes += len(envelope.Raw)
	b.groupFacts++
	return nil
}

// knows says whether a refusal is recorded, or about to be.
func (b *batcher) knows(r schema.Refusal) bool {
	return b.r.refused[r] || slices.Contains(b.refused, r) || slices.Contains(b.groupRefused, r)
}

// skip notes an object that is left out.
func (b *batcher) skip(s Skip) {
	b.groupRefused = append(b.groupRefused, s.refusal())
	if b.r.opts.Skipped != nil {
		b.r.opts.Skipped(s)
	}
}

// envelope is what is recorded of a fact.
func (r *Runner) envelope(e Event) (schema.Envelope, error) {
	if e.Envelope == nil {
		return r.signer.SignStatement(e.Statement)
	}
	if len(e.Envelope.Raw) > schema.MaxEnvelope {
		return schema.Envelope{}, &schema.FieldError{Reason: fmt.Sprintf("envelope is %d bytes; the limit is %d", len(e.Envelope.Raw), schema.MaxEnvelope)}
	}
	return *e.Envelope, nil
}

// describe names the fact in a report.
func describe(e Event) string {
	if e.Envelope != nil {
		return "envelope " + schema.BytesKey(e.Envelope.Raw).Short()
	}
	if len(e.Statement.Subject) > 0 {
		return e.Statement.Subject[0].Name + " " + string(e.Statement.Subject[0].Key())
	}
	return "statement without a subject"
}

// digestOf is the digest of the bytes of the fact.
func digestOf(e Event) schema.Key {
	if e.Envelope != nil {
		return schema.BytesKey(e.Envelope.Raw)
	}
	raw, err := e.Statement.Encode()
	if err != nil {
		return ""
	}
	return schema.BytesKey(raw)
}

// close ends the group at cursor and makes it a part of the batch.
func (b *batcher) close(ctx context.Context, cursor string) error {
	if b.groupBytes > schema.MaxBatchBytes-coverageRoom {
		return fmt.Errorf("reading %s: %d bytes of envelopes without a cursor between them; a batch holds %d", b.r.name, b.groupBytes, schema.MaxBatchBytes)
	}
	if b.bytes+b.groupBytes > schema.MaxBatchBytes-coverageRoom || len(b.envelopes)+len(b.group) > schema.MaxBatchEnvelopes-2 {
		if err := b.flush(ctx); err != nil {
			return err
		}
	}
	b.envelopes = append(b.envelopes, b.group...)
	b.bytes += b.groupBytes
	b.read += b.groupFacts + len(b.groupRefused)
	b.refused = append(b.refused, b.groupRefused...)
	b.to = cursor
	b.group, b.groupBytes, b.groupFacts, b.groupRefused = b.group[:0], 0, 0, nil
	if len(b.envelopes) >= b.r.opts.BatchSize {
		return b.flush(ctx)
	}
	return nil
}

// flush appends what is complete, if that is anything, and moves the cursors
// with it.
func (b *batcher) flush(ctx context.Context) error {
	if len(b.envelopes) == 0 {
		return nil
	}
	if err := b.append(ctx, b.covered.with(len(b.envelopes), b.refused), 0); err != nil {
		return err
	}
	b.report()
	return nil
}

// finish appends the rest and what the read covered. A group that no cursor
// ended means a kind that broke its promise: it is not recorded by half.
func (b *batcher) finish(ctx context.Context) error {
	if b.groupFacts > 0 {
		return fmt.Errorf("reading %s: %d facts at the end have no cursor after them; none of them was recorded", b.r.name, b.groupFacts)
	}
	if len(b.groupRefused) > 0 { // no place to resume from, and none needed
		if err := b.close(ctx, b.to); err != nil {
			return err
		}
	}
	statements, next, err := b.coverage(b.covered.with(len(b.envelopes), b.refused))
	if err != nil {
		return err
	}
	for _, s := range statements {
		envelope, err := b.r.signer.SignStatement(s)
		if err != nil {
			return fmt.Errorf("signing the coverage of %s: %w", b.r.name, err)
		}
		b.envelopes = append(b.envelopes, envelope)
	}
	if len(b.envelopes) > 0 {
		if err := b.append(ctx, next, len(statements)); err != nil {
			return err
		}
	}
	b.report()
	return nil
}

// append appends the batch, whose last own envelopes are the runner's and not
// the source's.
func (b *batcher) append(ctx context.Context, next covered, own int) error {
	coveredTo, err := next.encode()
	if err != nil {
		return err
	}
	batch := schema.Batch{
		Namespace: b.r.opts.Namespace,
		Source:    b.r.name,
		Submitter: b.r.opts.Submitter,
		Envelopes: b.envelopes,
		Cursors:   []schema.Cursor{{Source: coverageSource(b.r.name), From: b.coveredFrom, To: coveredTo}},
	}
	if b.to != b.from {
		batch.Cursors = append(batch.Cursors, schema.Cursor{Source: b.r.name, From: b.from, To: b.to})
	}
	receipt, err := b.r.log.Append(ctx, batch)
	if err != nil {
		if err := b.r.rejected(ctx, batch, err); err != nil {
			return err
		}
	}
	facts := len(b.envelopes) - own
	p := Progress{Done: b.read, Recorded: facts, Skipped: len(b.refused)}
	for i, entry := range receipt.Entries {
		if i < facts && entry.Duplicate {
			p.Recorded--
			p.Duplicates++
		}
	}
	b.progress.add(p)
	b.r.note(func(s *Status) { s.add(p) })
	b.from, b.coveredFrom, b.covered = b.to, coveredTo, next
	b.r.remember(b.refused)
	b.envelopes, b.bytes, b.read, b.refused = nil, 0, 0, nil
	return nil
}

// maxRemembered is how many refusals a runner remembers to have recorded.
const maxRemembered = 4096

func (r *Runner) remember(refused []schema.Refusal) {
	if r.refused == nil || len(r.refused) > maxRemembered {
		r.refused = map[schema.Refusal]bool{}
	}
	for _, x := range refused {
		r.refused[x] = true
	}
}

// rejected says why a batch was: a conflict if a cursor is not where the batch
// read from. It returns nil when the cursors are where the batch moves them to:
// then what is in the batch is in the log, and only the answer was lost. (Or
// another reader appended the very same facts first, which is as good.)
func (r *Runner) rejected(ctx context.Context, batch schema.Batch, cause error) error {
	var says interface{ Conflict() bool }
	moved := errors.As(cause, &says) && says.Conflict()
	conflict := &ConflictError{Source: r.name, Err: cause}
	taken := 0
	for _, c := range batch.Cursors {
		have, err := r.log.Cursor(ctx, r.opts.Namespace, c.Source)
		if err != nil {
			continue
		}
		if have == c.To {
			taken++
		} else if have != c.From {
			moved = true
		}
		if c.Source == r.name {
			conflict.Want, conflict.Have = c.From, have
		}
	}
	switch {
	case taken == len(batch.Cursors):
		return nil
	case moved:
		return conflict
	}
	return fmt.Errorf("recording what was read from %s: %w", r.name, cause)
}

func (p *Progress) add(more Progress) {
	p.Done += more.Done
	p.Recorded += more.Recorded
	p.Duplicates += more.Duplicates
	p.Skipped += more.Skipped
}

func (b *batcher) report() {
	if b.total > 0 {
		b.progress.Total = max(b.total, b.progress.Done)
	}
	if b.r.opts.Progress != nil {
		b.r.opts.Progress(b.progress)
	}
}
