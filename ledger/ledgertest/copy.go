package ledgertest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/retrace-ledger/retrace/ledger/internal/disk"
)

// Copy copies the directory of a ledger, also of one that is open, into a new
// directory of the test.
func Copy(t testing.TB, dir string) string {
	t.Helper()
	for range 100 {
		before := tables(t, dir)
		to := copyOnce(t, dir)
		if tables(t, dir) == before {
			return to
		}
	}
	t.Fatalf("the tables of %s change too often to be copied", dir)
	return ""
}

// tables are the names of the store's files and what its manifest says. Where
// they changed while they were copied, as Badger flushes a table behind our
// back, the copy is of no one moment, and no crash leaves it so.
func tables(t testing.TB, dir string) string {
	t.Helper()
	files, err := os.ReadDir(filepath.Join(dir, "store"))
	if err != nil {
		return ""
	}
	manifest, err := os.ReadFile(filepath.Join(dir, "store", "MANIFEST"))
	if err != nil {
		return ""
	}
	all := string(manifest)
	for _, f := range files {
		all += "\n" + f.Name()
	}
	return all
}

func copyOnce(t testing.TB, dir string) string {
	t.Helper()
	to := t.TempDir()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a file that the store removed meanwhile
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		if err := disk.Copy(path, filepath.Join(to, rel)); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}
