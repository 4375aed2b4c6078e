package ledger_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/retrace-ledger/retrace/keys"
	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/ledger/ledgertest"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// rotateLog rotates the log key of w and opens the ledger again. It returns the
// verifier of the old key.
func rotateLog(t *testing.T, w *ledgertest.World) note.Verifier {
	t.Helper()
	old := w.Verifier
	next := newKey(t)
	r, err := w.Rotate(t.Context(), ledger.Rotation{Role: schema.RoleLog, Old: w.Log, New: next, Observer: w.Observer})
	if err != nil {
		t.Fatal(err)
	}
	signer, err := next.NoteSigner(ledgertest.Origin)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []note.Verifier{old, signer.(note.Verifier)} {
		if cp, err := verify.OpenCheckpoint(r.Checkpoint, v); err != nil || cp.Size != r.Size {
			t.Errorf("the checkpoint over the rotation, by %08x: %v", v.KeyHash(), err)
		}
	}
	w.Log, w.Signer, w.Verifier = next, signer, signer.(note.Verifier)
	openAgain(t, w)
	return old
}

func rotateObserver(t *testing.T, w *ledgertest.World) *keys.Private {
	t.Helper()
	old, next := w.Observer, newKey(t)
	if _, err := w.Rotate(t.Context(), ledger.Rotation{Role: schema.RoleObserver, Old: old, New: next, Observer: old}); err != nil {
		t.Fatal(err)
	}
	w.Observer = next
	openAgain(t, w)
	return old
}

func openAgain(t *testing.T, w *ledgertest.World) {
	t.Helper()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var err error
	if w.Ledger, err = ledger.Open(w.Dir(), w.Signer, nil); err != nil {
		t.Fatal(err)
	}
}

func newKey(t *testing.T) *keys.Private {
	t.Helper()
	k, err := keys.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func appendOne(t *testing.T, w *ledgertest.World, by *keys.Private, text string) (schema.Receipt, error) {
	t.Helper()
	s, err := schema.NewStatement("https://example.com/x", map[string]string{"text": text}, ledgertest.Subject(text))
	if err != nil {
		t.Fatal(err)
	}
	env, err := by.SignStatement(s)
	if err != nil {
		t.Fatal(err)
	}
	return w.Append(t.Context(), schema.Batch{Source: "test", Envelopes: []schema.Envelope{env}})
}

// TestRotate rotates both keys, in turn and again: the ledger opens with the
// key in force alone, reads for whoever holds any of them, and knows its own
// statements whichever observer signed them.
func TestRotate(t *testing.T) {
	w := ledgertest.New(t)
	if _, err := appendOne(t, w, w.Observer, "first"); err != nil {
		t.Fatal(err)
	}
	firstSigner := w.Signer
	first := rotateLog(t, w)
	oldObserver := rotateObserver(t, w)
	second := rotateLog(t, w)
	r, err := appendOne(t, w, w.Observer, "second")
	if err != nil || r.Size != 6 {
		t.Fatalf("size %d, %v; want 6", r.Size, err)
	}
	if _, err := verify.OpenCheckpoint(r.Checkpoint, second); err == nil {
		t.Error("the old key signs a checkpoint after its rotation")
	}
	again, err := appendOne(t, w, w.Observer, "first")
	if err != nil || !again.Entries[0].Duplicate || again.Entries[0].Index != 1 {
		t.Errorf("what the observer before observed, observed again: %+v, %v", again, err)
	}
	var field *schema.FieldError
	if _, err := appendOne(t, w, oldObserver, "third"); !errors.As(err, &field) || !strings.Contains(err.Error(), "which entry 3 replaced by "+w.Observer.ID()) {
		t.Errorf("an entry by the old observer: %v", err)
	}
	if _, err := w.Rotate(t.Context(), ledger.Rotation{Role: schema.RoleObserver, Old: w.Observer, New: oldObserver, Observer: w.Observer}); err == nil || !strings.Contains(err.Error(), "used before") {
		t.Errorf("rotating back: %v", err)
	}
	if _, err := w.Rotate(t.Context(), ledger.Rotation{Role: schema.RoleObserver, Old: oldObserver, New: newKey(t), Observer: w.Observer}); err == nil {
		t.Error("a key that is not in force was rotated")
	}
	logs, observers := w.Keys()
	if len(logs) != 3 || len(observers) != 2 || logs[2].Entry != 4 || observers[1].Entry != 3 || w.Observer.ID() != observers[1].ID {
		t.Errorf("keys %+v, %+v", logs, observers)
	}
	dir := w.Dir()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := ledger.Open(dir, firstSigner, nil); !errors.Is(err, ledger.ErrRotated) {
		t.Errorf("opening with the first key: %v", err)
	}
	for _, v := range []note.Verifier{first, second, w.Verifier} {
		l, err := ledger.OpenReadOnly(dir, v, nil)
		if err != nil {
			t.Errorf("reading with %08x: %v", v.KeyHash(), err)
			continue
		}
		if l.Size() != 6 || l.Observer() != w.Observer.ID() {
			t.Errorf("size %d, observer %s", l.Size(), l.Observer())
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		ledgertest.Check(t, dir, v)
	}
	stranger, err := newKey(t).NoteSigner(ledgertest.Origin)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ledger.OpenReadOnly(dir, stranger.(note.Verifier), nil); err == nil || errors.Is(err, ledger.ErrRotated) {
		t.Errorf("reading with a stranger's key: %v", err)
	}
}

// TestRotateRefusesWhatWaits: a rotation is the last thing that an opening
// records, and times alone tell its entry from those before it.
func TestRotateRefusesWhatWaits(t *testing.T) {
	w := ledgertest.New(t)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	still := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var err error
	if w.Ledger, err = ledger.Open(w.Dir(), w.Signer, &ledger.Options{Now: func() time.Time { return still }}); err != nil {
		t.Fatal(err)
	}
	if _, err := appendOne(t, w, w.Observer, "before"); err != nil {
		t.Fatal(err)
	}
	old, next := w.Observer, newKey(t)
	if _, err := w.Rotate(t.Context(), ledger.Rotation{Role: schema.RoleObserver, Old: old, New: next, Observer: old, Reason: "to see"}); err != nil {
		t.Fatal(err)
	}
	if _, err := appendOne(t, w, old, "after"); !errors.Is(err, ledger.ErrRotated) || errors.Is(err, ledger.ErrStopped) {
		t.Errorf("appending after the rotation: %v", err)
	}
	w.Observer = next
	openAgain(t, w)
	before, err := w.Entry(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	rotation, err := w.Entry(t.Context(), 2)
	if err != nil {
		t.Fatal(err)
	}
	if !rotation.Header.RecordedAt.After(before.Header.RecordedAt) {
		t.Errorf("recorded at %s, and the entry before at %s", rotation.Header.RecordedAt, before.Header.RecordedAt)
	}
	if len(rotation.Envelope.Signatures) != 2 || !verify.IsRotation(rotation.Envelope) {
		t.Errorf("entry 2 is %s", rotation.Envelope.Raw)
	}
	if _, err := w.Append(t.Context(), schema.Batch{Source: "test", Envelopes: []schema.Envelope{rotation.Envelope}}); !errors.As(err, new(*schema.FieldError)) {
		t.Errorf("appending a rotation: %v", err)
	}
}

// TestRotateSteps fails a rotation at each step, before and after the step was
// taken: the ledger opens with the old key or the new one, and holds what was
// signed.
func TestRotateSteps(t *testing.T) {
	for _, step := range ledger.Steps {
		t.Run(step, func(t *testing.T) {
			w := ledgertest.New(t)
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			broken := errors.New("broken")
			var err error
			w.Ledger, err = ledger.Open(w.Dir(), w.Signer, ledger.WithStep(func(at string) error {
				if at == step {
					return broken
				}
				return nil
			}))
			if err != nil {
				t.Fatal(err)
			}
			next := newKey(t)
			_, err = w.Rotate(t.Context(), ledger.Rotation{Role: schema.RoleLog, Old: w.Log, New: next, Observer: w.Observer})
			if !errors.Is(err, ledger.ErrStopped) || !errors.Is(err, broken) {
				t.Fatalf("Rotate = %v", err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			recorded := slices.Index(ledger.Steps, step) >= slices.Index(ledger.Steps, ledger.StepCommitted)
			l, err := ledger.Open(w.Dir(), w.Signer, nil) // finishes the commit
			if recorded != errors.Is(err, ledger.ErrRotated) {
				t.Fatalf("opening with the old key: %v", err)
			}
			if recorded {
				w.Log = next
				if w.Signer, err = next.NoteSigner(ledgertest.Origin); err != nil {
					t.Fatal(err)
				}
				w.Verifier = w.Signer.(note.Verifier)
				l, err = ledger.Open(w.Dir(), w.Signer, nil)
			}
			if err != nil {
				t.Fatal(err)
			}
			w.Ledger = l
			if _, err := appendOne(t, w, w.Observer, "after"); err != nil {
				t.Error(err)
			}
		})
	}
}
