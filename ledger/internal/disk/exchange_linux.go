package disk

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Exchange swaps two files or directories of one folder, in one step that a
// crash leaves done or not done, and makes it durable.
func Exchange(a, b string) error {
	if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
		return &os.LinkError{Op: "exchange", Old: a, New: b, Err: err}
	}
	return SyncDir(filepath.Dir(a))
}
