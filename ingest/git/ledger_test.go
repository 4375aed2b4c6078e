package git

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/ledger/ledgertest"
	"github.com/retrace-ledger/retrace/schema"
)

// TestIntoLedger reads a repository into a real ledger, closes it, and goes on
// in another process' place. The ledger holds what a log in memory would.
func TestIntoLedger(t *testing.T) {
	dir := newHistory(t)
	memory := watch(t, dir, "")
	w := ledgertest.New(t)
	once := func() ingest.Progress {
		t.Helper()
		memory.once(t)
		src, name, err := Open(t.Context(), ingest.Place{URL: URL(dir)}, ingest.Env{})
		if err != nil {
			t.Fatal(err)
		}
		p, err := ingest.NewRunner(src, name, w.Ledger, w.Observer, &ingest.Options{Submitter: w.Observer.ID(), BatchSize: 3}).Once(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	once()
	if p := once(); p != (ingest.Progress{}) {
		t.Errorf("reading again gives %+v", p)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var err error
	if w.Ledger, err = ledger.Open(w.Dir(), w.Signer, nil); err != nil {
		t.Fatal(err)
	}
	change(t, dir)
	if p := once(); p.Recorded == 0 || p.Duplicates != 0 {
		t.Errorf("after a change and a restart: %+v", p)
	}
	var got []string
	for e, err := range w.Entries(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		s, err := e.Envelope.Statement()
		if err != nil {
			t.Fatal(err)
		}
		if s.PredicateType == schema.CommitV1 || s.PredicateType == schema.RefV1 {
			got = append(got, string(e.Envelope.Payload))
			if e.Header.Source != URL(dir) || e.Header.Namespace != schema.DefaultNamespace || e.Header.Submitter != w.Observer.ID() {
				t.Errorf("entry %d has the header %+v", e.Index, e.Header)
			}
		}
	}
	want, err := memory.log.Payloads(schema.CommitV1, schema.RefV1)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("entries of the ledger (-memory +ledger):\n%s", diff)
	}
}

// TestTwoReadersOfOneLedger lets two runners race: what one read is refused
// whole, and nothing is there twice.
func TestTwoReadersOfOneLedger(t *testing.T) {
	dir := newHistory(t)
	w := ledgertest.New(t)
	read := func() error {
		src, name, err := Open(t.Context(), ingest.Place{URL: URL(dir)}, ingest.Env{})
		if err != nil {
			return err
		}
		_, err = ingest.NewRunner(src, name, w.Ledger, w.Observer, &ingest.Options{BatchSize: 2}).Once(t.Context())
		return err
	}
	errs := make(chan error)
	for range 2 {
		go func() { errs <- read() }()
	}
	for range 2 {
		if err := <-errs; err != nil {
			var conflict *ingest.ConflictError
			if !errors.As(err, &conflict) {
				t.Errorf("a reader that lost ended with %v", err)
			}
		}
	}
	if err := read(); err != nil { // whoever comes next finishes
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for e, err := range w.Entries(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		if seen[string(e.Envelope.Payload)] {
			t.Errorf("entry %d is there twice", e.Index)
		}
		seen[string(e.Envelope.Payload)] = true
	}
	memory := watch(t, dir, "")
	memory.once(t)
	all, err := memory.log.Payloads(schema.CommitV1, schema.RefV1)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if !seen[p] {
			t.Errorf("not in the ledger: %.200s", p)
		}
	}
}
