package lineage

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
)

// UnusableError says that an index cannot be read or belongs to another log.
// Open deletes such an index, and it comes back.
type UnusableError struct {
	Dir string
	Err error
}

func (e *UnusableError) Error() string {
	return fmt.Sprintf("the lineage index in %s cannot be used: %v", e.Dir, e.Err)
}

func (e *UnusableError) Unwrap() error { return e.Err }

// Inspect opens the index in dir and deletes nothing: what Open would delete is
// an *UnusableError. The checksum of every table is read again from disk.
func Inspect(ctx context.Context, dir string, log Log, signers Signers, parseKey ParseKey) (*Graph, error) {
	g, err := openGuarded(dir, signers, parseKey)
	if errors.Is(err, errInUse) {
		return nil, err
	}
	if err != nil {
		return nil, &UnusableError{dir, err}
	}
	for _, check := range []func() error{
		func() error { return guarded(g.db.VerifyChecksum) },
		func() error { return g.belongsTo(ctx, log) },
	} {
		if err := check(); err != nil {
			return nil, &UnusableError{dir, errors.Join(err, guarded(g.db.Close))}
		}
	}
	return g, nil
}

func openGuarded(dir string, signers Signers, parseKey ParseKey) (g *Graph, err error) {
	err = guarded(func() (err error) {
		g, err = open(dir, signers, parseKey)
		return err
	})
	return g, err
}

// checkTables refuses a table whose footer points outside of it: Badger trusts
// footers, in goroutines of its own, where such a table ends the process. From
// its end, a table has the length of a checksum, the checksum, and the length
// of the index before it.
func checkTables(dir string) error {
	tables, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err != nil {
		return err
	}
	for _, path := range tables {
		if err := checkFooter(path); err != nil {
			return fmt.Errorf("reading the table %s: %w", path, err)
		}
	}
	return nil
}

func checkFooter(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	left := info.Size()
	for range 2 {
		var length [4]byte
		if left -= int64(len(length)); left < 0 {
			return errors.New("it is too short for a table")
		}
		if _, err := f.ReadAt(length[:], left); err != nil {
			return err
		}
		if left -= int64(binary.BigEndian.Uint32(length[:])); left < 0 {
			return errors.New("its footer points before the file")
		}
	}
	return nil
}

// guarded makes a panic of fn an error. Badger maps its files into memory and
// trusts what it finds there, so that a damaged file can make it panic or fault.
func guarded(fn func() error) (err error) {
	before := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(before)
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("it is damaged so that reading it fails: %v", r)
		}
	}()
	return fn()
}
