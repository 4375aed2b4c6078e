package graphql

import (
	"context"
	"encoding/base64"
	"strconv"
	"strings"
)

// Pages of connections.
const (
	defaultPage = 100
	maxPage     = 1000
)

// pageArgs are the arguments of every connection.
type pageArgs struct {
	First *int32
	After *string
}

func (p pageArgs) first() (int, error) {
	switch {
	case p.First == nil:
		return defaultPage, nil
	case *p.First < 0:
		return 0, badInput("first", "%d is negative", *p.First)
	case *p.First > maxPage:
		return 0, &Error{Code: CodeLimit, Field: "first", Message: strconv.Itoa(int(*p.First)) + " is more than the limit of " + strconv.Itoa(maxPage)}
	}
	return int(*p.First), nil
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

func parseCursor(s string) (cursor, error) {
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
	return cursor{}, badInput("after", "%q is not a cursor from an earlier page", clip(s))
}

// index is the key as the index of an entry.
func (c cursor) index() (int64, error) {
	n, err := strconv.ParseInt(c.key, 10, 64)
	if err != nil || n < 0 {
		return 0, badInput("after", "the cursor is of another list")
	}
	return n, nil
}

// pageOf is the answer that a page is cut from, and the place it begins after;
// nil at the beginning of the list.
func (a *API) pageOf(ctx context.Context, p pageArgs) (*answer, *cursor, error) {
	if p.After == nil {
		in, err := a.view(ctx, nil, nil)
		return in, nil, err
	}
	c, err := parseCursor(*p.After)
	if err != nil {
		return nil, nil, err
	}
	size := Long(c.size)
	in, err := a.view(ctx, nil, &size)
	return in, &c, err
}

// connection is one page of a list (Relay cursor connections).
type connection[T any] struct {
	items []edgeTo[T]
	more  bool // there is a page after this one
	later bool // there is one before
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

func (c *connection[T]) Edges() []edgeTo[T] { return c.items }

func (c *connection[T]) Nodes() []T {
	nodes := make([]T, len(c.items))
	for i, e := range c.items {
		nodes[i] = e.node
	}
	return nodes
}

func (c *connection[T]) PageInfo() pageInfo {
	p := pageInfo{HasNextPage: c.more, HasPreviousPage: c.later}
	if n := len(c.items); n > 0 {
		p.StartCursor, p.EndCursor = &c.items[0].cursor, &c.items[n-1].cursor
	}
	return p
}

func (c *connection[T]) TotalCount(ctx context.Context) (*Long, error) {
	n, err := c.count(ctx)
	return long(n), err
}

// add appends an item to a page of at most first, and says whether there is
// room for more.
func (c *connection[T]) add(node T, at cursor, first int) bool {
	if len(c.items) == first {
		c.more = true
		return false
	}
	c.items = append(c.items, edgeTo[T]{node, at.String()})
	return true
}
