package content

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/rogpeppe/go-internal/lockedfile"
)

// The gate lets readers and writers in side by side, and Collect alone: what
// they found in the store stays until they leave. It is a lock on the file
// gate, so that it ends with the process that holds it.

// enter waits until nothing is being collected.
func (s *Store) enter(ctx context.Context) (leave func(), err error) {
	name := filepath.Join(s.dir, "gate")
	f, err := lockedfile.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(s.dir, 0o700); err != nil {
			return nil, fmt.Errorf("making the content store: %w", err)
		}
		f, err = lockedfile.OpenFile(name, os.O_RDONLY|os.O_CREATE, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("entering the content store: %w", err)
	}
	if err := s.afresh(ctx); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// enterToRead is enter for reading, where perhaps nothing can be written: then
// nothing is collected either.
func (s *Store) enterToRead(ctx context.Context) (leave func(), err error) {
	f, err := lockedfile.Open(filepath.Join(s.dir, "gate"))
	if err != nil {
		return func() {}, nil // a store of before, or one on a medium that cannot be locked
	}
	if err := s.afresh(ctx); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// enterAlone waits until nobody reads or writes, and keeps all out.
func (s *Store) enterAlone() (leave func(), err error) {
	f, err := lockedfile.OpenFile(filepath.Join(s.dir, "gate"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("entering the content store: %w", err)
	}
	return func() { _ = f.Close() }, nil
}

// afresh has the repository forget what was collected since it was read.
func (s *Store) afresh(ctx context.Context) error {
	raw, err := os.ReadFile(s.collections())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("entering the content store: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.collected == string(raw) {
		return nil
	}
	if s.rep != nil {
		if err := s.rep.rep.Refresh(ctx); err != nil {
			return fmt.Errorf("entering the content store: %w", err)
		}
	}
	s.collected, s.pages = string(raw), map[[sha256.Size]byte]string{}
	return nil
}

// collections is the file that says when was collected last (see setMark).
func (s *Store) collections() string { return filepath.Join(s.dir, "collected") }
