package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/ledger/ledgertest"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

func batch(envs ...schema.Envelope) schema.Batch { return schema.Batch{Envelopes: envs} }

func claims(t testing.TB, texts ...string) []schema.Envelope {
	t.Helper()
	var out []schema.Envelope
	for _, text := range texts {
		out = append(out, ledgertest.Claim(t, text))
	}
	return out
}

func mustAppend(t testing.TB, l *ledger.Ledger, b schema.Batch) schema.Receipt {
	t.Helper()
	r, err := l.Append(context.Background(), b)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func indexes(r schema.Receipt) (out []string) {
	for _, e := range r.Entries {
		s := fmt.Sprint(e.Index)
		if e.Duplicate {
			s += " again"
		}
		out = append(out, s)
	}
	return out
}

func TestAppendReceipt(t *testing.T) {
	w := ledgertest.New(t)
	ctx := context.Background()
	r := mustAppend(t, w.Ledger, schema.Batch{Namespace: "team", Source: "record", Submitter: "me", Envelopes: claims(t, "a", "b")})
	if diff := cmp.Diff([]string{"1", "2"}, indexes(r)); diff != "" {
		t.Errorf("receipt: %s", diff)
	}
	cp, err := verify.OpenCheckpoint(r.Checkpoint, w.Verifier)
	if err != nil || cp.Size != 3 || r.Size != 3 {
		t.Errorf("the receipt's checkpoint is of size %d (%v), its size %d; want 3", cp.Size, err, r.Size)
	}
	for i, rec := range r.Entries {
		e, err := w.Entry(ctx, rec.Index)
		if err != nil {
			t.Fatal(err)
		}
		want := schema.Header{Namespace: "team", Source: "record", Submitter: "me", RecordedAt: e.Header.RecordedAt}
		if diff := cmp.Diff(want, e.Header); diff != "" || e.State != schema.Present {
			t.Errorf("entry %d is %s with header %s", rec.Index, e.State, diff)
		}
		if string(e.Envelope.Raw) != string(claims(t, "a", "b")[i].Raw) {
			t.Errorf("entry %d is not byte for byte what was appended", rec.Index)
		}
		if tlog.RecordHash(e.Commitment[:]) != tlog.Hash(rec.LeafHash) {
			t.Errorf("entry %d: the receipt has another leaf hash", rec.Index)
		}
	}
}

func TestAppendDuplicates(t *testing.T) {
	w := ledgertest.New(t)
	first := mustAppend(t, w.Ledger, batch(claims(t, "a", "b", "a")...))
	if diff := cmp.Diff([]string{"1", "2", "1 again"}, indexes(first)); diff != "" {
		t.Errorf("twice in a batch: %s", diff)
	}
	again := mustAppend(t, w.Ledger, batch(claims(t, "c", "b", "a")...))
	if diff := cmp.Diff([]string{"3", "2 again", "1 again"}, indexes(again)); diff != "" {
		t.Errorf("in a later batch: %s", diff)
	}
	for i, at := range []int{1, 0} {
		if again.Entries[i+1].LeafHash != first.Entries[at].LeafHash {
			t.Errorf("duplicate %d has another leaf hash than its first", i)
		}
	}
	other := mustAppend(t, w.Ledger, schema.Batch{Namespace: "other", Envelopes: claims(t, "a")})
	if diff := cmp.Diff([]string{"4"}, indexes(other)); diff != "" {
		t.Errorf("in another namespace: %s", diff)
	}
	if r := mustAppend(t, w.Ledger, batch(claims(t, "a")...)); r.Size != 5 || len(r.Checkpoint) == 0 {
		t.Errorf("a batch of duplicates has size %d and a checkpoint of %d bytes", r.Size, len(r.Checkpoint))
	}
}

func TestAppendOwnStatementsByPayload(t *testing.T) {
	w := ledgertest.New(t)
	env := w.Sign(t, "https://example.com/claim/v1", map[string]string{}, ledgertest.Subject("x"))
	mustAppend(t, w.Ledger, batch(env))
	// The same statement in an envelope that is encoded in another way.
	loose, err := schema.ParseEnvelope([]byte(strings.Replace(string(env.Raw), `{"payloadType"`, `{ "payloadType"`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"1 again"}, indexes(mustAppend(t, w.Ledger, batch(loose)))); diff != "" {
		t.Errorf("our own statement again: %s", diff)
	}
}

func TestAppendForgedObserver(t *testing.T) {
	w := ledgertest.New(t)
	env := claims(t, "x")[0]
	forged, err := schema.NewEnvelope(env.PayloadType, env.Payload, schema.Signature{KeyID: w.Observer.ID(), Sig: make([]byte, 64)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Append(context.Background(), batch(forged)); err == nil || !strings.Contains(err.Error(), "not by that key") {
		t.Errorf("a forged observer signature: %v", err)
	}
	if w.Size() != 1 {
		t.Errorf("size %d after a refused batch, want 1", w.Size())
	}
}

// TestAppendOwnStatementInOtherClothes hands in what the observer signed once
// more, changed so that it is another envelope whose signature still holds.
func TestAppendOwnStatementInOtherClothes(t *testing.T) {
	w := ledgertest.New(t)
	env := w.Sign(t, "https://example.com/claim/v1", map[string]string{}, ledgertest.Subject("x"))
	mustAppend(t, w.Ledger, batch(env))
	own := env.Signatures[0]
	junk := schema.Signature{KeyID: "junk", Sig: make([]byte, 64)}
	for name, sigs := range map[string][]schema.Signature{
		"another key ID": {{KeyID: "x", Sig: own.Sig}},
		"no key ID":      {{Sig: own.Sig}},
		"one more":       {own, junk},
		"one before":     {junk, own},
	} {
		other, err := schema.NewEnvelope(env.PayloadType, env.Payload, sigs...)
		if err != nil {
			t.Fatal(err)
		}
		if r, err := w.Append(context.Background(), batch(other)); err == nil || !strings.Contains(err.Error(), "signatures.") {
			t.Errorf("%s: %v, %v; want it refused", name, indexes(r), err)
		}
	}
}

func TestAppendCursors(t *testing.T) {
	w := ledgertest.New(t)
	ctx := context.Background()
	move := func(from, to string, envs ...schema.Envelope) schema.Batch {
		return schema.Batch{Envelopes: envs, Cursors: []schema.Cursor{{Source: "git", From: from, To: to}}}
	}
	at := func(want string) {
		t.Helper()
		got, err := w.Cursor(ctx, "", "git")
		if err != nil || got != want {
			t.Errorf("the cursor is %q (%v), want %q", got, err, want)
		}
	}
	at("")
	mustAppend(t, w.Ledger, move("", "1", claims(t, "a")...))
	at("1")
	_, err := w.Append(ctx, move("", "2", claims(t, "b")...))
	var refused *ledger.CursorError
	if !errors.As(err, &refused) {
		t.Fatalf("a batch from the wrong cursor: %v", err)
	}
	if diff := cmp.Diff(&ledger.CursorError{Source: "git", Have: "1", From: ""}, refused); diff != "" {
		t.Error(diff)
	}
	if w.Size() != 2 {
		t.Errorf("size %d after a refused batch, want 2", w.Size())
	}
	mustAppend(t, w.Ledger, move("1", "2", claims(t, "a")...))
	at("2")
	if w.Size() != 2 {
		t.Errorf("size %d after a batch of duplicates, want 2", w.Size())
	}
	mustAppend(t, w.Ledger, move("2", "3"))
	at("3")
	if got, err := w.Cursor(ctx, "other", "git"); err != nil || got != "" {
		t.Errorf("in another namespace the cursor is %q (%v)", got, err)
	}
	reopen(t, w)
	at("3")
}

// TestAppendCursorsInOneCommit lets many move one cursor at once: exactly one
// of each value wins, whatever the commits are.
func TestAppendCursorsInOneCommit(t *testing.T) {
	w := ledgertest.New(t)
	const rounds, rivals = 5, 40
	for round := range rounds {
		var mu sync.Mutex
		var won int
		var wg sync.WaitGroup
		for i := range rivals {
			wg.Go(func() {
				_, err := w.Append(context.Background(), schema.Batch{
					Envelopes: claims(t, fmt.Sprintf("%d/%d", round, i)),
					Cursors:   []schema.Cursor{{Source: "s", From: cursorAt(round), To: cursorAt(round + 1)}},
				})
				var refused *ledger.CursorError
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					won++
				} else if !errors.As(err, &refused) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if won != 1 {
			t.Errorf("round %d: %d batches moved the same cursor", round, won)
		}
	}
	if got := w.Size(); got != 1+rounds {
		t.Errorf("size %d, want %d: a refused batch was recorded", got, 1+rounds)
	}
}

func cursorAt(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

func TestAppendRefuses(t *testing.T) {
	w := ledgertest.New(t)
	long := func(n int) string { return strings.Repeat("x", n) }
	notAStatement, err := schema.NewEnvelope(schema.PayloadType, []byte(`{"_type":"x"}`))
	if err != nil {
		t.Fatal(err)
	}
	badPredicate, err := schema.NewEnvelope(schema.PayloadType, []byte(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"`+strings.Repeat("0", 64)+`"}}],"predicateType":"`+schema.CommitV1+`","predicate":{}}`))
	if err != nil {
		t.Fatal(err)
	}
	text, err := schema.NewEnvelope("text/plain", []byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	big := make([]schema.Envelope, 3)
	for i := range big {
		big[i] = ledgertest.Claim(t, fmt.Sprint(i)+long(2<<20+100<<10))
	}
	a := claims(t, "a")
	for _, c := range []struct {
		name  string
		batch schema.Batch
		want  string
	}{
		{"empty", schema.Batch{}, "empty"},
		{"too many", batch(make([]schema.Envelope, schema.MaxBatchEnvelopes+1)...), "4097 envelopes in a batch; the limit is 4096"},
		{"too large", batch(big...), "the limit is 8388608"},
		{"no bytes", batch(schema.Envelope{}), "envelopes.0: is empty"},
		{"large envelope", batch(schema.Envelope{Raw: make([]byte, schema.MaxEnvelope+1)}), "the limit is 4194304"},
		{"namespace", schema.Batch{Namespace: long(129), Envelopes: a}, "129 bytes of namespace; the limit is 128"},
		{"control", schema.Batch{Namespace: "a\x00b", Envelopes: a}, "control character"},
		{"not UTF-8", schema.Batch{Source: "\xff", Envelopes: a}, "not UTF-8"},
		{"source", schema.Batch{Source: long(1537), Envelopes: a}, "the limit is 1536"},
		{"submitter", schema.Batch{Submitter: long(257), Envelopes: a}, "the limit is 256"},
		{"cursor twice", schema.Batch{Cursors: []schema.Cursor{{Source: "s"}, {Source: "s"}}}, "twice"},
		{"cursor of nothing", schema.Batch{Cursors: []schema.Cursor{{To: "1"}}}, "names none"},
		{"large cursor", schema.Batch{Cursors: []schema.Cursor{{Source: "s", To: long(1<<20 + 1)}}}, "the limit is 1048576"},
		{"cursors", schema.Batch{Cursors: make([]schema.Cursor, 257)}, "the limit is 256"},
		{"not a statement", batch(a[0], notAStatement), "envelope 1: _type"},
		{"bad predicate", batch(badPredicate), "envelope 0: predicate.tree"},
		{"other payload", batch(text), "payloadType"},
		{"second genesis", batch(w.Genesis(t)), "one genesis"},
	} {
		_, err := w.Append(context.Background(), c.batch)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error that says %q", c.name, err, c.want)
		}
	}
	if w.Size() != 1 {
		t.Errorf("size %d after refused batches, want 1", w.Size())
	}
}

// TestAppendLongestHeader appends with names as long as they may be, each byte
// of which JSON escapes.
func TestAppendLongestHeader(t *testing.T) {
	w := ledgertest.New(t)
	quotes := func(n int) string { return strings.Repeat(`"`, n) }
	mustAppend(t, w.Ledger, schema.Batch{Namespace: quotes(128), Source: quotes(1536), Submitter: quotes(256), Envelopes: claims(t, "a")})
}

// TestAppendLargest appends the most that a batch may hold, in entries and in
// bytes.
func TestAppendLargest(t *testing.T) {
	w := ledgertest.New(t)
	envs := make([]schema.Envelope, schema.MaxBatchEnvelopes)
	for i := range envs {
		envs[i] = ledgertest.Claim(t, fmt.Sprintf("%d %s", i, strings.Repeat("x", 600)))
	}
	if r := mustAppend(t, w.Ledger, batch(envs...)); r.Size != 4097 {
		t.Errorf("size %d, want 4097", r.Size)
	}
	for i := range 2 {
		env := ledgertest.Claim(t, fmt.Sprint(i)+strings.Repeat("x", 2_950_000))
		if len(env.Raw) < 3_900_000 {
			t.Fatalf("%d bytes are not large", len(env.Raw))
		}
		mustAppend(t, w.Ledger, batch(env))
	}
	if e, err := w.Entry(context.Background(), 4098); err != nil || len(e.Envelope.Raw) < 3_900_000 {
		t.Errorf("reading a large entry: %v", err)
	}
}

func TestAppendTimes(t *testing.T) {
	w := ledgertest.New(t)
	w.Close()
	now := time.Now().Add(time.Hour)
	times := []time.Time{now, now.Add(-time.Minute), now.Add(time.Microsecond * 3 / 2)}
	next := 0
	l, err := ledger.Open(w.Dir(), w.Signer, &ledger.Options{Now: func() time.Time {
		next++
		return times[next-1]
	}})
	if err != nil {
		t.Fatal(err)
	}
	w.Ledger = l
	for i := range times {
		mustAppend(t, w.Ledger, batch(claims(t, fmt.Sprint(i))...))
	}
	want := []time.Time{now.UTC().Truncate(time.Microsecond), now.UTC().Truncate(time.Microsecond), times[2].UTC().Truncate(time.Microsecond)}
	for i, want := range want {
		e, err := w.Entry(context.Background(), int64(i+1))
		if err != nil {
			t.Fatal(err)
		}
		if !e.Header.RecordedAt.Equal(want) {
			t.Errorf("entry %d was recorded at %v, want %v", i+1, e.Header.RecordedAt, want)
		}
	}
	reopen(t, w)
	mustAppend(t, w.Ledger, batch(claims(t, "later")...))
	if e, err := w.Entry(context.Background(), 4); err != nil || e.Header.RecordedAt.Before(want[2]) {
		t.Errorf("after opening again an entry was recorded at %v (%v), before %v", e.Header.RecordedAt, err, want[2])
	}
}

// TestAppendManyCallers has ten thousand callers append at once.
func TestAppendManyCallers(t *testing.T) {
	w := ledgertest.New(t)
	const callers = 10_000
	envs := make([]schema.Envelope, callers)
	for i := range envs {
		envs[i] = ledgertest.Claim(t, fmt.Sprint(i))
	}
	got := make([]int64, callers)
	var wg sync.WaitGroup
	for i := range envs {
		wg.Go(func() {
			r, err := w.Append(context.Background(), batch(envs[i]))
			if err != nil {
				t.Error(err)
				return
			}
			got[i] = r.Entries[0].Index
			if r.Size <= got[i] {
				t.Errorf("entry %d was answered at size %d", got[i], r.Size)
			}
		})
	}
	wg.Wait()
	seen := map[int64]bool{}
	for i, index := range got {
		if seen[index] || index < 1 || index > callers {
			t.Fatalf("caller %d got index %d", i, index)
		}
		seen[index] = true
		e, err := w.Entry(context.Background(), index)
		if err != nil {
			t.Fatal(err)
		}
		if string(e.Envelope.Raw) != string(envs[i].Raw) {
			t.Fatalf("entry %d is not what caller %d appended", index, i)
		}
	}
}

// TestAppendSameFromMany has many callers append the same envelopes at once:
// each is recorded once, and everybody is told the same place.
func TestAppendSameFromMany(t *testing.T) {
	w := ledgertest.New(t)
	const callers, envelopes = 50, 40
	var envs []schema.Envelope
	for i := range envelopes {
		envs = append(envs, ledgertest.Claim(t, fmt.Sprint(i)))
	}
	var mu sync.Mutex
	first, new := map[string]schema.Recorded{}, 0
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := range envs {
				env := envs[(i*7+c)%len(envs)]
				r, err := w.Append(context.Background(), batch(env))
				if err != nil {
					t.Error(err)
					return
				}
				got := r.Entries[0]
				mu.Lock()
				if !got.Duplicate {
					new++
				}
				want, known := first[string(env.Raw)]
				if known && (want.Index != got.Index || want.LeafHash != got.LeafHash) {
					t.Errorf("one envelope is recorded as %+v and as %+v", want, got)
				}
				first[string(env.Raw)] = got
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if w.Size() != 1+envelopes || new != envelopes {
		t.Errorf("size %d with %d new entries, want %d and %d", w.Size(), new, 1+envelopes, envelopes)
	}
}

// TestAppendDiskFull appends while the disk has too little room, and after.
func TestAppendDiskFull(t *testing.T) {
	w := ledgertest.New(t)
	w.Close()
	var room atomic.Uint64
	l, err := ledger.Open(w.Dir(), w.Signer, ledger.WithFree(func(string) (uint64, error) { return room.Load(), nil }))
	if err != nil {
		t.Fatal(err)
	}
	w.Ledger = l
	if _, err := l.Append(context.Background(), batch(claims(t, "a")...)); !errors.Is(err, ledger.ErrDiskFull) {
		t.Errorf("Append on a full disk: %v", err)
	}
	if l.Size() != 1 {
		t.Errorf("size %d, want 1", l.Size())
	}
	room.Store(1 << 40)
	if r := mustAppend(t, l, batch(claims(t, "a")...)); r.Size != 2 {
		t.Errorf("size %d once there is room, want 2", r.Size)
	}
}

func TestAppendContext(t *testing.T) {
	w := ledgertest.New(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := w.Append(ctx, batch(claims(t, "a")...)); !errors.Is(err, context.Canceled) {
		t.Errorf("Append with an ended context: %v", err)
	}
	if w.Size() != 1 {
		t.Errorf("size %d, want 1", w.Size())
	}
}

func TestWait(t *testing.T) {
	w := ledgertest.New(t)
	if err := w.Wait(context.Background(), 1); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := w.Wait(ctx, 2); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait with an ended context: %v", err)
	}
	waited := make(chan error, 2)
	go func() { waited <- w.Wait(context.Background(), 2) }()
	mustAppend(t, w.Ledger, batch(claims(t, "a")...))
	if err := <-waited; err != nil {
		t.Error(err)
	}
	go func() { waited <- w.Wait(context.Background(), 3) }()
	w.Close()
	if err := <-waited; !errors.Is(err, ledger.ErrClosed) {
		t.Errorf("Wait while the ledger closes: %v", err)
	}
}

// reopen closes w's ledger and opens it again.
func reopen(t testing.TB, w *ledgertest.World) {
	t.Helper()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Open(w.Dir(), w.Signer, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.Ledger = l
}
