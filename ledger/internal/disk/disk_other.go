//go:build !unix

package disk

import (
	"math"
	"os"
)

// TryLock leaves it to the engine, which locks its own directory everywhere.
func TryLock(*os.File) (taken bool, err error) { return true, nil }

// FreeSpace knows of no end of the disk here.
func FreeSpace(string) (uint64, error) { return math.MaxUint64, nil }

// Unlock gives a lock back.
func Unlock(*os.File) error { return nil }

// ReadOnly knows of no such file system here.
func ReadOnly(error) bool { return false }
