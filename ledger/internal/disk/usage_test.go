package disk_test

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/retrace-ledger/retrace/ledger/internal/disk"
)

func TestUsed(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "full"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	sparse := filepath.Join(dir, "sparse")
	if err := os.WriteFile(sparse, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(sparse, 1<<30); err != nil {
		t.Fatal(err)
	}
	if _, err := disk.Forget(dir); err != nil { // ext4 gives a file its blocks when it is synced
		t.Fatal(err)
	}
	got, err := disk.Used(dir)
	if err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "linux" {
		t.Skip("whether holes take space depends on the file system")
	}
	if got < 1<<20 || got > 2<<20 {
		t.Errorf("Used(1 MiB and a hole of 1 GiB) = %d, want about %d", got, 1<<20)
	}
}

func TestUsedMissing(t *testing.T) {
	if n, err := disk.Used(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Errorf("Used(a missing folder) = %d, want an error", n)
	}
}
