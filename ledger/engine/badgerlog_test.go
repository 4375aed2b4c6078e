package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"
	"testing"
)

// TestWatchedLog logs what Badger v4.9 logs, in its words.
func TestWatchedLog(t *testing.T) {
	sync := &fs.PathError{Op: "sync", Path: "/store/MANIFEST", Err: syscall.EIO}
	write := &fs.PathError{Op: "write", Path: "/store/MANIFEST", Err: syscall.ENOSPC}
	table := &fs.PathError{Op: "truncate", Path: "/store/000007.sst", Err: syscall.ENOSPC}
	for _, c := range []struct {
		say   func(*watchedLog)
		want  error
		notes int
	}{
		{func(w *watchedLog) { w.Errorf("Error while curlf sync: %v\n", syscall.EIO) }, syscall.EIO, 0},
		{func(w *watchedLog) { w.Errorf("error flushing memtable to disk: %v, retrying", sync) }, syscall.EIO, 1},
		{func(w *watchedLog) { w.Warningf("While running doCompact: %v\n ", fmt.Errorf("wrapped: %w", write)) }, syscall.ENOSPC, 1},
		{func(w *watchedLog) { w.Errorf("error flushing memtable to disk: %v, retrying", table) }, nil, 0},
		{func(w *watchedLog) { w.Infof("MANIFEST sync") }, nil, 0},
	} {
		w := watchedLog{dir: t.TempDir()}
		c.say(&w)
		if err := w.failure(); !errors.Is(err, c.want) {
			t.Errorf("failure() = %v, want %v", err, c.want)
		}
		notes, err := filepath.Glob(filepath.Join(w.dir, unsyncedName+"*"))
		if err != nil || len(notes) != c.notes {
			t.Errorf("after %v the notes are %q, %v, want %d", c.want, notes, err, c.notes)
		}
	}
}

// TestCommitAfterLostSync commits to a store that was told, behind its back,
// that a sync had failed: neither that commit nor one after it succeeds.
func TestCommitAfterLostSync(t *testing.T) {
	e, err := OpenBadger(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if err := e.Commit([]Put{{Key: []byte("a"), Value: []byte("1")}}); err != nil {
		t.Fatal(err)
	}
	e.(*badgerEngine).log.Errorf("Error while curlf sync: %v\n", syscall.EIO)
	for range 2 {
		if err := e.Commit([]Put{{Key: []byte("b"), Value: []byte("2")}}); !errors.Is(err, syscall.EIO) {
			t.Errorf("Commit() = %v, want the error of the sync", err)
		}
	}
}
