package ledger

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/retrace-ledger/retrace/ledger/internal/disk"
)

// dirLock is held while a process has a ledger open. The operating system
// drops it when the process ends, however it ends.
type dirLock struct {
	f *os.File
}

// lockDir takes the lock of dir, or returns ErrLocked with who holds it.
func lockDir(dir string) (*dirLock, error) {
	path := filepath.Join(dir, "lock")
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoLedger, err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	return lockFile(f, true)
}

// lockToRead is lockDir for who only reads. Where the directory cannot be
// written, as on a read-only disk, nobody writes to the ledger beside it:
// then the lock file is locked if it is there, and not signed.
func lockToRead(dir string) (*dirLock, error) {
	l, err := lockDir(dir)
	if !errors.Is(err, fs.ErrPermission) && !disk.ReadOnly(err) {
		return l, err
	}
	f, openErr := os.Open(filepath.Join(dir, "lock"))
	if errors.Is(openErr, fs.ErrNotExist) {
		return &dirLock{}, nil
	}
	if openErr != nil {
		return nil, err
	}
	return lockFile(f, false)
}

// lockFile locks f and, where it may, writes who holds it.
func lockFile(f *os.File, writable bool) (*dirLock, error) {
	path := f.Name()
	taken, err := disk.TryLock(f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	if !taken {
		defer f.Close()
		return nil, fmt.Errorf("%w by %s: wait until it ends or stop it; beside a running server, commands reach the ledger through it", ErrLocked, holder(f))
	}
	if !writable {
		return &dirLock{f}, nil
	}
	if err := sign(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("writing %s: %w", path, err)
	}
	return &dirLock{f}, nil
}

// holder is who says in the lock file that it holds it.
func holder(f *os.File) string {
	text := make([]byte, 512)
	n, _ := f.ReadAt(text, 0)
	if s := strings.TrimSpace(string(text[:n])); s != "" {
		return s
	}
	return "another process"
}

// sign writes who holds the lock, for the message that others get: no
// arguments, which may hold what is private.
func sign(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := fmt.Fprintf(f, "process %d (%s)\n", os.Getpid(), filepath.Base(os.Args[0]))
	return err
}

func (l *dirLock) release() error {
	if l.f == nil {
		return nil
	}
	return errors.Join(disk.Unlock(l.f), l.f.Close())
}

// spareRoom is how much of the disk has to stay free beside what a commit
// writes: the store writes its tables behind its logs, and Badger does not
// survive a disk that fills up under a file it has mapped.
const spareRoom = 128 << 20 // bytes

// room refuses to begin a commit that may not fit on the disk.
func (l *Ledger) room(group []*pending) error {
	need := uint64(spareRoom)
	for _, p := range group {
		need += 2 * uint64(p.bytes)
	}
	free, err := l.committer.free(l.dir)
	if err != nil {
		return fmt.Errorf("asking how much room is left in %s: %w", l.dir, err)
	}
	if free < need {
		return fmt.Errorf("appending to %s: %w: %d MiB are free and %d MiB are needed", l.dir, ErrDiskFull, free>>20, need>>20)
	}
	return nil
}
