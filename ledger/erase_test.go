package ledger_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/ledger/ledgertest"
	"github.com/retrace-ledger/retrace/schema"
)

// hasBody says whether the entry at index has its body.
func hasBody(t testing.TB, l *ledger.Ledger, index int64) bool {
	t.Helper()
	e, err := l.Entry(context.Background(), index)
	if err != nil {
		t.Fatal(err)
	}
	if (e.State == schema.Present) != (len(e.Body) > 0) || e.State == schema.Withheld {
		t.Fatalf("entry %d is %s and has a body of %d bytes", index, e.State, len(e.Body))
	}
	return e.State == schema.Present
}

func TestErase(t *testing.T) {
	w := ledgertest.New(t)
	ctx := context.Background()
	before := mustAppend(t, w.Ledger, schema.Batch{Namespace: "team", Envelopes: claims(t, "a", "b", "c")})
	was := commitments(t, w.Ledger)
	r := w.MustErase(t, 2)
	if r.Size != 5 || r.Entries[0].Index != 4 || r.Entries[0].Duplicate {
		t.Errorf("receipt: %+v; want entry 4 of 5", r)
	}
	extends(t, w, w.Ledger, before.Checkpoint, r.Checkpoint)
	for range 2 {
		for index, want := range map[int64]bool{1: true, 2: false, 3: true, 4: true} {
			if got := hasBody(t, w.Ledger, index); got != want {
				t.Errorf("entry %d has its body: %v, want %v", index, got, want)
			}
		}
		if diff := cmp.Diff(was, commitments(t, w.Ledger)[:4]); diff != "" {
			t.Errorf("commitments changed: %s", diff)
		}
		p, err := w.Proof(ctx, 2)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Verify(was[2], w.Verifier); err != nil {
			t.Errorf("the proof of an erased entry: %v", err)
		}
		ledgertest.Check(t, keep(t, w), w.Verifier) // opens it again, too
	}
	word, err := w.Entry(ctx, 4)
	if err != nil || word.Header.Namespace != "team" || word.Header.Source != "erase" {
		t.Errorf("the erasure's header is %+v (%v); want the namespace of what it erased", word.Header, err)
	}
	again := mustAppend(t, w.Ledger, schema.Batch{Namespace: "team", Envelopes: claims(t, "b", "d")})
	if diff := cmp.Diff([]string{"2 again", "5"}, indexes(again)); diff != "" {
		t.Errorf("recorded again after it was erased: %s", diff)
	}
}

func TestEraseRefuses(t *testing.T) {
	w := ledgertest.New(t)
	key, err := w.Observer.PublicPEM()
	if err != nil {
		t.Fatal(err)
	}
	trust := schema.Trust{Action: "trust", KeyID: w.Observer.ID(), Key: key, Name: "x"}
	mustAppend(t, w.Ledger, batch(ledgertest.Claim(t, "a"), w.Sign(t, schema.TrustV1, trust, ledgertest.Subject(key)), ledgertest.Claim(t, "b")))
	w.MustErase(t, 3)
	stranger := ledgertest.NewKeys(t)
	stranger.Ledger = w.Ledger
	about := func(index int64, subject string) schema.Envelope {
		return w.Sign(t, schema.ErasureV1, schema.Erasure{Index: index, Reason: "x"}, ledgertest.Subject(subject))
	}
	var kept *ledger.KeepError
	var gone *ledger.ErasedError
	var field *schema.FieldError
	for _, c := range []struct {
		name  string
		index int64
		env   schema.Envelope
		as    any
		want  string
	}{
		{"genesis", 0, w.Erasure(t, 0+1), &kept, "entry 0 cannot be erased: it is the genesis"},
		{"trust", 2, w.Erasure(t, 2), &kept, "entry 2 cannot be erased: it decides whose signatures count"},
		{"erasure", 4, w.Erasure(t, 4), &kept, "entry 4 cannot be erased: it says why another entry has no body"},
		{"twice", 3, w.Erasure(t, 3), &gone, "entry 3 was erased already, by entry 4"},
		{"nothing there", 99, w.Erasure(t, 1), nil, "entry 99 of a ledger of 5: no such entry"},
		{"negative", -1, w.Erasure(t, 1), &kept, "entry -1 cannot be erased"},
		{"another's key", 1, stranger.Erasure(t, 1), &field, "is not an erasure signed by the observer key"},
		{"unsigned", 1, ledgertest.Claim(t, "z"), &field, "is not an erasure signed by the observer key"},
		{"of another entry", 1, w.Erasure(t, 2), &field, "predicate.index: is 2, and the entry to erase is 1"},
		{"about something else", 1, about(1, "other"), &field, "subject: is not the leaf commitment of the entry, sha256:"},
	} {
		_, err := w.Erase(context.Background(), c.index, c.env)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if c.as != nil && !errors.As(err, c.as) {
			t.Errorf("%s: %v is not a %T", c.name, err, c.as)
		}
	}
	if _, err := w.Append(context.Background(), batch(w.Erasure(t, 1))); err == nil || !strings.Contains(err.Error(), "recorded by `retrace erase` alone") {
		t.Errorf("appending an erasure: %v", err)
	}
	if w.Size() != 5 || !hasBody(t, w.Ledger, 1) {
		t.Errorf("size %d and body %v after refusals", w.Size(), hasBody(t, w.Ledger, 1))
	}
	// What others say is recorded and removes nothing.
	r := mustAppend(t, w.Ledger, batch(stranger.Erasure(t, 1)))
	if !hasBody(t, w.Ledger, 1) {
		t.Error("a stranger's erasure removed a body")
	}
	w.MustErase(t, r.Entries[0].Index)
}

// TestEraseAtOnce erases the same and neighbouring entries from many callers,
// while others append.
func TestEraseAtOnce(t *testing.T) {
	w := filled(t, 100, 100)
	ctx := context.Background()
	var done, refused atomic.Int64
	var group sync.WaitGroup
	for n := range 60 {
		index := int64(1 + n/2) // each twice, all in one segment
		env := w.Erasure(t, index)
		group.Go(func() {
			_, err := w.Erase(ctx, index, env)
			var gone *ledger.ErasedError
			switch {
			case err == nil:
				done.Add(1)
			case errors.As(err, &gone):
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
		group.Go(func() {
			if _, err := w.Append(ctx, batch(ledgertest.Claim(t, fmt.Sprint("new ", n)))); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if done.Load() != 30 || refused.Load() != 30 || w.Size() != 100+60+30 {
		t.Errorf("%d erased, %d refused, size %d; want 30, 30 and 190", done.Load(), refused.Load(), w.Size())
	}
	for index := range int64(100) {
		if got, want := hasBody(t, w.Ledger, index), index == 0 || index > 30; got != want {
			t.Errorf("entry %d has its body: %v, want %v", index, got, want)
		}
	}
}

// TestEraseSteps copies the ledger between any two steps of the commit of an
// erasure: in each copy the body is there and nothing says otherwise, or it is
// gone and an entry says so.
func TestEraseSteps(t *testing.T) {
	w := filled(t, 255, 250)
	w.Close()
	type copied struct{ step, dir string }
	var copies []copied
	var armed atomic.Bool
	l, err := ledger.Open(w.Dir(), w.Signer, ledger.WithStep(func(step string) error {
		if armed.Load() {
			copies = append(copies, copied{step, ledgertest.Copy(t, w.Dir())})
		}
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	w.Ledger = l
	env := w.Erasure(t, 100)
	armed.Store(true)
	r, err := l.Erase(t.Context(), 100, env) // fills a tile
	armed.Store(false)
	if err != nil {
		t.Fatal(err)
	}
	if len(copies) != len(ledger.Steps) {
		t.Fatalf("a commit has %d steps, want %d", len(copies), len(ledger.Steps))
	}
	for _, c := range copies {
		erased := c.step == ledger.StepCommitted || c.step == ledger.StepSigned
		eitherWay(t, w, c.dir, erased, r)
	}
}

// eitherWay opens a ledger of 255 entries whose entry 100 was to be erased.
func eitherWay(t *testing.T, w *ledgertest.World, dir string, erased bool, r schema.Receipt) {
	t.Helper()
	l, err := ledger.Open(dir, w.Signer, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := int64(255)
	if erased {
		want++
	}
	if l.Size() != want || hasBody(t, l, 100) == erased {
		t.Errorf("erased %v: size %d, body %v", erased, l.Size(), hasBody(t, l, 100))
	}
	if erased && string(l.Checkpoint()) != string(r.Checkpoint) {
		t.Error("the erasure was finished under another checkpoint")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	ledgertest.Check(t, dir, w.Verifier)
}

// TestEraseFailedSteps lets each step of the commit fail.
func TestEraseFailedSteps(t *testing.T) {
	for _, step := range ledger.Steps {
		t.Run(step, func(t *testing.T) {
			w := filled(t, 255, 250)
			w.Close()
			broken := errors.New("the disk is gone")
			l, err := ledger.Open(w.Dir(), w.Signer, ledger.WithStep(func(at string) error {
				if at == step {
					return broken
				}
				return nil
			}))
			if err != nil {
				t.Fatal(err)
			}
			w.Ledger = l
			if _, err := w.Erase(t.Context(), 100, w.Erasure(t, 100)); !errors.Is(err, ledger.ErrStopped) || !errors.Is(err, broken) {
				t.Errorf("Erase: %v", err)
			}
			reopen(t, w)
			erased := step == ledger.StepCommitted || step == ledger.StepSigned
			if got := !hasBody(t, w.Ledger, 100); got != erased || (w.Size() == 256) != erased {
				t.Errorf("erased %v at size %d, want %v", got, w.Size(), erased)
			}
			if !erased {
				w.MustErase(t, 100)
			}
		})
	}
}

// TestErasedWithoutWord makes bodies and the word that they are gone disagree:
// that is damage, and never an erasure.
func TestErasedWithoutWord(t *testing.T) {
	w := filled(t, 20, 5)
	w.MustErase(t, 7)
	dir := keep(t, w)
	erased := binary.BigEndian.AppendUint64([]byte("x/"), 7)
	hole := func(value []byte, n int) []byte {
		commitments, bodies, err := ledger.Records(value)
		if err != nil {
			t.Fatal(err)
		}
		var out []byte
		for i := range bodies {
			out = append(out, commitments[i][:]...)
			if i == n {
				bodies[i] = nil
			}
			out = binary.BigEndian.AppendUint32(out, uint32(len(bodies[i])))
			out = append(out, bodies[i]...)
		}
		return out
	}
	segmentAt := func(first int64) []byte { return binary.BigEndian.AppendUint64([]byte("b/"), uint64(first)) }
	for _, c := range []struct {
		name   string
		change func(key, value []byte) []byte
		index  int64 // that cannot be read
		want   string
	}{
		{"no word", func(key, value []byte) []byte {
			if bytes.Equal(key, erased) {
				return nil
			}
			return value
		}, 7, "entry 7: its body is missing, and no entry says that it was erased"},
		{"a body lost", func(key, value []byte) []byte {
			if bytes.Equal(key, segmentAt(11)) {
				return hole(value, 1)
			}
			return value
		}, 12, "entry 12: its body is missing, and no entry says that it was erased"},
		{"an earlier word", func(key, value []byte) []byte {
			if bytes.Equal(key, erased) {
				return binary.BigEndian.AppendUint64(nil, 6)
			}
			return value
		}, 7, "entry 7: its body is missing, and what erased it cannot be read: entry 6 cannot have erased it"},
		{"another word", func(key, value []byte) []byte {
			if bytes.Equal(key, erased) {
				return binary.BigEndian.AppendUint64(nil, 9)
			}
			return value
		}, -1, "entry 7: entry 20 says that it erased it, and the store says that entry 9 did"},
		{"the word lost", func(key, value []byte) []byte {
			if bytes.Equal(key, segmentAt(20)) {
				return hole(value, 0)
			}
			return value
		}, 20, "entry 7: its body is missing; the store says that entry 20 erased it, and that one does not say so"},
	} {
		changed := rebuild(t, dir, c.change)
		if got := findings(t, changed, w); !strings.Contains(strings.Join(got, "\n"), c.want) {
			t.Errorf("%s: Fsck finds %q, want %q", c.name, got, c.want)
		}
		if c.index < 0 {
			continue
		}
		l, err := ledger.OpenReadOnly(changed, w.Verifier, nil)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		var d *ledger.DamageError
		if _, err := l.Entry(t.Context(), c.index); !errors.As(err, &d) {
			t.Errorf("%s: reading entry %d: %v", c.name, c.index, err)
		}
		l.Close()
	}
}

// TestErasureOfAPresentBody finds an entry that says that another is erased
// which is not.
func TestErasureOfAPresentBody(t *testing.T) {
	w := filled(t, 20, 5)
	before := keep(t, w)
	w.MustErase(t, 7)
	after := keep(t, w)
	var body []byte
	rebuild(t, before, func(key, value []byte) []byte {
		if bytes.Equal(key, []byte("b/\x00\x00\x00\x00\x00\x00\x00\x06")) {
			body = value
		}
		return value
	})
	changed := rebuild(t, after, func(key, value []byte) []byte {
		if bytes.Equal(key, []byte("b/\x00\x00\x00\x00\x00\x00\x00\x06")) {
			return body
		}
		return value
	})
	got := strings.Join(findings(t, changed, w), "\n")
	for _, want := range []string{
		"entry 20: it says that entry 7 is erased, and that one has its body",
		"entry 7: the store calls it erased, and it has its body",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("Fsck finds %s, want %q", got, want)
		}
	}
}

func TestPurge(t *testing.T) {
	w := ledgertest.New(t)
	// One body of each size that the engine treats differently.
	small, large := ledgertest.Claim(t, "a small body"), ledgertest.Claim(t, strings.Repeat("a large body ", 8000))
	mustAppend(t, w.Ledger, batch(ledgertest.Claim(t, "a"), small, ledgertest.Claim(t, "b")))
	mustAppend(t, w.Ledger, batch(large))
	fill(t, w, 300, 100)
	before := w.Checkpoint()
	w.MustErase(t, 2)
	w.MustErase(t, 4)
	want := commitments(t, w.Ledger)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if !holds(t, w.Dir(), small) || !holds(t, w.Dir(), large) {
		t.Error("erasing alone left nothing on the disk, so that this test tests nothing")
	}
	var last ledger.Progress
	if err := ledger.Purge(t.Context(), w.Dir(), w.Signer, func(p ledger.Progress) { last = p }); err != nil {
		t.Fatal(err)
	}
	if last != (ledger.Progress{Done: 302, Total: 302}) {
		t.Errorf("it reported %+v at its end", last)
	}
	for _, env := range []schema.Envelope{small, large} {
		if holds(t, w.Dir(), env) {
			t.Errorf("%.40q… is in a file of the ledger after a purge", env.Payload)
		}
	}
	ledgertest.Check(t, w.Dir(), w.Verifier)
	l, err := ledger.Open(w.Dir(), w.Signer, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.Ledger = l
	if diff := cmp.Diff(want, commitments(t, l)); diff != "" {
		t.Errorf("commitments: %s", diff)
	}
	extends(t, w, l, before, l.Checkpoint())
	if diff := cmp.Diff([]string{"1 again", "2 again", "302"}, indexes(mustAppend(t, l, batch(ledgertest.Claim(t, "a"), small, ledgertest.Claim(t, "new"))))); diff != "" {
		t.Errorf("appending after a purge: %s", diff)
	}
}

// holds says whether a file below dir has the payload of env, whole or in part.
func holds(t *testing.T, dir string, env schema.Envelope) bool {
	t.Helper()
	payload := []byte(base64.StdEncoding.EncodeToString(env.Payload))
	part := payload[len(payload)/2 : min(len(payload)/2+64, len(payload))]
	for _, file := range files(t, dir) {
		raw, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(raw, part) {
			return true
		}
	}
	return false
}

// TestPurgeInterrupted looks at what a purge leaves that ends before or after
// the two stores changed places, or whose disk is full.
func TestPurgeInterrupted(t *testing.T) {
	w := filled(t, 50, 10)
	w.MustErase(t, 7)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := ledger.Purge(ctx, w.Dir(), w.Signer, nil); !errors.Is(err, ledger.ErrLocked) {
		t.Errorf("purging an open ledger: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := ledger.Purge(ctx, w.Dir(), w.Signer, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled purge: %v", err)
	}
	ledgertest.Check(t, w.Dir(), w.Verifier)
	if err := os.CopyFS(filepath.Join(w.Dir(), "store.purge"), os.DirFS(filepath.Join(w.Dir(), "store"))); err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Open(w.Dir(), w.Signer, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.Ledger = l
	if _, err := os.Stat(filepath.Join(w.Dir(), "store.purge")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("opening leaves what an interrupted purge left: %v", err)
	}
}
