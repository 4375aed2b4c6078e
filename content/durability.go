package content

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/retrace-ledger/retrace/schema"
)

// Durability says what the bytes that the store keeps of the folder dir
// survive, as the system tells it: [schema.SameDisk], [schema.OtherDisk],
// [schema.Remote], or "" where it does not.
//
// A network file system under the store counts as remote. Two file systems are
// on the same disk if their block devices share a physical one, through
// partitions, LVM, RAID and encryption as Linux shows them; a bind mount is the
// file system that it shows. What a virtual machine has for a disk, or a storage
// array for a volume, is taken for one.
func (s *Store) Durability(dir string) string {
	if s.remote != nil {
		return schema.Remote
	}
	return durability(dir, s.dir)
}

// durability compares where a folder and a store are. The store may not exist
// yet: the folder that it will be made in counts.
func durability(dir, store string) string {
	from, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return ""
	}
	for {
		to, err := filepath.EvalSymlinks(store)
		if err == nil {
			return durabilityOf(from, to)
		}
		if !errors.Is(err, fs.ErrNotExist) || store == filepath.Dir(store) {
			return ""
		}
		store = filepath.Dir(store)
	}
}

// sameFileSystem says whether two files are in one file system.
func sameFileSystem(a, b string) (bool, error) {
	x, err := os.Stat(a)
	if err != nil {
		return false, err
	}
	y, err := os.Stat(b)
	if err != nil {
		return false, err
	}
	return deviceOf(x) != 0 && deviceOf(x) == deviceOf(y), nil
}
