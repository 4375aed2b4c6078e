package engine

import (
	"context"
	"errors"
	"iter"
)

// ErrNotFound says that a snapshot holds no value under a key.
var ErrNotFound = errors.New("no such key")

// An Engine stores values under keys that are ordered bytewise. Its methods
// may be called concurrently. It is trusted to be atomic and durable, and for
// nothing else: whoever reads a value checks it.
type Engine interface {
	// Commit stores all puts or none of them, and returns when they are
	// durable. After an error it is not known which of the two happened; what
	// it is shows when the engine is opened again.
	Commit(puts []Put) error
	// View calls fn with a snapshot that stays as it is until fn returns.
	View(fn func(Snapshot) error) error
	// VerifyChecksums reads everything that carries a checksum of the engine's
	// own and compares. No error does not mean that nothing is missing.
	VerifyChecksums(ctx context.Context) error
	// Close makes no promise that Commit did not make.
	Close() error
}

// Put is one key and its new value; nil for none any more. Both belong to the
// engine until Commit returns.
type Put struct {
	Key, Value []byte
}

// Snapshot is the store as it was when it was taken.
type Snapshot interface {
	// Get calls fn with the value under key, which is valid until fn returns.
	// It returns ErrNotFound if there is none.
	Get(key []byte, fn func(value []byte) error) error
	// Ascend yields the keys from low up to but not including high.
	Ascend(low, high []byte) iter.Seq2[Item, error]
	// Descend yields the keys from high, included, down to low, included.
	Descend(high, low []byte) iter.Seq2[Item, error]
}

// Item is one key that an iteration stands at. It is valid until the
// iteration goes on.
type Item interface {
	Key() []byte
	// Value calls fn with the value, which is valid until fn returns.
	Value(fn func(value []byte) error) error
}
