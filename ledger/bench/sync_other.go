//go:build !linux

package bench

import "os"

// syncData makes what was written inside an allocated file durable.
func syncData(f *os.File) error { return f.Sync() }
