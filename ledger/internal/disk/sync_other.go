//go:build !linux

package disk

import "os"

// SyncData makes what was written inside an allocated file durable.
func SyncData(f *os.File) error { return f.Sync() }
