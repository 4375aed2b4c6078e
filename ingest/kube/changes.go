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
// then what changed. It is for one goroutine at a time.
type Reader struct {
	client    *Client
	typ       Type
	namespace string

	bookmarked time.Time // when the API server last said how far a read was
	told       bool      // Wait saw something that no read has given yet
}

// NewReader returns a reader of the objects of a type in namespace, "" for all.
func NewReader(client *Client, typ Type, namespace string) *Reader {
	return &Reader{client: client, typ: typ, namespace: namespace, bookmarked: time.Now()}
}

// Change is an object that is new or changed.
type Change struct {
	Object  Object
	Deleted bool // Object is the last state that it had
	// Listed says that a list gave the object, and not a watch.
	Listed bool
	// Again says that it was listed since the API server had forgotten the
	// cursor: all objects are given once more.
	Again bool
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
	Again bool   `json:"again,omitempty"`
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
	if err != nil { // two strings and a flag
		panic(err)
	}
	return string(raw)
}

// CheckCursor refuses what is no cursor of a Reader.
func CheckCursor(s string) error {
	_, err := parseCursor(s)
	return err
}

// A read is caught up when nothing came for so long: what had happened before it
// began, the API server sends at once.
const quiet = 300 * time.Millisecond

// From time to time a read waits until the API server says how far it is, so
// that the cursor stays one that the server knows: with this span it says so
// after a second.
const (
	bookmarkSpan  = 3 * time.Second
	bookmarkEvery = time.Minute
)

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
			at = cursor{Again: true}
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
	for p, err := range r.client.pages(ctx, r.typ, r.namespace) {
		if err != nil {
			yield(Change{}, err)
			return at, false
		}
		if at.Version == "" {
			at.Version = p.Metadata.ResourceVersion
		}
		for _, raw := range p.Items {
			o, err := newObject(r.typ, raw)
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
			if !yield(Change{Object: o, Listed: true, Again: at.Again, Cursor: at.String()}, nil) {
				return at, false
			}
		}
	}
	at.After, at.Again = "", false
	return at, yield(Change{Cursor: at.String(), Listing: listed.sum()}, nil)
}

// follow yields what happened since the cursor. It reports again when the API
// server has forgotten it, and false when the sequence is over.
func (r *Reader) follow(ctx context.Context, at cursor, yield func(Change, error) bool) (again, ok bool) {
	watching, stop := context.WithCancel(ctx)
	defer stop()
	// A slow server is not a quiet one: the time runs from its answer, and where it
	// is known that something happened, from that.
	silence := time.AfterFunc(time.Hour, stop)
	defer silence.Stop()
	brief := time.Since(r.bookmarked) < bookmarkEvery
	for e, err := range r.client.watch(watching, r.typ, r.namespace, at.Version, bookmarkSpan) {
		silence.Stop()
		if gone(err) {
			return true, true
		}
		if err != nil && ctx.Err() == nil && watching.Err() != nil {
			return false, true
		}
		if err != nil {
			yield(Change{}, err)
			return false, false
		}
		if !e.opened {
			r.told = false
			at.Version = e.object.Meta.ResourceVersion
			if e.bookmark {
				r.bookmarked = time.Now()
				return false, yield(Change{Cursor: at.String()}, nil)
			}
			if !yield(Change{Object: e.object, Deleted: e.deleted, Cursor: at.String()}, nil) {
				return false, false
			}
		}
		if brief && !r.told {
			silence.Reset(quiet)
		}
	}
	r.told = false
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
	for e, err := range r.client.watch(ctx, r.typ, r.namespace, at.Version, longWatch) {
		if gone(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if !e.opened && !e.bookmark {
			r.told = true
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
