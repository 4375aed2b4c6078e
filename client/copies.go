package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/retrace-ledger/retrace/schema"
)

// ErrNotServed says that the server has nothing under the path asked for, or
// does not give it to this caller.
var ErrNotServed = errors.New("not served")

// notServed makes a refusal of a whole path errors.Is ErrNotServed.
func notServed(err error) error {
	var e *Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Status {
	case http.StatusNotFound, http.StatusGone, http.StatusUnauthorized, http.StatusForbidden, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return fmt.Errorf("%w: %w", ErrNotServed, err)
	}
	return err
}

// Tile is the content of a hash tile or, at level -1, of an entry bundle. It
// was checked against nothing.
func (c *Client) Tile(ctx context.Context, t tlog.Tile) ([]byte, error) {
	resp, err := c.get(ctx, "/"+torchwood.TilePath(t))
	if err != nil {
		return nil, notServed(err)
	}
	defer resp.Body.Close()
	const maxTile = torchwood.TileWidth * (2 + 1<<16) // the largest entry bundle there can be
	return readAll(resp, maxTile)
}

// EntriesFrom yields the entries from index from up to but not including to,
// each body checked against the commitment beside it. The first error may be
// ErrNotServed: the server shows its tiles alone.
func (c *Client) EntriesFrom(ctx context.Context, from, to int64) iter.Seq2[schema.Entry, error] {
	return func(yield func(schema.Entry, error) bool) {
		for next := from; next < to; {
			before := next
			for e, err := range c.page(ctx, next, to, EntryLine.entry) {
				if !yield(e, notServed(err)) || err != nil {
					return
				}
				next++
			}
			if next == before {
				yield(schema.Entry{}, fmt.Errorf("the server sends no entries from %d on, although its checkpoint covers %d", next, to))
				return
			}
		}
	}
}

// Cosigned is the newest checkpoint with the cosignatures of witnesses; nil if
// the server has none.
func (c *Client) Cosigned(ctx context.Context) ([]byte, error) {
	resp, err := c.get(ctx, "/checkpoint.cosigned")
	if errors.Is(notServed(err), ErrNotServed) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return readAll(resp, maxNote)
}

// Backup is the stream of a backup of the server's ledger, without private
// keys. The caller closes it.
func (c *Client) Backup(ctx context.Context) (io.ReadCloser, error) {
	resp, err := c.get(ctx, "/v1/backup")
	if err != nil {
		return nil, fmt.Errorf("asking for a backup: %w", err)
	}
	return resp.Body, nil
}
