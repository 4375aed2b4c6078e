package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"
	"sync"

	"filippo.io/torchwood"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/retrace-ledger/retrace/schema"
)

// Ledger is the log behind a server as of one checkpoint: what was there when
// it was asked for, and what was appended through it since. It has the methods of
// an open ledger, so that an index can follow it and a bundle be built from it.
type Ledger struct {
	*Client
	tiles *lru.Cache[tlog.Tile, []byte]

	mu   sync.RWMutex
	note []byte
	tree tlog.Tree

	cosigned []byte // at most as new as note; nil if there is none
}

// cachedTiles is how many hash tiles, of 8 KiB, a Ledger keeps.
const cachedTiles = 512

// Ledger returns the log as of its newest checkpoint.
func (c *Client) Ledger(ctx context.Context) (*Ledger, error) {
	note, err := c.Checkpoint(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the newest checkpoint: %w", err)
	}
	tiles, err := lru.New[tlog.Tile, []byte](cachedTiles)
	if err != nil {
		return nil, err
	}
	l := &Ledger{Client: c, tiles: tiles}
	if err := l.advance(note); err != nil {
		return nil, err
	}
	if l.cosigned, err = c.Cosigned(ctx); err != nil {
		return nil, fmt.Errorf("reading the newest cosigned checkpoint: %w", err)
	}
	if l.cosigned != nil {
		err = l.advance(l.cosigned) // it may be newer by now
	}
	return l, err
}

// Cosigned is the newest signed note that the quorum of the log's witnesses
// had cosigned when the Ledger was made; nil if there was none.
func (l *Ledger) Cosigned() []byte { return bytes.Clone(l.cosigned) }

// advance moves to a checkpoint, if it is a newer one.
func (l *Ledger) advance(note []byte) error {
	text, _, _ := strings.Cut(string(note), "\n\n") // C2SP signed-note: the text ends at the first empty line
	c, err := torchwood.ParseCheckpoint(text + "\n")
	if err != nil {
		return fmt.Errorf("the server's checkpoint is not one: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.note == nil || c.N > l.tree.N {
		l.note, l.tree = note, c.Tree
	}
	return nil
}

// Size is the size that the ledger speaks for.
func (l *Ledger) Size() int64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.tree.N
}

// Checkpoint is the signed note that the ledger speaks for.
func (l *Ledger) Checkpoint() []byte {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return bytes.Clone(l.note)
}

// Append is Client.Append; afterwards the ledger speaks for what it recorded
// too.
func (l *Ledger) Append(ctx context.Context, b schema.Batch) (schema.Receipt, error) {
	r, err := l.Client.Append(ctx, b)
	if err != nil {
		return r, err
	}
	return r, l.advance(r.Checkpoint)
}

// Entry returns the entry at index.
func (l *Ledger) Entry(ctx context.Context, index int64) (schema.Entry, error) {
	for e, err := range l.page(ctx, index, index+1, EntryLine.entry) {
		return e, err
	}
	return schema.Entry{}, fmt.Errorf("the server has no entry %d", index)
}

// Entries yields the entries from index from on, in order.
func (l *Ledger) Entries(ctx context.Context, from int64) iter.Seq2[schema.Entry, error] {
	return l.entries(ctx, from, EntryLine.entry)
}

// Unchecked yields entries as the server sends them, for somebody who says
// himself what is wrong with them: the body is neither decoded nor compared with
// the commitment, and the index may be any.
func (l *Ledger) Unchecked(ctx context.Context, from int64) iter.Seq2[schema.Entry, error] {
	return l.entries(ctx, from, func(e EntryLine, _ int64) (schema.Entry, error) { return e.unchecked() })
}

// parseLine makes an entry of the line of the entry at an index.
type parseLine func(line EntryLine, index int64) (schema.Entry, error)

func (l *Ledger) entries(ctx context.Context, from int64, parse parseLine) iter.Seq2[schema.Entry, error] {
	return func(yield func(schema.Entry, error) bool) {
		size := l.Size()
		for next := from; next < size; {
			before := next
			for e, err := range l.page(ctx, next, size, parse) {
				if !yield(e, err) || err != nil {
					return
				}
				next++
			}
			if next == before {
				yield(schema.Entry{}, fmt.Errorf("the server sends no entries from %d on, although its checkpoint covers %d", next, size))
				return
			}
		}
	}
}

// page yields what one request gives of the entries from from on, below to.
func (c *Client) page(ctx context.Context, from, to int64, parse parseLine) iter.Seq2[schema.Entry, error] {
	return func(yield func(schema.Entry, error) bool) {
		resp, err := c.get(ctx, "/v1/entries?from="+strconv.FormatInt(from, 10)+"&to="+strconv.FormatInt(to, 10))
		if err != nil {
			yield(schema.Entry{}, fmt.Errorf("reading entries from %d on: %w", from, err))
			return
		}
		defer resp.Body.Close()
		dec := jsontext.NewDecoder(resp.Body)
		for next := from; ; next++ {
			var line EntryLine
			err := json.UnmarshalDecode(dec, &line)
			if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return
			}
			var e schema.Entry
			if err == nil {
				e, err = parse(line, next)
			}
			if err != nil {
				yield(schema.Entry{}, fmt.Errorf("reading entry %d from the server: %w", next, err))
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// entry checks the form of a line, and that the body is the one committed to.
func (e EntryLine) entry(want int64) (schema.Entry, error) {
	if e.Index != want {
		return schema.Entry{}, fmt.Errorf("it sent entry %d instead", e.Index)
	}
	out, err := e.unchecked()
	if err != nil || out.State != schema.Present {
		return out, err
	}
	parsed, err := schema.ParseEntry(e.Index, e.Body)
	if err == nil && parsed.Commitment != out.Commitment {
		err = errors.New("its body is not the one that its commitment stands for")
	}
	return parsed, err
}

// unchecked checks the form of a line alone.
func (e EntryLine) unchecked() (schema.Entry, error) {
	out := schema.Entry{Index: e.Index, State: e.State}
	if len(e.Commitment) != len(out.Commitment) {
		return out, fmt.Errorf("its commitment has %d bytes, not %d", len(e.Commitment), len(out.Commitment))
	}
	copy(out.Commitment[:], e.Commitment)
	switch e.State {
	case schema.Present:
		out.Body = e.Body
	case schema.Erased, schema.Withheld:
	default:
		return out, fmt.Errorf("its state is %q", clip(string(e.State)))
	}
	return out, nil
}

// ProveInclusion proves that entry index is in the tree of the given size,
// from tiles that were checked against the checkpoint's root.
func (l *Ledger) ProveInclusion(ctx context.Context, index, size int64) ([]tlog.Hash, error) {
	l.mu.RLock()
	tree := l.tree
	l.mu.RUnlock()
	if index < 0 || index >= size || size > tree.N {
		return nil, fmt.Errorf("cannot prove entry %d in size %d of a ledger of %d", index, size, tree.N)
	}
	return tlog.ProveRecord(size, index, tlog.TileHashReader(tree, &tileReader{ctx, l}))
}

// ProveConsistency proves that the tree of size newer begins with that of size
// older, from tiles that were checked against the checkpoint's root.
func (l *Ledger) ProveConsistency(ctx context.Context, older, newer int64) ([]tlog.Hash, error) {
	l.mu.RLock()
	tree := l.tree
	l.mu.RUnlock()
	if older < 0 || older > newer || newer > tree.N {
		return nil, fmt.Errorf("cannot prove that size %d extends size %d in a ledger of %d", newer, older, tree.N)
	}
	if older == 0 || older == newer {
		return nil, nil
	}
	return tlog.ProveTree(newer, older, tlog.TileHashReader(tree, &tileReader{ctx, l}))
}

// tileReader reads hash tiles from the server.
type tileReader struct {
	ctx context.Context
	l   *Ledger
}

func (*tileReader) Height() int { return torchwood.TileHeight }

func (r *tileReader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	out := make([][]byte, len(tiles))
	for i, t := range tiles {
		if raw, ok := r.l.tiles.Get(t); ok {
			out[i] = raw
			continue
		}
		raw, err := r.read(t)
		if err != nil {
			return nil, err
		}
		out[i] = raw
	}
	return out, nil
}

func (r *tileReader) read(t tlog.Tile) ([]byte, error) {
	resp, err := r.l.get(r.ctx, "/"+torchwood.TilePath(t))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return readAll(resp, torchwood.TileWidth*tlog.HashSize)
}

// SaveTiles is called with tiles that were checked against the tree.
func (r *tileReader) SaveTiles(tiles []tlog.Tile, data [][]byte) {
	for i, t := range tiles {
		r.l.tiles.Add(t, data[i])
	}
}
