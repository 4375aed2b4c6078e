package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/spf13/cobra"

	"github.com/retrace-ledger/retrace/keys"
	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/ledger/ledgertest"
	"github.com/retrace-ledger/retrace/schema"
)

// TestRotateInterrupted ends a rotation before each of its steps: whatever was
// done by then, the ledger opens for writing, with the keys that are in force,
// and the rotation that was recorded is finished.
func TestRotateInterrupted(t *testing.T) {
	stop := errors.New("stopped here")
	for _, files := range []keyFiles{logFiles, observerFiles} {
		var steps int
		for stopAt := 0; ; stopAt++ {
			dir := filepath.Join(t.TempDir(), "ledger")
			if _, err := createLedger(dir, "rotate.example/test", "", ""); err != nil {
				t.Fatal(err)
			}
			cmd := new(cobra.Command)
			cmd.SetContext(t.Context())
			n, at := 0, ""
			_, err := rotate(cmd, dir, files, "", "", func(step string) error {
				if n++; n > stopAt {
					at = step
					return stop
				}
				return nil
			})
			if at == "" {
				if err != nil {
					t.Fatalf("rotating the %s key: %v", files.role, err)
				}
				steps = stopAt
				break
			}
			if !errors.Is(err, stop) {
				t.Fatalf("stopped at %q: %v", at, err)
			}
			checkOpens(t, dir, files, at)
		}
		if steps < 7 {
			t.Errorf("rotating the %s key has %d steps", files.role, steps)
		}
	}
}

// checkOpens opens the ledger as commands do, records something and lets Fsck
// read it.
func checkOpens(t *testing.T, dir string, files keyFiles, at string) {
	t.Helper()
	l, err := tryOpen(dir)
	if err != nil {
		t.Fatalf("the %s key, stopped at %q: %v", files.role, at, err)
	}
	observer, err := loadKey(filepath.Join(dir, observerKey))
	if err != nil {
		t.Fatal(err)
	}
	if observer.ID() != l.Observer() {
		t.Errorf("stopped at %q: observer.key is %s, and %s is in force", at, observer.ID(), l.Observer())
	}
	s, err := schema.NewStatement("https://example.com/x", map[string]string{}, ledgertest.Subject("x"))
	if err != nil {
		t.Fatal(err)
	}
	env, err := observer.SignStatement(s)
	if err != nil {
		t.Fatal(err)
	}
	r, err := l.Append(t.Context(), schema.Batch{Source: "test", Submitter: observer.ID(), Envelopes: []schema.Envelope{env}})
	if err != nil {
		t.Fatalf("the %s key, stopped at %q: %v", files.role, at, err)
	}
	logs, observers := l.Keys()
	recorded := len(logs)+len(observers) > 2
	if recorded != (r.Entries[0].Index == 2) {
		t.Errorf("stopped at %q: entry %d, keys %d and %d", at, r.Entries[0].Index, len(logs), len(observers))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"+nextSuffix))
	if err != nil || recorded && len(left) > 0 {
		t.Errorf("stopped at %q: %q left behind (%v)", at, left, err)
	}
	old, err := filepath.Glob(filepath.Join(dir, "*.key.old"))
	if err != nil || recorded != (len(old) == 1) {
		t.Errorf("stopped at %q: old private keys %q (%v)", at, old, err)
	}
	for _, name := range append(old, filepath.Join(dir, files.private)) {
		if _, err := keys.Load(name); err != nil {
			t.Errorf("stopped at %q: %v", at, err)
		}
	}
	v, err := readVKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	ledgertest.Check(t, dir, v)
}

// TestRotateFinishesCommit opens a ledger whose rotation was committed and not
// signed yet: the process ended between transaction and checkpoint file. The
// checkpoint file is put back to before the rotation.
func TestRotateFinishesCommit(t *testing.T) {
	for _, files := range []keyFiles{logFiles, observerFiles} {
		dir := filepath.Join(t.TempDir(), "ledger")
		if _, err := createLedger(dir, "rotate.example/test", "", ""); err != nil {
			t.Fatal(err)
		}
		before, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
		if err != nil {
			t.Fatal(err)
		}
		cmd := new(cobra.Command)
		cmd.SetContext(t.Context())
		stop := errors.New("stopped here")
		_, err = rotate(cmd, dir, files, "", "", func(step string) error {
			if step == "set aside "+files.private {
				return stop
			}
			return nil
		})
		if !errors.Is(err, stop) {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "checkpoint"), before, 0o644); err != nil {
			t.Fatal(err)
		}
		v, err := readVKey(dir)
		if err != nil {
			t.Fatal(err)
		}
		l, err := ledger.OpenReadOnly(dir, v, nil)
		if err != nil {
			t.Fatal(err)
		}
		logs, observers := l.Keys()
		if l.Size() != 1 || len(logs)+len(observers) != 2 {
			t.Errorf("read-only: size %d with %d and %d keys, want what was signed", l.Size(), len(logs), len(observers))
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		checkOpens(t, dir, files, "committed")
		if old, _ := filepath.Glob(filepath.Join(dir, "*.key.old")); len(old) != 1 {
			t.Errorf("the rotation of the %s key was not finished: %q", files.role, slices.Clone(old))
		}
	}
}
