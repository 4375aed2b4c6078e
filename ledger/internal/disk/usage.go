package disk

import (
	"io/fs"
	"path/filepath"
)

// Used is how many bytes the files below dir take on the disk, as du counts
// them: a store has files that are long and mostly holes.
func Used(dir string) (int64, error) {
	var total int64
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		n, err := used(path, info)
		total += n
		return err
	})
	return total, err
}
