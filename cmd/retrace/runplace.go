package main

import (
	"context"
	"path/filepath"

	"github.com/retrace-ledger/retrace/content"
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
	s, err := content.Open(ctx, filepath.Join(dir, contentDir), &content.Options{Exclude: []string{dir}})
	if err != nil {
		return nil, err
	}
	return &runPlace{store: s, exclude: []string{dir}, close: func() error { return s.Close(context.WithoutCancel(ctx)) }}, nil
}
