package ledger_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/ledger/ledgertest"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// copies are a mirror's directory and a backup of w.
func copies(t testing.TB, w *ledgertest.World) map[string]string {
	t.Helper()
	withVKey(t, w)
	mirror := t.TempDir()
	mirrored(t, w, mirror, &remote{l: w.Ledger})
	file := filepath.Join(t.TempDir(), "backup")
	if err := os.WriteFile(file, backup(t, w.Ledger), 0o600); err != nil {
		t.Fatal(err)
	}
	return map[string]string{"mirror": mirror, "backup": file}
}

// recovered repairs dir, which has to work, and compares it with want.
func recovered(t testing.TB, w *ledgertest.World, dir, from string, want [][]byte) ledger.Recovery {
	t.Helper()
	got, err := ledger.Recover(context.Background(), dir, w.Verifier, from, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.LostAll > 0 {
		t.Errorf("lost: %v", got.Lost)
	}
	ledgertest.Check(t, dir, w.Verifier)
	sameBodies(t, w, dir, want)
	return got
}

// continues appends to a repaired ledger: the tree goes on from old.
func continues(t testing.TB, w *ledgertest.World, dir string, old []byte) {
	t.Helper()
	l, err := ledger.Open(dir, w.Signer, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := mustAppend(t, l, batch(claims(t, "1")...))
	if !r.Entries[0].Duplicate {
		t.Error("after the repair a duplicate is recorded again")
	}
	r = mustAppend(t, l, batch(claims(t, "after the repair")...))
	extends(t, w, l, old, r.Checkpoint)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	ledgertest.Check(t, dir, w.Verifier)
}

// TestRecoverRot flips bytes in each file of a ledger, of one whose newest
// entries are in write-ahead logs and of one that is closed, and repairs it:
// every entry is what it was, byte for byte.
func TestRecoverRot(t *testing.T) {
	t.Parallel()
	parts := 2
	if *long {
		parts = 32
	}
	w := ledgertest.New(t)
	for _, n := range []int{40, 300, 320, 321} {
		fill(t, w, n, 300)
	}
	mustAppend(t, w.Ledger, batchWithCursor())
	want := bodies(t, w.Ledger)
	from := copies(t, w)
	open := ledgertest.Copy(t, w.Dir())
	closed := keep(t, w)
	for name, dir := range map[string]string{"open": open, "closed": closed} {
		for i, file := range files(t, dir) {
			if strings.HasSuffix(file, "log.vkey") {
				continue
			}
			t.Run(name+"/"+filepath.Base(file), func(t *testing.T) {
				t.Parallel()
				used := usedBytes(t, filepath.Join(dir, file))
				for part := range parts {
					damaged := ledgertest.Copy(t, dir)
					flip(t, filepath.Join(damaged, file), used*int64(part)/int64(parts))
					copyAt := from["backup"]
					if (i+part)%4 == 0 {
						copyAt = ledgertest.Copy(t, from["mirror"]) // one process has it open
					}
					got := recovered(t, w, damaged, copyAt, want)
					continues(t, w, damaged, got.Checkpoint.Note)
				}
			})
		}
	}
}

// TestRecoverLost repairs ledgers that lost whole parts.
func TestRecoverLost(t *testing.T) {
	t.Parallel()
	w := filled(t, 300, 100)
	short := keep(t, w)
	fill(t, w, 900, 150)
	mustAppend(t, w.Ledger, batchWithCursor())
	want := bodies(t, w.Ledger)
	from := copies(t, w)
	newest := w.Checkpoint()
	whole := keep(t, w)
	source := batchWithCursor().Cursors[0]
	remove := func(names ...string) func(dir string) {
		return func(dir string) {
			for _, name := range names {
				if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for name, c := range map[string]struct {
		damage func(dir string)
		file   bool   // the checkpoint file is made anew
		secret string // from a mirror; a backup has it
		cursor string // what a mirror leaves of the cursor
	}{
		"nothing":         {damage: func(string) {}, cursor: source.To},
		"the store":       {damage: remove("store")},
		"the checkpoint":  {damage: remove("checkpoint"), file: true, cursor: source.To},
		"both":            {damage: remove("store", "checkpoint"), file: true},
		"dedup.key":       {damage: remove("dedup.key"), secret: "new", cursor: source.To},
		"everything":      {damage: remove("store", "checkpoint", "dedup.key"), file: true, secret: "new"},
		"the newest half": {damage: func(dir string) { replace(t, dir, "store", ledgertest.Copy(t, short)) }},
		"put back": {damage: func(dir string) {
			replace(t, dir, "store", ledgertest.Copy(t, short))
			replace(t, dir, "checkpoint", ledgertest.Copy(t, short))
		}, file: true},
	} {
		for kind, copyAt := range from {
			t.Run(name+" from a "+kind, func(t *testing.T) {
				t.Parallel()
				dir := ledgertest.Copy(t, whole)
				c.damage(dir)
				if kind == "mirror" {
					copyAt = ledgertest.Copy(t, copyAt) // one process has it open
				}
				got := recovered(t, w, dir, copyAt, want)
				secret, cursor := c.secret, c.cursor
				if kind == "backup" {
					cursor = source.To
					if secret != "" {
						secret = "copy"
					}
				}
				if got.File != c.file || got.Secret != secret {
					t.Errorf("checkpoint file anew: %v, dedup.key from: %q; want %v and %q", got.File, got.Secret, c.file, secret)
				}
				l, err := ledger.Open(dir, w.Signer, nil)
				if err != nil {
					t.Fatal(err)
				}
				if at, err := l.Cursor(context.Background(), "", source.Source); err != nil || at != cursor {
					t.Errorf("the cursor is %q, %v; want %q", at, err, cursor)
				}
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
				continues(t, w, dir, newest)
			})
		}
	}
}

// TestRecoverNewerThanCopy repairs a ledger that went on after the copy was
// made: what is damaged comes from the copy, what is newer from its own store.
func TestRecoverNewerThanCopy(t *testing.T) {
	t.Parallel()
	w := filled(t, 600, 200)
	from := copies(t, w)
	fill(t, w, 1000, 100)
	want := bodies(t, w.Ledger)
	newest := w.Checkpoint()
	whole := keep(t, w)
	for kind, copyAt := range from {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			dir := rebuild(t, whole, func(key, value []byte) []byte {
				switch {
				case string(key[:2]) == "b/" && slices.Contains([]uint16{1, 401}, binary.BigEndian.Uint16(key[8:])):
					return nil // two segments below 600, of 200 entries each, are gone
				case string(key[:2]) == "t/" || string(key[:2]) == "d/":
					return nil // and all tiles, and the index of duplicates
				}
				return value
			})
			got := recovered(t, w, dir, copyAt, want)
			if got.Copied == 0 || got.Copied > 600 {
				t.Errorf("%d entries from the copy", got.Copied)
			}
			continues(t, w, dir, newest)
		})
	}
}

// TestRecoverCannot: a body that nobody has stays as it was found, is listed,
// and Fsck goes on reporting it; where the tree cannot be closed, nothing is
// changed.
func TestRecoverCannot(t *testing.T) {
	t.Parallel()
	w := filled(t, 100, 50)
	from := copies(t, w)
	fill(t, w, 200, 10)
	whole := keep(t, w)
	altered := rebuild(t, whole, func(key, value []byte) []byte {
		if string(key[:2]) == "b/" && key[9] == 150 {
			value[60] ^= 1 // in the salt of entry 150, which the copy does not have
		}
		return value
	})
	before := findings(t, altered, w)
	got, err := ledger.Recover(context.Background(), altered, w.Verifier, from["backup"], nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.LostAll != 1 || got.Lost[0].Where != "entry 150" {
		t.Errorf("lost: %v, want entry 150", got.Lost)
	}
	after := findings(t, altered, w)
	if len(after) == 0 || after[0] != before[0] {
		t.Errorf("Fsck says %q, want what it said before: %q", after, before)
	}

	gone := rebuild(t, whole, func(key, value []byte) []byte {
		if string(key[:2]) == "b/" && key[9] == 150 {
			return nil
		}
		return value
	})
	store, err := os.ReadDir(filepath.Join(gone, "store"))
	if err != nil {
		t.Fatal(err)
	}
	var damage *ledger.DamageError
	if _, err := ledger.Recover(context.Background(), gone, w.Verifier, from["backup"], nil); !errors.As(err, &damage) || damage.Where != "entry 150" {
		t.Errorf("recovering without entry 150: %v, want a *DamageError about it", err)
	}
	if again, err := os.ReadDir(filepath.Join(gone, "store")); err != nil || len(again) != len(store) {
		t.Errorf("the store was changed: %d files of %d, %v", len(again), len(store), err)
	}
}

// TestRecoverWithheld: a mirror that was not given a body cannot give it back.
func TestRecoverWithheld(t *testing.T) {
	t.Parallel()
	w := filled(t, 50, 10)
	mirror := t.TempDir()
	mirrored(t, w, mirror, &remote{l: w.Ledger, hide: func(e schema.Entry) bool { return e.Index == 7 }})
	dir := keep(t, w)
	sound := ledgertest.Copy(t, dir)
	if err := os.RemoveAll(filepath.Join(dir, "store")); err != nil {
		t.Fatal(err)
	}
	got, err := ledger.Recover(context.Background(), dir, w.Verifier, mirror, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.LostAll != 1 || got.Lost[0].Where != "entry 7" {
		t.Errorf("lost: %v, want entry 7", got.Lost)
	}
	if found := findings(t, dir, w); len(found) != 1 || !strings.Contains(found[0], "entry 7") {
		t.Errorf("Fsck says %q, want entry 7", found)
	}
	// What the ledger has itself, the mirror need not give.
	recovered(t, w, sound, mirror, bodies(t, w.Ledger))
}

// TestRecoverRefuses copies of another log, of another history, and damaged
// ones. Nothing is changed.
func TestRecoverRefuses(t *testing.T) {
	t.Parallel()
	w := filled(t, 300, 100)
	withVKey(t, w)
	dir := keep(t, w)
	before := files(t, dir)
	other := filled(t, 300, 100)
	for _, size := range []int{280, 300, 400} {
		fork := sibling(t, w, size)
		_, err := ledger.Recover(context.Background(), dir, w.Verifier, fork, nil)
		var forked *ledger.ForkError
		if !errors.As(err, &forked) {
			t.Errorf("recovering from a fork of size %d: %v, want a *ForkError", size, err)
			continue
		}
		for _, note := range [][]byte{forked.Old, forked.New} {
			if _, err := verify.OpenCheckpoint(note, w.Verifier); err != nil {
				t.Errorf("a note of the fork: %v", err)
			}
		}
	}
	for kind, copyAt := range copies(t, other) {
		if _, err := ledger.Recover(context.Background(), dir, w.Verifier, copyAt, nil); err == nil {
			t.Errorf("a %s of another log was taken", kind)
		}
	}
	raw := backup(t, w.Ledger)
	file := filepath.Join(t.TempDir(), "backup")
	for i := range 8 {
		altered := bytes.Clone(raw)
		altered[i*len(raw)/8] ^= 4
		if err := os.WriteFile(file, altered, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ledger.Recover(context.Background(), dir, w.Verifier, file, nil); err == nil {
			t.Errorf("a backup that was altered at %d/8 was taken", i)
		}
	}
	if after := files(t, dir); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("files are %v, and were %v", after, before)
	}
	ledgertest.Check(t, dir, w.Verifier)
}

// TestRecoverUnopenable repairs a store whose engine does not open, from a copy
// that does not have the newest entries: they are taken from what opens of it.
func TestRecoverUnopenable(t *testing.T) {
	t.Parallel()
	w := filled(t, 300, 100)
	from := copies(t, w)
	keep(t, w) // closed once: these entries are in a table of their own
	fill(t, w, 700, 100)
	want := bodies(t, w.Ledger)
	newest := w.Checkpoint()
	open := ledgertest.Copy(t, w.Dir()) // the newest are in a log
	closed := keep(t, w)
	first := func(dir, pattern string) string {
		files, err := filepath.Glob(filepath.Join(dir, "store", pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("no %s in %s: %v", pattern, dir, err)
		}
		return files[0]
	}
	for name, damage := range map[string]func(dir string) error{
		"the footer of a table": func(dir string) error {
			path := first(dir, "*.sst")
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			flip(t, path, info.Size()-4)
			return nil
		},
		"a table": func(dir string) error { return os.Remove(first(dir, "*.sst")) },
		"the manifest": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "store", "MANIFEST"), []byte("rot"), 0o600)
		},
		"a value log's header": func(dir string) error {
			flip(t, first(dir, "*.vlog"), 5)
			return nil
		},
	} {
		for state, dir := range map[string]string{"open": open, "closed": closed} {
			t.Run(name+" "+state, func(t *testing.T) {
				t.Parallel()
				dir := ledgertest.Copy(t, dir)
				if err := damage(dir); err != nil {
					t.Fatal(err)
				}
				got := recovered(t, w, dir, from["backup"], want)
				if got.Copied > 300 {
					t.Errorf("%d entries from a copy of 300", got.Copied)
				}
				continues(t, w, dir, newest)
			})
		}
	}
}
