//go:build !linux

package disk

import "os"

// nextData takes everything for data.
func nextData(_ *os.File, at, size int64) (start, end int64, err error) { return at, size, nil }
