package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// rawFiles are the files below dir that have text in them, as it stands or in
// base64 at any alignment.
func rawFiles(t *testing.T, dir, text string) (found []string) {
	t.Helper()
	forms := [][]byte{[]byte(text)}
	for shift := range 3 {
		whole := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", shift) + text))
		forms = append(forms, []byte(whole[4:len(whole)-4])) // what its neighbours do not change
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(path)
		for _, form := range forms {
			if bytes.Contains(raw, form) {
				rel, _ := filepath.Rel(dir, path)
				found = append(found, rel)
				break
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestPurgeLeavesNoBytes looks through every file of a ledger's folder for what
// an erased entry said: before the purge it is in store and index, and after it
// nowhere.
func TestPurgeLeavesNoBytes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	done(t, dir, "init")
	const unique = "a-name-that-nothing-else-has"
	done(t, dir, "run", "--out", "out", "--param", "owner="+unique, "--", "sh", "-c", "echo 1 >out")
	done(t, dir, "run", "--in", "out", "--out", "next", "--", "sh", "-c", "cat out out >next")
	done(t, dir, "erase", "entry:1", "--reason", "request 17", "--yes")
	at := filepath.Join(dir, dirName)
	if found := rawFiles(t, at, unique); len(found) == 0 {
		t.Error("erasing alone left nothing: this test looks for the wrong thing")
	} else {
		t.Logf("before the purge it is in %s", strings.Join(found, ", "))
	}
	done(t, dir, "erase", "--purge")
	if found := rawFiles(t, at, unique); len(found) > 0 {
		t.Errorf("after a purge it is in %s", strings.Join(found, ", "))
	}
	done(t, dir, "fsck")
}

// TestEraseBesideServer erases through the server that holds the ledger. Its
// answers lack the entry from then on.
func TestEraseBesideServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	done(t, dir, "init")
	done(t, dir, "run", "--out", "out", "--", "sh", "-c", "echo 1 >out")
	done(t, dir, "run", "--in", "out", "--out", "next", "--", "sh", "-c", "cat out out >next")
	stop := startServer(t, dir)
	if out := done(t, dir, "erase", "entry:1", "--reason", "request 17", "--yes"); !strings.Contains(out, "entry 3: erases entry 1") {
		t.Errorf("erase said %q", out)
	}
	if out := done(t, dir, "show", "./out"); !strings.Contains(out, "erased: entry 1 mentioned it and was erased by entry 3: request 17") || strings.Contains(out, "made by") {
		t.Errorf("show says %q", out)
	}
	_, errs, status := retrace(t, dir, "erase", "entry:1", "--reason", "again", "--yes")
	if status != exitError || !strings.Contains(errs, "entry 1 has no body: erased by entry 3") {
		t.Errorf("erasing it again ended with status %d: %s", status, errs)
	}
	_, errs, status = retrace(t, dir, "erase", "entry:2", "--reason", "x", "--purge", "--yes")
	if status != exitError || !strings.Contains(errs, "--purge needs the ledger for itself, and a server at http://127.0.0.1:") || !strings.Contains(errs, "stop the server") {
		t.Errorf("purging beside a server ended with status %d: %s", status, errs)
	}
	if size := size(t, dir); size != 4 {
		t.Errorf("%d entries after a refusal, want 4", size)
	}
	stop()
	done(t, dir, "erase", "--purge")
	done(t, dir, "fsck")
}

// startServer serves the ledger in dir, and returns what ends that cleanly.
func startServer(t *testing.T, dir string) (stop func()) {
	t.Helper()
	server := retraceCommand(t, dir, "serve", "--listen", "127.0.0.1:0")
	stderr, err := server.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stderr)
	if said, err := lines.ReadString('\n'); err != nil || !strings.Contains(said, "at http://127.0.0.1:") {
		t.Fatalf("serve said %q, %v", said, err)
	}
	return func() {
		t.Helper()
		if err := server.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		rest, err := io.ReadAll(lines)
		if err := errors.Join(err, server.Wait()); err != nil {
			t.Errorf("serve, interrupted: %v\n%s", err, rest)
		}
	}
}
