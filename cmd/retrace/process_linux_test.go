package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// smallDisk mounts a file system of this size, in bytes with a unit.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a small disk needs root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("retrace-test", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("mounting a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill takes space until only free bytes are left, and returns the file to
// remove.
func fill(t *testing.T, dir string, free int64) string {
	t.Helper()
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Fallocate(int(f.Fd()), 0, 0, int64(fs.Bavail)*fs.Bsize-free); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// TestDiskFull fills the disk below a ledger: what cannot be recorded fails and
// says why, what was acknowledged stays and can be read, and with room again it
// goes on.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	dir, work := smallDisk(t, "320m"), t.TempDir()
	done(t, dir, "init")
	done(t, dir, "record", filepath.Join(work, writeNote(t, work, 1, 100)))

	for _, free := range []int64{64 << 20, 0} {
		filler := fill(t, dir, free)
		commands := [][]string{{"record", filepath.Join(work, writeNote(t, work, 2, 700<<10))}}
		if free > 0 {
			commands = append(commands, []string{"run", "--out", "big", "--", "sh", "-c", "head -c 2000000 /dev/urandom >big"})
		}
		for _, args := range commands {
			_, errs, status := retrace(t, dir, args...)
			if status == 0 || strings.Contains(errs, "damaged") || !strings.Contains(errs, "docs/runbook.md#disk-full") {
				t.Errorf("%s with %d bytes free ended with status %d:\n%s", args[0], free, status, errs)
			}
		}
		if free > 0 {
			done(t, dir, "fsck")
			done(t, dir, "log")
		}
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		if n := size(t, dir); n != 2 {
			t.Errorf("%d entries after %d bytes were free, want the 2 acknowledged", n, free)
		}
	}

	done(t, dir, "record", filepath.Join(work, writeNote(t, work, 3, 100)))
	done(t, dir, "run", "--out", "big", "--", "sh", "-c", "head -c 2000000 /dev/urandom >big")
	done(t, dir, "fsck", "--content")
	if n := size(t, dir); n != 4 {
		t.Errorf("%d entries with room again, want 4", n)
	}
}

// TestReadOnlyDisk answers from a ledger on a disk that cannot be written to.
func TestReadOnlyDisk(t *testing.T) {
	t.Parallel()
	dir := smallDisk(t, "320m")
	done(t, dir, "init")
	done(t, dir, "run", "--out", "model.bin", "--model", "forecast", "--", "sh", "-c", "echo model >model.bin")
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Skipf("mounting read-only: %v", err)
	}
	for _, args := range [][]string{{"log"}, {"models"}, {"lineage", "forecast"}, {"prove", "forecast"}, {"fsck"}, {"fsck", "--content"}, {"restore", "forecast", "--plan"}} {
		if out, errs, status := retrace(t, dir, args...); status != 0 {
			t.Errorf("retrace %s on a read-only disk ended with status %d:\n%s%s", strings.Join(args, " "), status, out, errs)
		}
	}
	if _, errs, status := retrace(t, dir, "record", "missing.json"); status != 2 {
		t.Errorf("record on a read-only disk ended with status %d: %s", status, errs)
	}
	if out, errs, status := retrace(t, dir, "run", "--", "echo", "ran"); status != exitRunFailed || out != "" {
		t.Errorf("run on a read-only disk ended with status %d: %s%s", status, out, errs)
	}
}
