package engine_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retrace-ledger/retrace/ledger/engine"
	"github.com/retrace-ledger/retrace/ledger/engine/enginetest"
)

func TestBadger(t *testing.T) { enginetest.Test(t, engine.OpenBadger) }

// TestInspectChangesNothing inspects a store that is open, one that is closed
// and damaged ones of both.
func TestInspectChangesNothing(t *testing.T) {
	dir := t.TempDir()
	e, err := engine.OpenBadger(dir)
	if err != nil {
		t.Fatal(err)
	}
	var puts []engine.Put
	for i := range 20 {
		puts = append(puts, engine.Put{Key: fmt.Appendf(nil, "%02d", i), Value: bytes.Repeat([]byte{byte(i)}, i*8000)})
	}
	if err := e.Commit(puts); err != nil {
		t.Fatal(err)
	}
	check := func(name string, whole bool) {
		t.Helper()
		before := digests(t, dir)
		i, err := engine.InspectBadger(dir)
		if err == nil {
			if err := i.Commit(puts); err == nil {
				t.Errorf("%s: committing to an inspected store succeeds", name)
			}
			for _, p := range puts {
				err := i.View(func(s engine.Snapshot) error {
					return s.Get(p.Key, func(v []byte) error {
						if !bytes.Equal(v, p.Value) {
							return fmt.Errorf("%q has another value", p.Key)
						}
						return nil
					})
				})
				if err != nil && whole {
					t.Errorf("%s: %v", name, err)
				}
			}
			err = i.Close()
		}
		if err != nil && whole {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(before, digests(t, dir)); diff != "" {
			t.Errorf("%s: inspecting changed %s", name, diff)
		}
	}
	check("open", true)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	check("closed", true)
	for path := range digests(t, dir) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, damaged := range [][]byte{data[:len(data)/2], append(bytes.Clone(data[:len(data)/2]), 0xff), nil} {
			if err := os.WriteFile(path, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			check("damaged "+filepath.Base(path), false)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	check("repaired", true)
}

func digests(t *testing.T, dir string) map[string][32]byte {
	t.Helper()
	out := map[string][32]byte{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "LOCK" {
			return err
		}
		data, err := os.ReadFile(path)
		if len(data) > 1<<20 {
			data = bytes.TrimRight(data, "\x00")
		}
		out[path] = sha256.Sum256(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestOpenKeepsValuesBehindDamage flips a byte in the newest value log. The
// values behind it must survive that the store is opened.
func TestOpenKeepsValuesBehindDamage(t *testing.T) {
	dir := t.TempDir()
	value := bytes.Repeat([]byte("x"), 100_000)
	e, err := engine.OpenBadger(dir)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		if err := e.Commit([]engine.Put{{Key: []byte{byte(i)}, Value: value}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	damage(t, dir, "*.vlog", 250_000) // in the third value
	for range 2 {
		if e, err = engine.OpenBadger(dir); err != nil {
			t.Fatal(err)
		}
		for i := range 10 {
			err := e.View(func(s engine.Snapshot) error {
				return s.Get([]byte{byte(i)}, func(v []byte) error {
					if bytes.Equal(v, value) == (i == 2) {
						t.Errorf("value %d is as it was: %v", i, i == 2)
					}
					return nil
				})
			})
			if err != nil {
				t.Errorf("value %d: %v", i, err)
			}
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// damage flips a byte of the largest file with the given pattern.
func damage(t *testing.T, dir, pattern string, at int64) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		t.Fatal(err)
	}
	largest, size := "", int64(0)
	for _, path := range paths {
		if info, err := os.Stat(path); err == nil && info.Size() > size {
			largest, size = path, info.Size()
		}
	}
	f, err := os.OpenFile(largest, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

// TestOpenAfterCrash opens a store in which a log was made and its header not
// written, or a table and its content not written or in part, as a crash, a
// full disk or a failed call leaves it.
func TestOpenAfterCrash(t *testing.T) {
	for _, log := range []string{"000009.vlog", "00009.mem", "000009.sst"} {
		for _, left := range []int{0, 7, 4096} {
			if left > 7 && filepath.Ext(log) != ".sst" {
				continue // not an empty log
			}
			openAfterCrash(t, log, left)
		}
	}
}

func openAfterCrash(t *testing.T, log string, left int) {
	t.Helper()
	dir := t.TempDir()
	put := engine.Put{Key: []byte("key"), Value: bytes.Repeat([]byte("v"), 100<<10)}
	e, err := engine.OpenBadger(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Commit([]engine.Put{put}); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, log), make([]byte, left), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, open := range map[string]func(string) (engine.Engine, error){"inspect": engine.InspectBadger, "open": engine.OpenBadger} {
		e, err := open(dir)
		if err != nil {
			t.Errorf("%s with %s of %d bytes: %v", name, log, left, err)
			continue
		}
		err = e.View(func(s engine.Snapshot) error {
			return s.Get(put.Key, func(v []byte) error {
				if !bytes.Equal(v, put.Value) {
					return fmt.Errorf("%q has another value", put.Key)
				}
				return nil
			})
		})
		if err != nil {
			t.Errorf("%s with %s of %d bytes: %v", name, log, left, err)
		}
		if err := e.Close(); err != nil {
			t.Errorf("closing after %s with %s of %d bytes: %v", name, log, left, err)
		}
	}
}
