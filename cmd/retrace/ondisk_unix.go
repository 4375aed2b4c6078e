//go:build unix

package main

import (
	"io/fs"
	"syscall"
)

// onDisk is which file info describes, and how many bytes are allocated for it.
func onDisk(info fs.FileInfo) (inode uint64, size int64) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0
	}
	return st.Ino, st.Blocks * 512
}
