package engine

import (
	"fmt"
	"strings"
	"sync"
)

// watchedLog is what Badger logs to. Badger logs some failures that a commit
// has to know of, and goes on: that its value log was not synced (value.go,
// write), while the transaction that wrote to it succeeds; and that its
// manifest was not written or not synced, which it then writes to again as if
// the failed part were there. After either it is not known what is durable, and
// syncing again proves nothing, since the kernel reports a page that it could
// not write only once. The first such failure is kept.
//
// What Badger repeats from the beginning in a new file, such as writing a table
// on a disk that was full, does no harm and is not kept.
type watchedLog struct {
	dir     string // of the store
	settled int64  // length of its manifest when it was opened, see unsyncedName
	mu      sync.Mutex
	err     error
}

func (w *watchedLog) Errorf(format string, args ...any)   { w.keep(format, args) }
func (w *watchedLog) Warningf(format string, args ...any) { w.keep(format, args) }
func (w *watchedLog) Infof(string, ...any)                {}
func (w *watchedLog) Debugf(string, ...any)               {}

func (w *watchedLog) keep(format string, args []any) {
	said := strings.TrimSpace(fmt.Sprintf(format, args...))
	// A sync that fails says so in Badger's words or in those of os.File.Sync;
	// what fails on the manifest names the file.
	if !strings.Contains(said, "sync") && !strings.Contains(said, "MANIFEST") {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if strings.Contains(said, "MANIFEST") {
		if err := noteUnsynced(w.dir, w.settled); err != nil {
			said += fmt.Sprintf(" (and it could not be noted: %v)", err)
		}
	}
	if w.err == nil {
		w.err = fmt.Errorf("the store could not make durable what it wrote: %s", said)
		for _, arg := range args {
			if err, ok := arg.(error); ok {
				w.err = fmt.Errorf("the store could not make durable what it wrote: %w", err)
			}
		}
	}
}

// failure is the first failure that makes it unknown what is durable.
func (w *watchedLog) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}
