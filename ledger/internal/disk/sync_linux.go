package disk

import (
	"os"

	"golang.org/x/sys/unix"
)

// SyncData makes what was written inside an allocated file durable. Its size
// does not change, so there is no metadata to write.
func SyncData(f *os.File) error { return unix.Fdatasync(int(f.Fd())) }
