package ledgertest

import (
	"context"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/retrace-ledger/retrace/keys"
	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/schema"
)

// World is a ledger and the keys it was made with.
type World struct {
	*ledger.Ledger
	Observer *keys.Private
	Log      *keys.Private
	Signer   note.Signer // the log key under the ledger's origin
	Verifier note.Verifier
}

// Origin is the origin of every ledger made here.
const Origin = "retrace.example/test"

// New makes a ledger in a directory of the test and opens it. When the test
// ends the ledger is closed and Fsck must find nothing.
func New(t testing.TB) *World {
	t.Helper()
	return NewIn(t, t.TempDir())
}

// NewIn is New in a given directory.
func NewIn(t testing.TB, dir string) *World {
	t.Helper()
	w := NewKeys(t)
	if err := ledger.Create(dir, w.Signer, w.Genesis(t)); err != nil {
		t.Fatal(err)
	}
	var err error
	if w.Ledger, err = ledger.Open(dir, w.Signer, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.check(t) })
	return w
}

// NewKeys makes keys without a ledger.
func NewKeys(t testing.TB) *World {
	t.Helper()
	w := &World{Observer: generate(t), Log: generate(t)}
	var err error
	if w.Signer, err = w.Log.NoteSigner(Origin); err != nil {
		t.Fatal(err)
	}
	vkey, err := w.Log.VKey(Origin)
	if err != nil {
		t.Fatal(err)
	}
	if w.Verifier, err = note.NewVerifier(vkey); err != nil {
		t.Fatal(err)
	}
	return w
}

func generate(t testing.TB) *keys.Private {
	t.Helper()
	k, err := keys.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Genesis is the signed genesis statement of a ledger with w's keys.
func (w *World) Genesis(t testing.TB) schema.Envelope {
	t.Helper()
	vkey, err := w.Log.VKey(Origin)
	if err != nil {
		t.Fatal(err)
	}
	observer, err := w.Observer.PublicPEM()
	if err != nil {
		t.Fatal(err)
	}
	return w.Sign(t, schema.GenesisV1, schema.Genesis{Format: 1, Origin: Origin, LogKey: vkey, ObserverKey: observer}, Subject(vkey))
}

// Sign makes a statement and signs it with the observer key.
func (w *World) Sign(t testing.TB, predicateType string, predicate any, subjects ...schema.Descriptor) schema.Envelope {
	t.Helper()
	s, err := schema.NewStatement(predicateType, predicate, subjects...)
	if err != nil {
		t.Fatal(err)
	}
	env, err := w.Observer.SignStatement(s)
	if err != nil {
		t.Fatal(err)
	}
	return env
}

// Subject is a descriptor of something with the given content.
func Subject(content string) schema.Descriptor {
	key := schema.BytesKey([]byte(content))
	return schema.Descriptor{Digest: schema.DigestSet{key.Algorithm(): key.Hex()}}
}

// Claim is an unsigned envelope that states text about itself. Different texts
// give different envelopes.
func Claim(t testing.TB, text string) schema.Envelope {
	t.Helper()
	s, err := schema.NewStatement("https://example.com/claim/v1", map[string]string{"text": text}, Subject(text))
	if err != nil {
		t.Fatal(err)
	}
	payload, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	env, err := schema.NewEnvelope(schema.PayloadType, payload)
	if err != nil {
		t.Fatal(err)
	}
	return env
}

// check closes the ledger and lets Fsck read it.
func (w *World) check(t testing.TB) {
	if err := w.Close(); err != nil {
		t.Errorf("closing the ledger: %v", err)
	}
	Check(t, w.Dir(), w.Verifier)
}

// Check fails the test for each fault that Fsck finds in dir.
func Check(t testing.TB, dir string, key note.Verifier) {
	t.Helper()
	for f, err := range ledger.Fsck(context.Background(), dir, key, nil) {
		if err != nil {
			t.Errorf("fsck of %s: %v", dir, err)
			return
		}
		t.Errorf("fsck of %s: %s: %s", dir, f.Where, f.Problem)
	}
}
