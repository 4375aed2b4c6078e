package graphql

import (
	"context"
	"encoding/base64"
	"slices"
	"strconv"
	"strings"
)

// Pages of connections.
const (
	defaultPage = 100
	maxPage     = 1000
)

// pageArgs are the arguments of every connection: a page from the beginning or
// after a place, or from the end or before a place (Relay cursor connections).
type pageArgs struct {
	First, Last   *int32
	After, Before *string
}

// longArgs are those of lists in the ledger's order.
type longArgs struct {
	pageArgs
	asOf
	OrderBy string
}

const newestFirst = "NEWEST_FIRST"

// most is how many items the page holds, and whether it ends at its place.
func (p pageArgs) most() (n int, backward bool, err error) {
	given, field := p.First, "first"
	if p.Last != nil || p.Before != nil {
		given, field, backward = p.Last, "last", true
	}
	switch {
	case backward && (p.First != nil || p.After != nil):
		return 0, false, badInput(field, "a page begins (first, after) or ends (last, before) at a place, not both")
	case given == nil:
		return defaultPage, backward, nil
	case *given < 0:
		return 0, backward, badInput(field, "%d is negative", *given)
	case *given > maxPage:
		return 0, backward, &Error{Code: CodeLimit, Field: field, Message: strconv.Itoa(int(*given)) + " is more than the limit of " + strconv.Itoa(maxPage)}
	}
	return int(*given), backward, nil
}

// cursor is a place in a list as it was at one size of the ledger, so that the
// pages of one reading fit together while the ledger grows.
type cursor struct {
	size int64
	key  string // of the item before the place
}

func (c cursor) String() string {
	return base64.RawURLEncoding.EncodeToString([]byte("1:" + strconv.FormatInt(c.size, 10) + ":" + c.key))
}

func parseCursor(s, field string) (cursor, error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err == nil {
		if rest, ok := strings.CutPrefix(string(raw), "1:"); ok {
			size, key, _ := strings.Cut(rest, ":")
			n, err := strconv.ParseInt(size, 10, 64)
			if err == nil && n > 0 {
				return cursor{n, key}, nil
			}
		}
	}
	return cursor{}, badInput(field, "%q is not a cursor from an earlier page", clip(s))
}

// index is the key as the index of an entry.
func (c cursor) index() (int64, error) {
	n, err := strconv.ParseInt(c.key, 10, 64)
	if err != nil || n < 0 {
		return 0, badInput("after", "the cursor is of another list")
	}
	return n, nil
}

// reading is one page under way: where it begins and which way it goes.
type reading struct {
	in       *answer
	most     int
	at       *cursor // the place; nil at an end of the list
	backward bool    // towards the beginning of the list
}

// reading begins a page of the list as it is at a size of the ledger, or as it
// was when the place was given out.
func (a *API) reading(ctx context.Context, p pageArgs, of asOf) (r reading, err error) {
	if r.most, r.backward, err = p.most(); err != nil {
		return r, err
	}
	place, field := p.After, "after"
	if r.backward {
		place, field = p.Before, "before"
	}
	if place != nil {
		c, err := parseCursor(*place, field)
		if err != nil {
			return r, err
		}
		if size := of.AsOfSize; size != nil && int64(*size) != c.size {
			return r, badInput(field, "the cursor is of size %d of the ledger, and not of asOfSize %d", c.size, *size)
		}
		known := Long(c.size)
		r.at, of.AsOfSize = &c, &known
	}
	r.in, err = a.view(ctx, of.At, of.AsOfSize)
	return r, err
}

// from is the entry that the page begins at, in a list in the order of entries,
// and whether it goes down from there.
func (r reading) from(orderBy string) (index int64, newest bool, err error) {
	newest = (orderBy == newestFirst) != r.backward
	switch {
	case r.at == nil && newest:
		return r.in.View.Size() - 1, true, nil
	case r.at == nil:
		return 0, false, nil
	}
	if index, err = r.at.index(); newest {
		return index - 1, true, err
	}
	return index + 1, false, err
}

// page is an empty page of the list.
func page[T any](r reading, count func(context.Context) (int64, error)) *connection[T] {
	return &connection[T]{reading: r, count: count}
}

// pageFrom is a page of a list that is all there, each item with its place.
func pageFrom[T any](r reading, items []T, place func(T) string) *connection[T] {
	c := page[T](r, func(context.Context) (int64, error) { return int64(len(items)), nil })
	for i := range items {
		if r.backward {
			i = len(items) - 1 - i
		}
		at := place(items[i])
		if r.at != nil && (!r.backward && at <= r.at.key || r.backward && at >= r.at.key) {
			continue
		}
		if !c.add(items[i], at) {
			break
		}
	}
	return c
}

// connection is one page of a list (Relay cursor connections).
type connection[T any] struct {
	reading
	items []edgeTo[T] // in the order read
	more  bool        // there is a page beyond this one
	count func(context.Context) (int64, error)
}

type edgeTo[T any] struct {
	node   T
	cursor string
}

func (e edgeTo[T]) Node() T        { return e.node }
func (e edgeTo[T]) Cursor() string { return e.cursor }

type pageInfo struct {
	HasNextPage     bool
	HasPreviousPage bool
	StartCursor     *string
	EndCursor       *string
}

func (c *connection[T]) Edges() []edgeTo[T] {
	if !c.backward {
		return c.items
	}
	items := slices.Clone(c.items)
	slices.Reverse(items)
	return items
}

func (c *connection[T]) Nodes() []T {
	edges := c.Edges()
	nodes := make([]T, len(edges))
	for i, e := range edges {
		nodes[i] = e.node
	}
	return nodes
}

func (c *connection[T]) PageInfo() pageInfo {
	p := pageInfo{HasNextPage: c.more, HasPreviousPage: c.at != nil}
	if c.backward {
		p.HasNextPage, p.HasPreviousPage = p.HasPreviousPage, p.HasNextPage
	}
	if edges := c.Edges(); len(edges) > 0 {
		p.StartCursor, p.EndCursor = &edges[0].cursor, &edges[len(edges)-1].cursor
	}
	return p
}

func (c *connection[T]) TotalCount(ctx context.Context) (*Long, error) {
	n, err := c.count(ctx)
	return long(n), err
}

// add appends an item, whose place is at, and says whether there was room.
func (c *connection[T]) add(node T, at string) bool {
	if len(c.items) == c.most {
		c.more = true
		return false
	}
	c.items = append(c.items, edgeTo[T]{node, cursor{c.in.View.Size(), at}.String()})
	return true
}
