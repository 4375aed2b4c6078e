package ingesttest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/keys"
	"github.com/retrace-ledger/retrace/schema"
)

// World is a source with the thing that it watches. A new world holds
// something to observe: the more facts, the more places to stop at.
type World struct {
	// Open returns the source, anew each time, as after a restart.
	Open func(t *testing.T) ingest.Source
	// Change alters what is watched, so that there is at least one new fact.
	Change func(t *testing.T)
	// Break makes what is watched unreadable for good: the folder is gone, the
	// server answers 500. It may be called while it is read.
	Break func(t *testing.T)
	// Fetcher brings resources back. Nil for a kind that has none.
	Fetcher ingest.Fetcher
	// Fetchable says which subjects can be fetched; nil for all.
	Fetchable func(schema.Resource) bool
}

// promptly is how long a source may take to end once its context is done. It
// is far more than any needs and far less than a read that does not look.
const promptly = 10 * time.Second

// maxStops bounds at how many cursors of a read the suite stops and resumes.
const maxStops = 40

// Test runs the law of a kind against worlds that newWorld makes.
func Test(t *testing.T, newWorld func(t *testing.T) *World) {
	for _, law := range []struct {
		name string
		test func(t *testing.T, w *World)
	}{
		{"Statements", testStatements},
		{"SameTwice", testSameTwice},
		{"NothingNew", testNothingNew},
		{"Resume", testResume},
		{"Change", testChange},
		{"Stop", testStop},
		{"CancelledBefore", testCancelledBefore},
		{"CancelledDuring", testCancelledDuring},
		{"BrokenBefore", testBrokenBefore},
		{"BrokenDuring", testBrokenDuring},
		{"ForeignCursor", testForeignCursor},
		{"ExactlyOnce", testExactlyOnce},
		{"FetchThenDigest", testFetchThenDigest},
	} {
		t.Run(law.name, func(t *testing.T) { law.test(t, newWorld(t)) })
	}
}

// fact is an event as the log would tell it from others.
type fact struct {
	Payload string // of the statement, or the envelope as it is
	Skipped string
	Cursor  string
}

// reading is what one read of a source gave.
type reading struct {
	facts   []fact // facts and skips
	events  []ingest.Event
	listing ingest.Listing
	cursor  string // the last one
}

func read(ctx context.Context, src ingest.Source, cursor string) (reading, error) {
	r := reading{cursor: cursor}
	for e, err := range src.Observe(ctx, cursor) {
		if err != nil {
			return r, err
		}
		if err := r.add(e); err != nil {
			return r, err
		}
	}
	return r, nil
}

func (r *reading) add(e ingest.Event) error {
	f, err := factOf(e)
	if err != nil {
		return err
	}
	if f.Payload != "" || f.Skipped != "" {
		r.facts = append(r.facts, f)
		r.events = append(r.events, e)
	}
	if e.Listing != nil {
		r.listing = *e.Listing
	}
	if e.Cursor != "" {
		r.cursor = e.Cursor
	}
	return nil
}

func factOf(e ingest.Event) (fact, error) {
	f := fact{Cursor: e.Cursor}
	switch {
	case e.Skipped != nil:
		f.Skipped = fmt.Sprintf("%s: %v", e.Skipped.Object, e.Skipped.Reason)
	case e.Envelope != nil:
		f.Payload = string(e.Envelope.Raw)
	case e.Fact():
		raw, err := e.Statement.Encode()
		if err != nil {
			return f, fmt.Errorf("encoding a statement: %w", err)
		}
		f.Payload = string(raw)
	}
	return f, nil
}

func mustRead(t *testing.T, src ingest.Source, cursor string) reading {
	t.Helper()
	r, err := read(t.Context(), src, cursor)
	if err != nil {
		t.Fatalf("Observe(%.200q): %v", cursor, err)
	}
	return r
}

func testStatements(t *testing.T, w *World) {
	r := mustRead(t, w.Open(t), "")
	if len(r.facts) == 0 {
		t.Fatal("a new world gave no fact")
	}
	open := 0
	for i, e := range r.events {
		if e.Skipped != nil && e.Fact() {
			t.Errorf("event %d is a fact and skipped at once", i)
		}
		if e.Skipped == nil {
			checkFact(t, i, e)
			open++
		}
		if open > ingest.MaxGroup {
			t.Errorf("more than %d facts before event %d without a cursor", ingest.MaxGroup, i)
		}
		if e.Cursor != "" {
			open = 0
		}
	}
	if r.cursor == "" || open > 0 {
		t.Errorf("the read ends with %d facts after the last cursor", open)
	}
}

// checkFact refuses a statement that could not be read back as it is.
func checkFact(t *testing.T, i int, e ingest.Event) {
	t.Helper()
	s := e.Statement
	if e.Envelope != nil {
		return
	}
	raw, err := s.Encode()
	if err != nil {
		t.Fatalf("event %d: encoding: %v", i, err)
	}
	again, err := schema.ParseStatement(raw)
	if err != nil {
		t.Fatalf("event %d: reading it back: %v", i, err)
	}
	if _, err := again.Facts(); err != nil {
		t.Fatalf("event %d: %v", i, err)
	}
}

func testSameTwice(t *testing.T, w *World) {
	// Cursors may differ: some places count their own changes, whatever of.
	first, second := mustRead(t, w.Open(t), ""), mustRead(t, w.Open(t), "")
	if diff := cmp.Diff(said(first.facts), said(second.facts)); diff != "" {
		t.Errorf("reading again from the beginning gives other facts (-first +second):\n%s", diff)
	}
	if first.listing != second.listing {
		t.Errorf("listings differ: %v, then %v", first.listing, second.listing)
	}
}

func testNothingNew(t *testing.T, w *World) {
	src := w.Open(t)
	first := mustRead(t, src, "")
	for name, again := range map[string]ingest.Source{"the same source": src, "a new one": w.Open(t)} {
		r := mustRead(t, again, first.cursor)
		if len(r.facts) > 0 {
			t.Errorf("%s, caught up, gave %d facts, the first %+v", name, len(r.facts), r.facts[0])
		}
		if r.listing != (ingest.Listing{}) && r.listing != first.listing {
			t.Errorf("%s lists %v, before it was %v", name, r.listing, first.listing)
		}
	}
}

// said is the facts without their cursors: a source may offer other places to
// stop at when it goes on than when it goes through.
func said(facts []fact) []string {
	texts := []string{}
	for _, f := range facts {
		texts = append(texts, f.Payload+f.Skipped)
	}
	return texts
}

// stops are the places in a read where the suite resumes: after each event
// with a cursor, or an even choice of them.
func stops(r reading) []int {
	var at []int
	for i, f := range r.facts {
		if f.Cursor != "" {
			at = append(at, i)
		}
	}
	for len(at) > maxStops {
		var half []int
		for i := 0; i < len(at); i += 2 {
			half = append(half, at[i])
		}
		at = half
	}
	return at
}

func testResume(t *testing.T, w *World) {
	whole := mustRead(t, w.Open(t), "")
	for _, i := range stops(whole) {
		tail := mustRead(t, w.Open(t), whole.facts[i].Cursor)
		if diff := cmp.Diff(said(whole.facts[i+1:]), said(tail.facts)); diff != "" {
			t.Fatalf("resuming after fact %d of %d gives another tail (-want +got):\n%s", i, len(whole.facts), diff)
		}
		if tail.listing != whole.listing {
			t.Errorf("resuming after fact %d lists %v, want %v", i, tail.listing, whole.listing)
		}
	}
}

func testChange(t *testing.T, w *World) {
	src := w.Open(t)
	before := mustRead(t, src, "")
	w.Change(t)
	after := mustRead(t, src, before.cursor)
	if len(after.facts) == 0 {
		t.Fatal("nothing new after a change")
	}
	known := map[string]bool{}
	for _, f := range before.facts {
		known[f.Payload+f.Skipped] = true
	}
	for _, f := range after.facts {
		if known[f.Payload+f.Skipped] {
			t.Errorf("given again after a change: %+v", f)
		}
	}
	// A reader that was stopped before the change catches up after it.
	for _, i := range stops(before) {
		late := mustRead(t, w.Open(t), before.facts[i].Cursor)
		if r := mustRead(t, w.Open(t), late.cursor); len(r.facts) > 0 {
			t.Errorf("stopped after fact %d, changed, read on: not caught up, there is still %+v", i, r.facts[0])
		}
	}
}

func testStop(t *testing.T, w *World) {
	for _, err := range w.Open(t).Observe(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		break // must not go on, nor panic
	}
}

func testCancelledBefore(t *testing.T, w *World) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	defer alarm(t)()
	r, err := read(ctx, w.Open(t), "")
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled context gives %v, want %v", err, context.Canceled)
	}
	if len(r.facts) > 0 {
		t.Errorf("a cancelled context gives %d facts", len(r.facts))
	}
}

func testCancelledDuring(t *testing.T, w *World) {
	whole := mustRead(t, w.Open(t), "")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	defer alarm(t)()
	events, ended := 0, error(nil)
	for _, err := range w.Open(t).Observe(ctx, "") {
		if err != nil {
			ended = err
			break
		}
		events++
		cancel()
	}
	switch {
	case ended == nil && events < len(whole.facts):
		t.Errorf("cancelled after its first event, the source ended without an error after %d of %d", events, len(whole.facts))
	case ended != nil && !errors.Is(ended, context.Canceled):
		t.Errorf("cancelled after its first event, the source ended with %v, want %v", ended, context.Canceled)
	case ended != nil && events > 2:
		t.Errorf("cancelled after its first event, the source gave %d more", events-1)
	}
}

// alarm fails the test if the function that it returns is called late.
func alarm(t *testing.T) func() {
	started := time.Now()
	return func() {
		t.Helper()
		if d := time.Since(started); d > promptly {
			t.Errorf("took %v to end after its context was done", d)
		}
	}
}

func testBrokenBefore(t *testing.T, w *World) {
	whole := mustRead(t, w.Open(t), "")
	src := w.Open(t)
	w.Break(t)
	r, err := read(t.Context(), src, "")
	if err == nil {
		t.Error("a broken remote gives no error")
	}
	checkPrefix(t, whole, r)
	if _, err := read(t.Context(), src, whole.cursor); err == nil {
		t.Error("a broken remote passes for one that has nothing new")
	}
}

func testBrokenDuring(t *testing.T, w *World) {
	whole := mustRead(t, w.Open(t), "")
	var r reading
	var ended error
	for e, err := range w.Open(t).Observe(t.Context(), "") {
		if ended = err; err != nil {
			break
		}
		if err := r.add(e); err != nil {
			t.Fatal(err)
		}
		if len(r.facts) == 1 {
			w.Break(t)
		}
	}
	if ended == nil && len(r.facts) < len(whole.facts) {
		t.Errorf("broken after the first fact, the source ended without an error after %d of %d", len(r.facts), len(whole.facts))
	}
	checkPrefix(t, whole, r)
}

// checkPrefix refuses events that the whole source does not begin with.
func checkPrefix(t *testing.T, whole, part reading) {
	t.Helper()
	n := min(len(part.facts), len(whole.facts))
	if diff := cmp.Diff(said(whole.facts[:n]), said(part.facts)); diff != "" {
		t.Errorf("what a failing read gave is not the beginning of what there was (-want +got):\n%s", diff)
	}
}

func testForeignCursor(t *testing.T, w *World) {
	for _, cursor := range []string{"\x00", "{", "null", "[]", `{"unknown":1}`, "zzzz", `{"v":99999}`} {
		r, err := read(t.Context(), w.Open(t), cursor)
		if err == nil {
			t.Errorf("the cursor %q, which the kind never wrote, is taken", cursor)
		}
		if len(r.facts) > 0 {
			t.Errorf("the cursor %q, which the kind never wrote, gives %d facts", cursor, len(r.facts))
		}
	}
}

// testExactlyOnce reads the source into a log that refuses every third batch,
// as a crash before the commit would look, and takes every other third without
// saying so, as a crash after it would.
func testExactlyOnce(t *testing.T, w *World) {
	signer := newSigner(t)
	run := func(log *Log, size int) error {
		_, err := ingest.NewRunner(w.Open(t), "test", log, signer, &ingest.Options{BatchSize: size}).Once(t.Context())
		return err
	}
	calm := new(Log)
	if err := run(calm, 0); err != nil {
		t.Fatal(err)
	}
	full := errors.New("disk full")
	calls := 0
	every := func(nth int) func(schema.Batch) error {
		return func(schema.Batch) error {
			if calls%3 == nth {
				return full
			}
			return nil
		}
	}
	shaky := &Log{Fail: func(b schema.Batch) error { calls++; return every(1)(b) }, Lose: every(2)}
	for i := 0; ; i++ {
		err := run(shaky, 1)
		if err == nil {
			break
		}
		if !errors.Is(err, full) || i > 10000 {
			t.Fatalf("read %d: %v", i, err)
		}
	}
	want, got := payloads(t, calm), payloads(t, shaky)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("with interruptions other facts are recorded (-without +with):\n%s", diff)
	}
	n := len(shaky.Batches())
	if err := run(shaky, 1); err != nil {
		t.Error(err)
	}
	if len(shaky.Batches()) != n {
		t.Error("reading a source that is caught up appended something")
	}
}

// payloads are those of all entries but the runner's own.
func payloads(t *testing.T, l *Log) []string {
	t.Helper()
	all, err := l.Payloads()
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(p string) bool {
		s, err := schema.ParseStatement([]byte(p))
		return err == nil && s.PredicateType == schema.CoverageV1
	})
}

func newSigner(t *testing.T) *keys.Private {
	t.Helper()
	key, err := keys.FromSeed(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func testFetchThenDigest(t *testing.T, w *World) {
	if w.Fetcher == nil {
		t.Skip("resources of this kind have no content")
	}
	fetched := map[schema.Key]bool{}
	for _, e := range mustRead(t, w.Open(t), "").events {
		if !e.Fact() || e.Envelope != nil {
			continue
		}
		r := subject(t, e.Statement)
		if fetched[r.Key] || w.Fetchable != nil && !w.Fetchable(r) {
			continue
		}
		fetched[r.Key] = true
		dir := t.TempDir()
		if err := w.Fetcher.Fetch(t.Context(), r, dir); err != nil {
			t.Fatalf("fetching %s: %v", r.Key, err)
		}
		got, err := w.Fetcher.Digest(t.Context(), dir)
		if err != nil {
			t.Fatalf("digesting what was fetched of %s: %v", r.Key, err)
		}
		if got != r.Key {
			t.Errorf("fetched %s, and it digests to %s", r.Key, got)
		}
	}
	if len(fetched) == 0 {
		t.Error("nothing in this world could be fetched")
	}
}

// subject is the resource that a statement is about.
func subject(t *testing.T, s schema.Statement) schema.Resource {
	t.Helper()
	f, err := s.Facts()
	if err != nil {
		t.Fatal(err)
	}
	key := s.Subject[0].Key()
	for _, r := range f.Resources {
		if r.Key == key {
			return r
		}
	}
	t.Fatalf("the facts of a statement lack its subject %s", key)
	return schema.Resource{}
}
