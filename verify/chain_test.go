package verify_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/retrace-ledger/retrace/keys"
	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/lineage/lineagetest"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// verifierOf is a key of the log that w is.
func verifierOf(t *testing.T, k *keys.Private) note.Verifier {
	t.Helper()
	vkey, err := k.VKey(lineagetest.Origin)
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestRotatedBundle proves after both keys were rotated: it verifies with the
// key of genesis, forward, and with the newest, back.
func TestRotatedBundle(t *testing.T) {
	w := newWorld(t)
	old := w.prove(t, "forecast@2", lineage.LineageOptions{})
	first := w.Verifier()
	at := w.RotateLog(lineagetest.Key(t, 21))
	w.RotateObserver(lineagetest.Key(t, 22))
	w.RotateLog(lineagetest.Key(t, 23))
	w.Add(lineagetest.Model(t, "forecast", "9", "train-2", lineagetest.File("model.json", "model weather until March")))
	w.view = w.View(t)
	b := w.prove(t, "forecast@9", lineage.LineageOptions{})
	for name, v := range map[string]note.Verifier{"genesis": first, "middle": verifierOf(t, lineagetest.Key(t, 21)), "newest": w.Verifier()} {
		got, err := b.Verify(t.Context(), v, nil)
		if err != nil {
			t.Errorf("with the key of %s: %v", name, err)
			continue
		}
		if got.Observer != lineagetest.Key(t, 22).ID() || !says(got.Proven, "both signed it") || says(got.NotProven, "still to be trusted") != (name != "newest") {
			t.Errorf("with the key of %s: %+v", name, got)
		}
	}
	if _, err := old.Verify(t.Context(), first, nil); err != nil {
		t.Errorf("a bundle from before the rotation, with the key of then: %v", err)
	}
	_, err := old.Verify(t.Context(), w.Verifier(), nil)
	checkError(t, err, true, "carries no signature of that key")
	_, err = b.Verify(t.Context(), verifierOf(t, lineagetest.Key(t, 99)), nil)
	checkError(t, err, true, "is a key of this log")
	without := *b
	without.Entries = nil
	for _, e := range b.Entries {
		if e.Index != at {
			without.Entries = append(without.Entries, e)
		}
	}
	if _, err := without.Verify(t.Context(), first, nil); err == nil {
		t.Error("a bundle without a rotation verifies with the key before it")
	}
}

// TestThiefSigns: somebody who has the old log key signs a larger tree with
// it. Where the bundle holds the rotation, the old key is no longer good.
func TestThiefSigns(t *testing.T) {
	w := newWorld(t)
	thief := w.Key()
	first := w.Verifier()
	w.RotateLog(lineagetest.Key(t, 21))
	w.Add(lineagetest.Model(t, "forecast", "9", "train-2", lineagetest.File("model.json", "model weather until March")))
	w.view = w.View(t)
	b := w.prove(t, "forecast@9", lineage.LineageOptions{})
	text, _, _ := strings.Cut(b.Checkpoint, "\n\n")
	signer, err := thief.NoteSigner(lineagetest.Origin)
	if err != nil {
		t.Fatal(err)
	}
	forged, err := note.Sign(&note.Note{Text: text + "\n"}, signer)
	if err != nil {
		t.Fatal(err)
	}
	b.Checkpoint = string(forged)
	_, err = b.Verify(t.Context(), first, nil)
	checkError(t, err, true, "carries no signature of that key")
	_, err = b.Verify(t.Context(), w.Verifier(), nil)
	checkError(t, err, true, "carries no signature of that key")
}

// TestUnlawfulRotation puts rotations into the log that a ledger would not
// record: each is refused, or changes nothing.
func TestUnlawfulRotation(t *testing.T) {
	next, other := lineagetest.Key(t, 31), lineagetest.Key(t, 32)
	for name, tt := range map[string]struct {
		role   string
		by     func(w *world) []*keys.Private
		change func(*schema.Trust)
		want   string // "" if it changes nothing
	}{
		"log, not by the old key":      {schema.RoleLog, func(w *world) []*keys.Private { return []*keys.Private{w.Observer, next} }, nil, "the key that it replaces"},
		"log, not by the new key":      {schema.RoleLog, func(w *world) []*keys.Private { return []*keys.Private{w.Observer, w.Key()} }, nil, "the new key"},
		"log, by another key":          {schema.RoleLog, func(w *world) []*keys.Private { return []*keys.Private{w.Observer, next, other} }, nil, "the key that it replaces"},
		"log, not by the observer":     {schema.RoleLog, func(w *world) []*keys.Private { return []*keys.Private{w.Key(), next} }, nil, ""},
		"observer, not by the old key": {schema.RoleObserver, func(w *world) []*keys.Private { return []*keys.Private{next, other} }, nil, ""},
		"observer, not by the new key": {schema.RoleObserver, func(w *world) []*keys.Private { return []*keys.Private{w.Observer, other} }, nil, "the new key"},
		"another key is in force":      {schema.RoleLog, func(w *world) []*keys.Private { return []*keys.Private{w.Observer, w.Key(), next} }, func(p *schema.Trust) { p.Replaces = other.ID() }, "is in force"},
		"at another time":              {schema.RoleLog, func(w *world) []*keys.Private { return []*keys.Private{w.Observer, w.Key(), next} }, func(p *schema.Trust) { p.NotBefore = lineagetest.Epoch }, "was recorded at"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			first := w.Verifier()
			at := w.AddRotation(tt.role, next, tt.change, tt.by(w)...)
			if w.Observer == next {
				t.Fatal("the test's own log rotated")
			}
			w.view = w.View(t)
			b := w.prove(t, "forecast@2", lineage.LineageOptions{})
			b = withEntry(t, w, b, at)
			v, err := b.Verify(t.Context(), first, nil)
			if tt.want != "" {
				checkError(t, err, true, tt.want)
				return
			}
			if err != nil || v.Observer != w.Observer.ID() {
				t.Errorf("verdict %+v, %v; want the keys as they were", v, err)
			}
		})
	}
}

// withEntry is b with one more entry of w.
func withEntry(t *testing.T, w *world, b *verify.Bundle, index int64) *verify.Bundle {
	t.Helper()
	entries := []int64{index}
	for _, e := range b.Entries {
		entries = append(entries, e.Index)
	}
	more, err := verify.Build(t.Context(), w.Log, b.Claim, entries...)
	if err != nil {
		t.Fatal(err)
	}
	return more
}

// TestGradesAfterRotation: the old observer's signature counts on what was
// recorded before the rotation, the new one's on what came after.
func TestGradesAfterRotation(t *testing.T) {
	w := newWorld(t)
	old := w.Observer
	before := w.Add(lineagetest.Model(t, "other", "1", "", lineagetest.File("a", "a")))
	rotation := w.RotateObserver(lineagetest.Key(t, 22))
	stale := w.AddBy(old, lineagetest.Model(t, "other", "2", "", lineagetest.File("b", "b")))
	after := w.Add(lineagetest.Model(t, "other", "3", "", lineagetest.File("c", "c")))
	v := w.View(t)
	for entry, want := range map[int64]schema.Evidence{before: schema.Observed, rotation: schema.Observed, stale: schema.Claimed, after: schema.Observed} {
		if got, err := v.Grade(t.Context(), entry); err != nil || got.Evidence != want {
			t.Errorf("entry %d: %s, %v, want %s", entry, got, err, want)
		}
		trust, err := v.TrustFor(entry)
		if err != nil {
			t.Fatal(err)
		}
		b, err := verify.Build(t.Context(), w.Log, verify.Claim{Ref: "", Entry: entry, Size: v.Size()}, trust...)
		if err != nil {
			t.Fatal(err)
		}
		verdict, err := b.Verify(t.Context(), w.Verifier(), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range verdict.Entries {
			if e.Index == entry && e.Evidence != want {
				t.Errorf("entry %d verifies as %s, want %s", entry, e.Evidence, want)
			}
		}
	}
}

// TestGivenKeyIsUsed: a bundle whose genesis names a key with the name and hash
// of the verifier's, and is not that key, proves nothing to the verifier.
func TestGivenKeyIsUsed(t *testing.T) {
	w := newWorld(t)
	w.RotateLog(lineagetest.Key(t, 21))
	w.view = w.View(t)
	b := w.prove(t, "forecast@2", lineage.LineageOptions{})
	first := verifierOf(t, lineagetest.Key(t, 2))
	_, err := b.Verify(t.Context(), collision{first, verifierOf(t, lineagetest.Key(t, 50))}, nil)
	checkError(t, err, true, "did not sign it")
}

// collision is the key real under the name and hash of another.
type collision struct {
	note.Verifier
	real note.Verifier
}

func (c collision) Verify(msg, sig []byte) bool { return c.real.Verify(msg, sig) }

// FuzzChain: no entry panics, and the keys change only by one that both sign.
func FuzzChain(f *testing.F) {
	log := lineagetest.New(f)
	log.RotateLog(lineagetest.Key(f, 21))
	for i := range log.Size() {
		e, err := log.Entry(f.Context(), i)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(base64.StdEncoding.EncodeToString(e.Body))
	}
	genesis, err := log.Entry(f.Context(), 0)
	if err != nil {
		f.Fatal(err)
	}
	s, err := genesis.Envelope.Statement()
	if err != nil {
		f.Fatal(err)
	}
	var g schema.Genesis
	if err := schema.DecodePredicate(s, true, &g); err != nil {
		f.Fatal(err)
	}
	chain, err := verify.NewChain(g)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		raw, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return
		}
		e, err := schema.ParseEntry(1, raw)
		if err != nil {
			return
		}
		longer, err := chain.Follow(e)
		if err != nil || longer == chain {
			return
		}
		logs := longer.Logs()
		if last := logs[len(logs)-1]; last.ID != lineagetest.Key(t, 21).ID() {
			t.Errorf("an entry made %s the log key", last.ID)
		}
	})
}
