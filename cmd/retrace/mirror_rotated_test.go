package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestMirrorRotated mirrors a log whose keys are rotated, twice while nobody
// mirrors: the copy goes on from its key by the rotations, and by nothing else.
func TestMirrorRotated(t *testing.T) {
	t.Parallel()
	dir, work := t.TempDir(), t.TempDir()
	done(t, dir, "init")
	copied := filepath.Join(work, "copy")
	vkeys := map[string]bool{}
	read := func(path string) string {
		t.Helper()
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	first := read(filepath.Join(dir, dirName, logVKeyFile))
	mirrored := func(key ...string) (string, int) {
		t.Helper()
		server, url := servingProcess(t, dir)
		_, errs, status := retrace(t, work, append([]string{"--dir", copied, "mirror", url, "--once"}, key...)...)
		if err := server.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		server.Wait()
		return errs, status
	}
	if errs, status := mirrored("--key", strings.TrimSpace(first)); status != 0 {
		t.Fatalf("the first pass ended with %d: %s", status, errs)
	}
	for round, rotations := range [][]string{{"log"}, {"observer", "log", "log"}} {
		for n, role := range rotations {
			done(t, dir, "record", filepath.Join(work, writeNote(t, work, 10*round+n, 100)))
			done(t, dir, "keys", "rotate", role)
		}
		errs, status := mirrored()
		if status != 0 || !strings.Contains(errs, "the log's key was rotated") {
			t.Fatalf("round %d ended with %d: %s", round, status, errs)
		}
		now := read(filepath.Join(copied, logVKeyFile))
		if now != read(filepath.Join(dir, dirName, logVKeyFile)) {
			t.Errorf("round %d: the copy is of another key than the ledger", round)
		}
		vkeys[now] = true
		done(t, work, "--dir", copied, "fsck")
		if errs, status := mirrored(); status != 0 || strings.Contains(errs, "rotated") {
			t.Errorf("round %d, once more, ended with %d: %s", round, status, errs)
		}
	}
	if len(vkeys) != 2 {
		t.Errorf("the copy had %d keys in the end, want another each round", len(vkeys))
	}
	if errs, status := mirrored("--key", strings.TrimSpace(first)); status != 0 {
		t.Errorf("given the key that it began with, it ended with %d: %s", status, errs)
	}
	if out, want := done(t, work, "--dir", copied, "log", "-n", "1", "-o", "json"), fmt.Sprintf(`"size": %d`, size(t, dir)); !strings.Contains(out, want) {
		t.Errorf("the copy has not %s: %s", want, out)
	}

	// Another log under the same name, with a key that nothing leads to.
	other := t.TempDir()
	done(t, other, "init", "--origin", strings.SplitN(first, "+", 2)[0])
	for n := range 9 {
		done(t, other, "record", filepath.Join(work, writeNote(t, work, 100+n, 100)))
	}
	dir = other
	if errs, status := mirrored(); status == 0 || !strings.Contains(errs, "does not hold") {
		t.Errorf("a log that no rotation leads to ended with %d: %s", status, errs)
	}
	done(t, work, "--dir", copied, "fsck")
}
