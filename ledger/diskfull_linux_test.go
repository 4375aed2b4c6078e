package ledger_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/ledger/ledgertest"
)

// TestDiskFull fills a disk of its own with entries until none is taken any
// more, twice. What was acknowledged stays, is read and is proved on the full
// disk; with room again the same open ledger goes on.
func TestDiskFull(t *testing.T) {
	if testing.Short() {
		t.Skip("hundreds of megabytes")
	}
	dir := smallDisk(t, "448m")
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 96<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	w := ledgertest.NewIn(t, filepath.Join(dir, "ledger"))
	text := strings.Repeat("x", 500<<10)
	taken := []string{}
	fill := func() {
		t.Helper()
		for {
			text := fmt.Sprint(len(taken), text)
			_, err := w.Append(t.Context(), batch(claims(t, text, text+"!")...))
			if errors.Is(err, ledger.ErrDiskFull) {
				return
			}
			if err != nil {
				t.Fatalf("batch %d: %v, want ErrDiskFull or nothing", len(taken), err)
			}
			taken = append(taken, text)
			if len(taken) > 1000 {
				t.Fatal("the disk does not fill up")
			}
		}
	}
	check := func() {
		t.Helper()
		if w.Size() != int64(1+2*len(taken)) {
			t.Errorf("size %d, want the %d acknowledged", w.Size(), 1+2*len(taken))
		}
		for i := range taken {
			index := int64(1 + 2*i)
			e, err := w.Entry(t.Context(), index)
			if err != nil || string(e.Envelope.Raw) != string(ledgertest.Claim(t, taken[i]).Raw) {
				t.Fatalf("entry %d is not what was acknowledged: %v", index, err)
			}
			p, err := w.Proof(t.Context(), index)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := p.Verify(e.Commitment, w.Verifier); err != nil {
				t.Error(err)
			}
		}
	}
	fill()
	check()
	first := len(taken)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	fill()
	check()
	if first == 0 || len(taken) == first {
		t.Errorf("%d batches were taken, then %d: with room again it did not go on", first, len(taken)-first)
	}
	reopen(t, w)
	check()
	t.Logf("%d batches of 1 MB were taken, then %d more with room again", first, len(taken)-first)
}

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
