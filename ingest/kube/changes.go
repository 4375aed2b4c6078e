package kube

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"iter"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/schema"
)

// Reader reads the objects of one type as a source is read: all of them first,
// then what changed.
type Reader struct {
	Client    *Client
	Type      Type
	Namespace string // "" for all
}

// Change is an object that is new or changed.
type Change struct {
	Object  Object
	Deleted bool // Object is the last state that it had
	// Cursor is where to resume after this change.
	Cursor string
	// Listing is set on the last change of a read that listed everything. That
	// change may have no object: its name is "" then.
	Listing *ingest.Listing
}

// cursor is how far the objects of a type were read.
type cursor struct {
	// Version is the resource version from which the watch goes on.
	Version string `json:"version"`
	// After is, within a list that is not at its end, the last object given.
	After string `json:"after,omitempty"`
}

func parseCursor(s string) (cursor, error) {
	var c cursor
	if s == "" {
		return c, nil
	}
	if err := json.Unmarshal([]byte(s), &c, json.RejectUnknownMembers(true)); err != nil || c.Version == "" {
		return c, fmt.Errorf("%q is not a cursor of objects of Kubernetes", s)
	}
	return c, nil
}

func (c cursor) String() string {
	raw, err := schema.Canonical(c)
	if err != nil { // two strings
		panic(err)
	}
	return string(raw)
}

// settled is how long a read waits for changes that it does not know of: about
// a second after it began the API server tells how far the watch is (a
// bookmark is sent two seconds before the end).
const settled = 3 * time.Second

// Changes yields what there is beyond a cursor and ends when it is caught up:
// objects as they are now, in order of namespace and name, from the empty
// cursor; what happened, in order, from any other. Of several changes to one
// object the earlier ones may be left out. Where the API server does not know
// the cursor any more, all objects are given again.
//
// Deletions are told of as long as the API server remembers them: those that
// happened while nobody watched may be lost, and coverage says when that was.
func (r *Reader) Changes(ctx context.Context, from string) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		at, err := parseCursor(from)
		if err != nil {
			yield(Change{}, err)
			return
		}
		if at.Version != "" && at.After == "" {
			again, ok := r.follow(ctx, at, yield)
			if !ok || !again {
				return
			}
			at = cursor{}
		}
		if at, ok := r.list(ctx, at, yield); ok {
			// What happened while the list was read.
			r.follow(ctx, at, yield)
		}
	}
}

// list yields all objects after the cursor. It reports false when the sequence
// is over.
func (r *Reader) list(ctx context.Context, at cursor, yield func(Change, error) bool) (cursor, bool) {
	listed := newListing()
	for p, err := range r.Client.pages(ctx, r.Type, r.Namespace) {
		if err != nil {
			yield(Change{}, err)
			return at, false
		}
		if at.Version == "" {
			at.Version = p.Metadata.ResourceVersion
		}
		for _, raw := range p.Items {
			o, err := newObject(r.Type, raw)
			if err != nil {
				yield(Change{}, err)
				return at, false
			}
			listed.add(&o.Meta)
			key := o.Meta.key()
			if key <= at.After {
				continue
			}
			at.After = key
			if !yield(Change{Object: o, Cursor: at.String()}, nil) {
				return at, false
			}
		}
	}
	at.After = ""
	return at, yield(Change{Cursor: at.String(), Listing: listed.sum()}, nil)
}

// follow yields what happened since the cursor. It reports again when the API
// server has forgotten it, and false when the sequence is over.
func (r *Reader) follow(ctx context.Context, at cursor, yield func(Change, error) bool) (again, ok bool) {
	for e, err := range r.Client.watch(ctx, r.Type, r.Namespace, at.Version, settled) {
		if gone(err) {
			return true, true
		}
		if err != nil {
			yield(Change{}, err)
			return false, false
		}
		at.Version = e.object.Meta.ResourceVersion
		if e.bookmark {
			return false, yield(Change{Cursor: at.String()}, nil)
		}
		if !yield(Change{Object: e.object, Deleted: e.deleted, Cursor: at.String()}, nil) {
			return false, false
		}
	}
	if err := ctx.Err(); err != nil {
		yield(Change{}, err)
		return false, false
	}
	return false, true
}

// longWatch is how long the API server is asked to keep a watch open.
const longWatch = 5 * time.Minute

// Wait returns nil when something happened after the cursor (ingest.Waiter).
func (r *Reader) Wait(ctx context.Context, from string) error {
	at, err := parseCursor(from)
	if err != nil {
		return err
	}
	if at.Version == "" || at.After != "" {
		return nil
	}
	for e, err := range r.Client.watch(ctx, r.Type, r.Namespace, at.Version, longWatch) {
		if gone(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if !e.bookmark {
			return nil
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return errors.New("the watch ended without an event")
}

// listing sums up what was listed.
type listing struct {
	count int
	hash  hash.Hash
}

func newListing() *listing { return &listing{hash: sha256.New()} }

func (l *listing) add(m *Meta) {
	l.count++
	fmt.Fprintf(l.hash, "%s\x00%s\x00%s\n", m.key(), m.UID, m.ResourceVersion)
}

func (l *listing) sum() *ingest.Listing {
	return &ingest.Listing{Count: l.count, Digest: schema.Key(schema.SHA256 + ":" + hex.EncodeToString(l.hash.Sum(nil)))}
}
