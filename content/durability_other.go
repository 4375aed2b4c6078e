//go:build !linux

package content

import "io/fs"

func deviceOf(fs.FileInfo) uint64 { return 0 }

// durabilityOf tells nothing: only Linux is asked.
func durabilityOf(string, string) string { return "" }
