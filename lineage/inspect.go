package lineage

import (
	"context"
	"errors"
	"fmt"
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
	var g *Graph
	err := guarded(func() (err error) {
		g, err = open(dir, signers, parseKey)
		return err
	})
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

// guarded makes a panic of fn an error. Badger maps its files into memory and
// trusts what it finds there, so that a damaged file can make it panic or fault.
func guarded(fn func() error) (err error) {
	before := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(before)
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("reading a damaged index: %v", r)
		}
	}()
	return fn()
}
