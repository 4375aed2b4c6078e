package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/retrace-ledger/retrace/keys"
	"github.com/retrace-ledger/retrace/ledger"
)

// runPlace is where a run keeps content, without the ledger being held.
type runPlace struct {
	store   contentStore
	exclude []string
	close   func() error
}

// runPlace opens the content store beside the ledger, or behind the server.
func (a *app) runPlace(ctx context.Context) (*runPlace, error) {
	if a.server != "" {
		c, err := a.client()
		if err != nil {
			return nil, err
		}
		return &runPlace{store: remoteContent{c.Content()}, close: func() error { return nil }}, nil
	}
	dir, err := a.findDir()
	if err != nil {
		return nil, err
	}
	// A command may run for hours: what would keep it from being recorded is
	// said before.
	if _, err := keys.Load(filepath.Join(dir, observerKey)); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s has no %s: %w", dir, observerKey, ledger.ErrReadOnly)
	} else if err != nil {
		return nil, err
	}
	if !writable(dir) {
		return nil, fmt.Errorf("%s cannot be written to: %w", dir, ledger.ErrReadOnly)
	}
	s, err := openContent(ctx, dir)
	if err != nil {
		return nil, err
	}
	return &runPlace{store: s, exclude: []string{dir}, close: func() error { return s.Close(context.WithoutCancel(ctx)) }}, nil
}
