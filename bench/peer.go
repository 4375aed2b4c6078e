package main

import (
	"context"
	"errors"
)

// A peer stores entries that many callers give it at once.
type peer interface {
	// Append returns when the entry is what its contestant promises.
	Append(ctx context.Context, entry []byte) error
	Close() error
}

// A contestant is a way to store entries, and what its answer to Append is
// worth.
type contestant struct {
	Name string `json:"name"`
	// What holds of an entry when Append returns.
	Durable  bool   `json:"durable"`  // it outlives a power cut
	Provable bool   `json:"provable"` // its place follows from hashes that cover it
	Signed   bool   `json:"signed"`   // the log has signed for it
	How      string `json:"how"`
	// Goal is how many times as fast retrace is to be at 1,024 callers; 0 if
	// there is none.
	Goal float64 `json:"goal,omitempty"`

	slow bool
	open func(ctx context.Context, dir string, callers int) (peer, error)
}

// missingError says what is not installed.
type missingError struct{ what string }

func (e *missingError) Error() string { return e.what }

// contestants are all others, in the order of the table.
func contestants() []contestant {
	return append(append(tesseras(), immudbs()...), sqlite(), postgres())
}

// skipped is why a contestant is left out, "" if err is something else.
func skipped(err error) string {
	var missing *missingError
	if errors.As(err, &missing) {
		return missing.what
	}
	return ""
}
