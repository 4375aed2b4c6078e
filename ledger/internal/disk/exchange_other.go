//go:build !linux

package disk

import (
	"os"
	"path/filepath"
)

// Exchange swaps two files or directories of one folder and makes it durable.
// Without a system call for it there are three steps: after a crash between
// them, what was a stands under the name of b with ".old" behind it.
func Exchange(a, b string) error {
	aside := b + ".old"
	for _, step := range [][2]string{{a, aside}, {b, a}, {aside, b}} {
		if err := os.Rename(step[0], step[1]); err != nil {
			return err
		}
	}
	return SyncDir(filepath.Dir(a))
}
