package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRunbookDiskFull follows docs/runbook.md#disk-full on a disk that is full.
func TestRunbookDiskFull(t *testing.T) {
	t.Parallel()
	dir, work := smallDisk(t, "400m"), t.TempDir()
	done(t, dir, "init")
	done(t, dir, "record", filepath.Join(work, writeNote(t, work, 1, 100)))
	note := filepath.Join(work, writeNote(t, work, 2, 100))
	filler := fill(t, dir, 64<<20)

	_, errs, status := retrace(t, dir, "record", note)
	if status != 2 || !strings.Contains(errs, "too little room on the disk: 6") || !strings.Contains(errs, "MiB are free and 128 MiB are needed") || !strings.Contains(errs, "docs/runbook.md#disk-full") {
		t.Fatalf("record on a full disk ended with status %d: %s", status, errs)
	}
	// Reading goes on, and a backup goes to another disk.
	done(t, dir, "log")
	backup := filepath.Join(work, "ledger.backup")
	done(t, dir, "backup", backup)
	// A backup to the full disk fails and leaves nothing, and so do an import
	// and a repair.
	for _, args := range [][]string{{"--dir", "copy", "import", backup}, {"recover", "--from", backup}} {
		if _, errs, status := retrace(t, dir, args...); status != 2 || !strings.Contains(errs, "docs/runbook.md#disk-full") {
			t.Errorf("%s on a full disk ended with status %d: %s", args, status, errs)
		}
	}
	done(t, dir, "fsck")

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	done(t, dir, "record", note)
	done(t, dir, "--dir", "copy", "import", backup)
	done(t, dir, "recover", "--from", backup)
	done(t, dir, "fsck")
	if n := size(t, dir); n != 3 {
		t.Errorf("%d entries with room again, want 3", n)
	}
}
