package ledger_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/ledger/ledgertest"
	"github.com/retrace-ledger/retrace/verify"
)

// faultsOf is what Fsck says of dir.
func faultsOf(t *testing.T, dir string, key note.Verifier) (out []string) {
	t.Helper()
	for f, err := range ledger.Fsck(context.Background(), dir, key, nil) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, filepath.Base(f.Where)+": "+f.Problem)
	}
	return out
}

// TestConfront shows a ledger checkpoints that somebody else holds.
func TestConfront(t *testing.T) {
	ctx := context.Background()
	w := ledgertest.New(t)
	mustAppend(t, w.Ledger, batch(claims(t, "a", "b")...))
	older := w.Checkpoint()
	mustAppend(t, w.Ledger, batch(claims(t, "c")...))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	before := ledgertest.Copy(t, w.Dir())
	branch := ledgertest.Copy(t, w.Dir())
	var err error
	if w.Ledger, err = ledger.Open(w.Dir(), w.Signer, nil); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, w.Ledger, batch(claims(t, "d", "e")...))
	newer := w.Checkpoint()

	for _, held := range [][]byte{older, newer} {
		if err := w.Confront(ctx, held); err != nil {
			t.Errorf("Confront with a checkpoint of this tree: %v", err)
		}
	}
	stranger := ledgertest.NewKeys(t)
	forged, err := note.Sign(&note.Note{Text: strings.Replace(strings.SplitAfter(string(newer), "\n\n")[0], "\n\n", "\n", 1)}, stranger.Signer)
	if err != nil {
		t.Fatal(err)
	}
	var no *verify.FalseError
	if err := w.Confront(ctx, forged); !errors.As(err, &no) {
		t.Errorf("Confront with a checkpoint that another key signed: %v, want a FalseError", err)
	}
	mustAppend(t, w.Ledger, batch(claims(t, "f")...)) // none of it stopped anything

	// The volume of last night, checkpoint file included.
	l, err := ledger.Open(before, w.Signer, nil)
	if err != nil {
		t.Fatalf("opening last night's volume: %v", err)
	}
	var back *ledger.RollbackError
	if err := l.Confront(ctx, newer); !errors.As(err, &back) || string(back.Theirs) != string(newer) {
		t.Errorf("Confront = %v, want a RollbackError with their note", err)
	}
	if _, err := l.Append(ctx, batch(claims(t, "late")...)); !errors.Is(err, ledger.ErrStopped) || !errors.As(err, &back) {
		t.Errorf("Append after Confront: %v, want ErrStopped with the evidence", err)
	}
	if _, err := l.Entry(ctx, 2); err != nil {
		t.Errorf("reading after Confront: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := ledger.Open(before, w.Signer, nil); !errors.As(err, &back) {
		t.Errorf("opening with evidence: %v, want a RollbackError", err)
	}
	if got := faultsOf(t, before, w.Verifier); len(got) != 1 || !strings.HasPrefix(got[0], "evidence: the log key signed size 6, and the store ends at 4") {
		t.Errorf("fsck = %q, want the evidence", got)
	}
	r, err := ledger.OpenReadOnly(before, w.Verifier, nil)
	if err != nil {
		t.Fatalf("reading beside evidence: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	// The same evidence, once the store holds that tree.
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.Dir(), "evidence"), newer, 0o644); err != nil {
		t.Fatal(err)
	}
	if w.Ledger, err = ledger.Open(w.Dir(), w.Signer, nil); err != nil {
		t.Fatalf("opening a store that holds the tree of the evidence: %v", err)
	}
	if _, err := os.Stat(filepath.Join(w.Dir(), "evidence")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the evidence is still there: %v", err)
	}

	// Another history at the same size.
	if l, err = ledger.Open(branch, w.Signer, nil); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, l, batch(claims(t, "x", "y", "z")...))
	var fork *ledger.ForkError
	if err := l.Confront(ctx, newer); !errors.As(err, &fork) || string(fork.Old) != string(newer) {
		t.Errorf("Confront = %v, want a ForkError", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := ledger.Open(branch, w.Signer, nil); !errors.As(err, &fork) {
		t.Errorf("opening with evidence: %v, want a ForkError", err)
	}
	if got := faultsOf(t, branch, w.Verifier); len(got) != 1 || !strings.HasPrefix(got[0], "evidence: the log key signed root ") {
		t.Errorf("fsck = %q, want the evidence", got)
	}
}

// TestCosign keeps checkpoints, and serves them.
func TestCosign(t *testing.T) {
	ctx := context.Background()
	w := ledgertest.New(t)
	mustAppend(t, w.Ledger, batch(claims(t, "a")...))
	get := func(path string) (int, string) {
		rec := httptest.NewRecorder()
		w.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, path, nil))
		body, err := io.ReadAll(rec.Body)
		if err != nil {
			t.Fatal(err)
		}
		return rec.Code, string(body)
	}
	if code, _ := get("/checkpoint.cosigned"); code != http.StatusNotFound {
		t.Errorf("GET /checkpoint.cosigned = %d before any was cosigned, want 404", code)
	}
	first := w.Checkpoint()
	line := "— witness.example AAAAAAAA\n" // which of them count is not the ledger's to say
	if err := w.Cosign(ctx, append(first, line...)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/checkpoint", "/checkpoint.cosigned"} {
		if code, body := get(path); code != http.StatusOK || !strings.HasSuffix(body, line) {
			t.Errorf("GET %s = %d %q, want the cosignature", path, code, body)
		}
	}
	mustAppend(t, w.Ledger, batch(claims(t, "b")...))
	second := w.Checkpoint()
	if _, body := get("/checkpoint"); body != string(second) {
		t.Errorf("GET /checkpoint = %q, want the newest", body)
	}
	if _, body := get("/checkpoint.cosigned"); body != string(first)+line {
		t.Errorf("GET /checkpoint.cosigned = %q, want the older one, cosigned", body)
	}
	if err := w.Cosign(ctx, append(second, line...)); err != nil {
		t.Fatal(err)
	}
	if err := w.Cosign(ctx, append(first, line...)); err == nil {
		t.Error("Cosign took an older checkpoint than it had")
	}
	stranger := ledgertest.New(t)
	if err := w.Cosign(ctx, stranger.Checkpoint()); err == nil {
		t.Error("Cosign took the checkpoint of another log")
	}
	// A file that is not one is a finding; the ledger opens without it.
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(w.Dir(), "cosigned")
	if err := os.WriteFile(path, stranger.Checkpoint(), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := faultsOf(t, w.Dir(), w.Verifier); len(got) != 1 || !strings.HasPrefix(got[0], "cosigned: it is not a checkpoint of this log") {
		t.Errorf("fsck = %q, want the file", got)
	}
	var err error
	if w.Ledger, err = ledger.Open(w.Dir(), w.Signer, nil); err != nil {
		t.Fatal(err)
	}
	if got := w.Cosigned(); got != nil {
		t.Errorf("Cosigned = %q, want none", got)
	}
	if err := w.Cosign(ctx, append(second, line...)); err != nil {
		t.Fatal(err)
	}
}
