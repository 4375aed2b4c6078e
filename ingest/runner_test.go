package ingest_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/ingesttest"
	"github.com/retrace-ledger/retrace/keys"
	"github.com/retrace-ledger/retrace/schema"
)

// list is a source that holds numbered facts; its cursor is how many were read.
type list struct {
	mu     sync.Mutex
	events []ingest.Event
	err    error // at the end of a read
}

// fail makes reads end with err.
func (l *list) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

func (l *list) Observe(ctx context.Context, cursor string) iter.Seq2[ingest.Event, error] {
	return func(yield func(ingest.Event, error) bool) {
		l.mu.Lock()
		events, end := l.events, l.err
		l.mu.Unlock()
		from := 0
		if cursor != "" {
			from, _ = strconv.Atoi(cursor)
		}
		for _, e := range events[from:] {
			if ctx.Err() != nil || !yield(e, nil) {
				break
			}
		}
		if err := errors.Join(ctx.Err(), end); err != nil {
			yield(ingest.Event{}, err)
		}
	}
}

// add adds n facts, of which every step-th can be resumed from.
func (l *list) add(t testing.TB, n, step int) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for range n {
		i := len(l.events)
		e := ingest.Event{Statement: statement(t, strconv.Itoa(i)), Total: i + 1}
		if (i+1)%step == 0 {
			e.Cursor = strconv.Itoa(i + 1)
		}
		l.events = append(l.events, e)
	}
}

func statement(t testing.TB, text string) schema.Statement {
	t.Helper()
	s, err := schema.NewStatement("https://example.com/test/v1", map[string]string{"text": text},
		schema.Descriptor{Name: "thing", Digest: schema.DigestSet{schema.SHA256: schema.BytesKey([]byte(text)).Hex()}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func signer(t testing.TB) *keys.Private {
	t.Helper()
	key, err := keys.FromSeed(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func runner(t testing.TB, src ingest.Source, log ingest.Log, opts *ingest.Options) *ingest.Runner {
	t.Helper()
	return ingest.NewRunner(src, "list:///x", log, signer(t), opts)
}

// facts counts the entries that are not the runner's own.
func facts(t testing.TB, log *ingesttest.Log) int {
	t.Helper()
	all, err := log.Payloads()
	if err != nil {
		t.Fatal(err)
	}
	return len(all) - len(coverages(t, log))
}

func coverages(t testing.TB, log *ingesttest.Log) []schema.Coverage {
	t.Helper()
	payloads, err := log.Payloads(schema.CoverageV1)
	if err != nil {
		t.Fatal(err)
	}
	var cs []schema.Coverage
	previous := ""
	for i, p := range payloads {
		s, err := schema.ParseStatement([]byte(p))
		if err != nil {
			t.Fatal(err)
		}
		var c schema.Coverage
		if err := json.Unmarshal(s.Predicate, &c); err != nil {
			t.Fatal(err)
		}
		if c.Previous != previous {
			t.Errorf("coverage %d names %q as the one before, that is %q", i, c.Previous, previous)
		}
		if i > 0 && !c.From.Equal(cs[i-1].To) {
			t.Errorf("coverage %d begins at %v, the one before ends at %v", i, c.From, cs[i-1].To)
		}
		previous = schema.BytesKey([]byte(p)).Hex()
		cs = append(cs, c)
	}
	return cs
}

func TestOnceCutsBatchesAtCursors(t *testing.T) {
	for _, c := range []struct {
		n, step int
		want    []int
	}{
		{1100, 1, []int{512, 512, 76}},
		{1200, 300, []int{600, 600}},
		{1024, 1024, []int{1024}},
		{3, 3, []int{3}},
	} {
		src, log := new(list), new(ingesttest.Log)
		src.add(t, c.n, c.step)
		var reports []ingest.Progress
		p, err := runner(t, src, log, &ingest.Options{Progress: func(p ingest.Progress) { reports = append(reports, p) }}).Once(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var got []int
		for _, b := range log.Batches() {
			n := len(b.Envelopes)
			for _, e := range b.Envelopes {
				if s, err := e.Statement(); err == nil && s.PredicateType == schema.CoverageV1 {
					n--
				}
			}
			if n > 0 {
				got = append(got, n)
			}
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%d facts with a cursor every %d: batches (-want +got):\n%s", c.n, c.step, diff)
		}
		if want := (ingest.Progress{Done: c.n, Total: c.n, Recorded: c.n}); p != want || reports[len(reports)-1] != want {
			t.Errorf("%d facts: progress %+v, last reported %+v, want %+v", c.n, p, reports[len(reports)-1], want)
		}
	}
}

func TestGroupsAreWholeOrNot(t *testing.T) {
	src, log := new(list), new(ingesttest.Log)
	src.add(t, 5, 3) // two at the end that no cursor follows
	if _, err := runner(t, src, log, nil).Once(t.Context()); err == nil || !strings.Contains(err.Error(), "no cursor") {
		t.Errorf("facts without a cursor after them: %v", err)
	}
	if n := facts(t, log); n != 0 {
		t.Errorf("%d facts recorded of a source that broke its promise at the end of its first batch", n)
	}
	src.err = errors.New("the server answers 500")
	if _, err := runner(t, src, log, nil).Once(t.Context()); !errors.Is(err, src.err) {
		t.Errorf("Once = %v, want %v", err, src.err)
	}
	if n := facts(t, log); n != 3 {
		t.Errorf("%d facts recorded before an error, want the group of 3 that was complete", n)
	}
	src.err = nil
	src.add(t, 1, 3)
	if p, err := runner(t, src, log, nil).Once(t.Context()); err != nil || p.Recorded != 3 || p.Duplicates != 0 {
		t.Errorf("going on gives %+v, %v, want the other 3", p, err)
	}
	src, log = new(list), new(ingesttest.Log)
	src.add(t, ingest.MaxGroup+1, ingest.MaxGroup+1)
	if _, err := runner(t, src, log, nil).Once(t.Context()); err == nil || len(log.Batches()) > 0 {
		t.Errorf("a group above the limit: %v, %d batches", err, len(log.Batches()))
	}
}

func TestBatchesStayBelowBytes(t *testing.T) {
	src, log := new(list), new(ingesttest.Log)
	big := strings.Repeat("x", 1<<20)
	for i := range 7 {
		src.events = append(src.events, ingest.Event{Statement: statement(t, fmt.Sprint(i, big)), Cursor: strconv.Itoa(i + 1)})
	}
	if p, err := runner(t, src, log, nil).Once(t.Context()); err != nil || p.Recorded != 7 {
		t.Errorf("7 facts of a megabyte: %+v, %v", p, err)
	}
}

func TestOddObjectsAreSkipped(t *testing.T) {
	src, log := new(list), new(ingesttest.Log)
	src.add(t, 2, 1)
	src.events = append(src.events,
		ingest.Event{Skipped: &ingest.Skip{Object: "thing 2", Reason: errors.New("odd")}},
		ingest.Event{Envelope: &schema.Envelope{Raw: make([]byte, schema.MaxEnvelope+1)}},
		ingest.Event{Statement: tooLarge(t), Cursor: "5"},
	)
	src.add(t, 1, 1)
	var skipped []string
	p, err := runner(t, src, log, &ingest.Options{Skipped: func(s ingest.Skip) { skipped = append(skipped, s.Reason.Error()) }}).Once(t.Context())
	if want := (ingest.Progress{Done: 6, Total: 6, Recorded: 3, Skipped: 3}); err != nil || p != want {
		t.Errorf("Once = %+v, %v, want %+v", p, err, want)
	}
	if len(skipped) != 3 || skipped[0] != "odd" || !strings.Contains(skipped[1], "limit is 4194304") || !strings.Contains(skipped[2], "limit is 4194304") {
		t.Errorf("skipped: %q", skipped)
	}
	if p, err := runner(t, src, log, nil).Once(t.Context()); err != nil || p != (ingest.Progress{}) {
		t.Errorf("again: %+v, %v", p, err)
	}
	all := coverages(t, log)
	if got := all[len(all)-1].Refused; len(got) != 3 || got[0].Object != "thing 2" || got[0].Reason != "odd" || got[1].Digest == "" {
		t.Errorf("recorded as refused: %+v", got)
	}
}

// TestRefusals has what was left out recorded once, with the coverage, also
// where a process ends before it says so, without values that were never looked
// at for secrets, and not endlessly.
func TestRefusals(t *testing.T) {
	src, log := new(list), new(ingesttest.Log)
	refuse := func(object, reason string) {
		src.events = append(src.events, ingest.Event{Skipped: &ingest.Skip{Object: object, Reason: errors.New(reason), Digest: "sha256:" + schema.Key(strings.Repeat("a", 64))}})
	}
	refuse("a", `spec.env.0.value: "hunter2 \"quoted\"" is no number, at https://ada:hunter2@example.com/x`)
	refuse("a", `spec.env.0.value: "hunter3" is no number, at https://ada:hunter2@example.com/x`)
	for i := range 2 * schema.MaxRefused {
		refuse(fmt.Sprint("b ", i), "odd")
		src.add(t, 1, 1)
	}
	src.err = errors.New("gone") // what was read until here stands, and nothing is said of coverage yet
	if _, err := runner(t, src, log, &ingest.Options{BatchSize: 10}).Once(t.Context()); err == nil {
		t.Error("a source that fails is read without an error")
	}
	src.err = nil
	refuse("c", "odd")
	src.add(t, 1, 1)
	r := runner(t, src, log, nil)
	for range 3 {
		if _, err := r.Once(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	all := coverages(t, log)
	if len(all) != 1 || len(all[0].Refused) != schema.MaxRefused || all[0].LeftOut != schema.MaxRefused+2 {
		t.Fatalf("coverage: %+v", all)
	}
	got := all[0].Refused[0]
	if got.Object != "a" || got.Reason != `spec.env.0.value: "…" is no number, at https://example.com/x` || got.Digest == "" {
		t.Errorf("refused: %+v", got)
	}
	if all[0].Refused[1].Object != "b 0" {
		t.Errorf("the same refusal, but for what it quotes, is there twice: %+v", all[0].Refused[:2])
	}
}

// TestBusy has a source that asks to be left alone: it is, whoever calls.
func TestBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, log := new(list), new(ingesttest.Log)
		l.fail(fmt.Errorf("listing: %w", &ingest.BusyError{Wait: 20 * time.Minute, Err: errors.New("429 Too Many Requests")}))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		var waits []time.Duration
		r := runner(t, l, log, &ingest.Options{Failed: func(_ error, wait time.Duration) { waits = append(waits, wait) }})
		go func() { ended <- r.Watch(ctx) }()
		synctest.Wait()
		l.fail(nil)
		l.add(t, 1, 1)
		r.Wake()
		time.Sleep(19 * time.Minute)
		if n := facts(t, log); n != 0 {
			t.Errorf("%d facts before it may be asked again", n)
		}
		time.Sleep(2 * time.Minute)
		if n := facts(t, log); n != 1 || len(waits) != 1 || waits[0] != 20*time.Minute {
			t.Errorf("%d facts after %v", n, waits)
		}
		cancel()
		<-ended
	})
}

// tooLarge is a statement within the limit whose envelope, in base64, is not.
func tooLarge(t testing.TB) schema.Statement {
	return statement(t, strings.Repeat("x", 3500000))
}

func TestConflict(t *testing.T) {
	for name, read := range map[string]func(*ingest.Runner) error{
		"Once":  func(r *ingest.Runner) error { _, err := r.Once(t.Context()); return err },
		"Watch": func(r *ingest.Runner) error { return r.Watch(t.Context()) },
	} {
		src, log := new(list), new(ingesttest.Log)
		src.add(t, 3, 1)
		// Another reader is faster, and reads less.
		slow := &racing{Log: log, before: func() {
			if _, err := runner(t, &list{events: src.events[:1]}, log, nil).Once(t.Context()); err != nil {
				t.Error(err)
			}
		}}
		err := read(runner(t, src, slow, nil))
		var conflict *ingest.ConflictError
		if !errors.As(err, &conflict) || conflict.Want != "" || conflict.Have == "" || conflict.Source != "list:///x" {
			t.Errorf("%s = %v, want a conflict", name, err)
		}
		if n := facts(t, log); n != 1 {
			t.Errorf("%s: %d facts recorded, want only the one of the reader that won", name, n)
		}
	}
}

// racing is a log to which somebody else appends first.
type racing struct {
	*ingesttest.Log
	before func()
}

func (r *racing) Append(ctx context.Context, b schema.Batch) (schema.Receipt, error) {
	if before := r.before; before != nil {
		r.before = nil
		before()
	}
	return r.Log.Append(ctx, b)
}

func TestCoverage(t *testing.T) {
	src, log := new(list), new(ingesttest.Log)
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	opts := &ingest.Options{Now: func() time.Time { return now }}
	once := func() {
		t.Helper()
		// A new runner each time, as after a restart.
		if _, err := runner(t, src, log, opts).Once(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	want := func(n int, last schema.Coverage) {
		t.Helper()
		got := coverages(t, log)
		if len(got) != n {
			t.Fatalf("%d coverage statements, want %d", len(got), n)
		}
		g := got[n-1]
		if g.Recorded != last.Recorded || g.Blind != last.Blind || !g.To.Equal(now) || g.Source != "list:///x" {
			t.Errorf("coverage %d is %+v, want %+v until %v", n, g, last, now)
		}
	}
	once() // an empty source was looked at
	want(1, schema.Coverage{})
	once()
	want(1, schema.Coverage{})
	now = now.Add(30 * time.Minute)
	once()
	if n := len(coverages(t, log)); n != 1 {
		t.Errorf("%d coverage statements within an hour without news", n)
	}
	src.add(t, 3, 1)
	once()
	want(2, schema.Coverage{Recorded: 3})
	now = now.Add(time.Hour)
	once()
	want(3, schema.Coverage{})
	// What was recorded before an error counts when the next read succeeds.
	now = now.Add(time.Minute)
	src.add(t, 2, 1)
	src.err = errors.New("gone")
	runner(t, src, log, opts).Once(t.Context())
	src.err = nil
	src.add(t, 1, 1)
	once()
	want(4, schema.Coverage{Recorded: 3})
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, log := new(list), new(ingesttest.Log)
		src.add(t, 1, 1)
		var failed atomic.Int64
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() {
			ended <- runner(t, src, log, &ingest.Options{Failed: func(error, time.Duration) { failed.Add(1) }}).Watch(ctx)
		}()
		time.Sleep(10 * time.Minute) // in the bubble's time
		if n := len(coverages(t, log)); n != 1 || failed.Load() != 0 {
			t.Errorf("a quiet source after ten minutes: %d coverage statements, %d failures", n, failed.Load())
		}
		src.fail(errors.New("https://ada:secret@example.com answers 500"))
		time.Sleep(30 * time.Minute)
		if n := failed.Load(); n < 6 || n > 30 {
			t.Errorf("%d attempts in half an hour of failures", n)
		}
		src.fail(nil)
		src.add(t, 2, 1)
		time.Sleep(10 * time.Minute)
		cs := coverages(t, log)
		if len(cs) != 4 {
			t.Fatalf("%d coverage statements, want first, until the failures, blind, after: %+v", len(cs), cs)
		}
		blind, after := cs[2], cs[3]
		if !strings.Contains(blind.Blind, "answers 500") || strings.Contains(blind.Blind, "secret") || blind.Recorded != 0 {
			t.Errorf("the blind interval says %+v", blind)
		}
		if d := blind.To.Sub(blind.From); d < 29*time.Minute || d > 40*time.Minute {
			t.Errorf("blind for %v, want about half an hour", d)
		}
		if after.Blind != "" || after.Recorded != 2 {
			t.Errorf("after the blind interval: %+v", after)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch = %v, want %v", err, context.Canceled)
		}

		// A day later another process goes on.
		time.Sleep(24 * time.Hour)
		ctx, cancel = context.WithCancel(t.Context())
		go func() { ended <- runner(t, src, log, nil).Watch(ctx) }()
		time.Sleep(time.Second)
		cs = coverages(t, log)
		if len(cs) != 6 || !strings.Contains(cs[4].Blind, "no watcher ran") {
			t.Errorf("coverage after a day without a watcher: %+v", cs[4:])
		}
		cancel()
		<-ended
	})
}

func TestWake(t *testing.T) {
	for name, source := range map[string]func(*list) ingest.Source{
		"polled": func(l *list) ingest.Source { return l },
		"waiter": func(l *list) ingest.Source { return &bell{l, make(chan struct{})} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, log := new(list), new(ingesttest.Log)
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error)
				r := runner(t, source(l), log, &ingest.Options{Interval: time.Hour})
				go func() { ended <- r.Watch(ctx) }()
				for n := range 3 {
					synctest.Wait()
					l.add(t, 1, 1)
					r.Wake()
					r.Wake()
					synctest.Wait()
					if got := facts(t, log); got != n+1 {
						t.Errorf("%d facts after waking %d times, want as many", got, n+1)
					}
				}
				cancel()
				if err := <-ended; !errors.Is(err, context.Canceled) {
					t.Errorf("Watch = %v", err)
				}
			})
		})
	}
}

// TestWakeAfterFailure has a source that failed looked at when somebody says that
// it is worth it, and not when the wait would have been over.
func TestWakeAfterFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, log := new(list), new(ingesttest.Log)
		l.fail(errors.New("the server is down"))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		r := runner(t, l, log, nil)
		go func() { ended <- r.Watch(ctx) }()
		synctest.Wait()
		l.fail(nil)
		l.add(t, 1, 1)
		r.Wake()
		synctest.Wait() // no time passes
		if got := facts(t, log); got != 1 {
			t.Errorf("%d facts after a failure and a wake-up, want 1", got)
		}
		cancel()
		<-ended
	})
}

// bell is a list that knows when to look again.
type bell struct {
	*list
	ring chan struct{}
}

func (b *bell) Wait(ctx context.Context, cursor string) error {
	select {
	case <-b.ring:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func TestWatchWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, log := &bell{new(list), make(chan struct{})}, new(ingesttest.Log)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- runner(t, src, log, &ingest.Options{Interval: time.Hour}).Watch(ctx) }()
		synctest.Wait()
		src.add(t, 1, 1)
		src.ring <- struct{}{}
		synctest.Wait()
		if n := facts(t, log); n != 1 {
			t.Errorf("%d facts after the source rang, want 1", n)
		}
		src.add(t, 1, 1)
		time.Sleep(2 * time.Hour) // it forgot to ring
		if n := facts(t, log); n != 2 {
			t.Errorf("%d facts after the interval, want 2", n)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch = %v", err)
		}
	})
}

func TestKindOf(t *testing.T) {
	kinds := []ingest.Kind{{Name: "git", Schemes: []string{"git+https", "git+file"}}, {Name: "oci", Schemes: []string{"oci"}}}
	if k, err := ingest.KindOf(kinds, "git+file:///x"); err != nil || k.Name != "git" {
		t.Errorf("KindOf = %v, %v", k.Name, err)
	}
	for _, bad := range []string{"https://ada:secret@x", "./repo", "git+file:x", ""} {
		_, err := ingest.KindOf(kinds, bad)
		if err == nil || !strings.Contains(err.Error(), "git+https://") || strings.Contains(err.Error(), "secret") {
			t.Errorf("KindOf(%q) = %v, want an error that lists what is known", bad, err)
		}
	}
}
