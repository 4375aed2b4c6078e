package ingest

import (
	"context"
	"errors"
	"iter"
	"net/http"
	"time"

	"github.com/retrace-ledger/retrace/schema"
)

// A Source is one place that is watched.
type Source interface {
	// Observe yields what the source says beyond cursor, and ends when it is
	// caught up. It is a pull: nothing is buffered ahead of the caller.
	//
	// The empty cursor stands for the beginning. Resuming from the cursor of
	// any event that has one gives the same events as not having stopped.
	// An error ends the sequence; events before it stand.
	// A cancelled context ends it promptly with the context's error.
	Observe(ctx context.Context, cursor string) iter.Seq2[Event, error]
}

// A Waiter is a Source that knows when to look again. Wait returns nil when
// there may be something beyond cursor, and the context's error when that is
// done first. Any other error means that it cannot tell: the caller polls.
type Waiter interface {
	Wait(ctx context.Context, cursor string) error
}

// A Hooked source learns by deliveries, such as a forge's webhooks, that there
// may be something new. A delivery is never a fact: it only has the source
// looked at.
type Hooked interface {
	// Hook says whether a delivery to /webhooks/NAME is about this source.
	// It checks the signature or token with what the source is configured with,
	// in constant time, before it believes anything in body, and returns
	// ErrForged for one that is about this source and not signed so.
	Hook(name string, header http.Header, body []byte) (bool, error)
}

// A Taker is a Source that was also asked to make something where it watches, such
// as snapshots of volumes, and to remove of what it made what is not kept. Only
// one that is configured so is one. Observing it never does either.
type Taker interface {
	// Take does what is due at now and returns. What it does it hands to record,
	// before it removes anything and after it made something; where that fails, so
	// does Take. It can be called again at any time, also after a crash and beside
	// another process that does the same: nothing is made twice.
	Take(ctx context.Context, now time.Time, record func(context.Context, schema.Statement) error) error
}

// ErrForged is returned for a delivery whose signature or token is wrong.
var ErrForged = errors.New("the signature or token of the delivery is wrong")

// Event is what was read from a source: a fact (Statement or Envelope), an
// object that could not be made one (Skipped), or neither, to move the cursor
// or to carry the listing.
type Event struct {
	// Statement is what the source says, in retrace's words, and nothing about
	// when or how it was seen: reading it again gives the same bytes.
	Statement schema.Statement
	// Envelope is set instead of Statement for a document that the source
	// holds and others signed. It is recorded byte for byte.
	Envelope *schema.Envelope
	// Skipped is set instead of Statement for an object that the source holds
	// and that no statement can be made of. It is counted and shown; the
	// source goes on.
	Skipped *Skip
	// Listing is what the source held in all. A read that was complete carries
	// it on its last event, which may have nothing else.
	Listing *Listing
	// Cursor is where to resume after this event. Empty means that one cannot
	// resume here: this event and those up to the next cursor are recorded
	// together or not at all. There are at most MaxGroup of them.
	Cursor string
	// Total estimates how many events the sequence will give in all, for a
	// progress bar; 0 if unknown.
	Total int
}

// Skip says which object was left out, and why. It is recorded as refused with
// the coverage of the source.
type Skip struct {
	Object string     // what it is, such as "commit 1b2c…"
	Reason error      // a *schema.FieldError where a field is at fault
	Digest schema.Key // of the object's bytes; empty where there are none
}

// Listing is what a source held when it was read to the end: how many things,
// and a digest of which.
type Listing struct {
	Count  int
	Digest schema.Key
}

// Fact says whether the event is one: whether it has a statement or an
// envelope.
func (e *Event) Fact() bool { return e.Envelope != nil || e.Statement.Type != "" }

// MaxGroup is how many facts may stand between two cursors.
const MaxGroup = 1024

// A Fetcher brings back the content of resources of its kind. For every
// resource, Digest of what Fetch left is the resource's key.
type Fetcher interface {
	// Fetch lays the content of r out in dir, an existing empty directory.
	Fetch(ctx context.Context, r schema.Resource, dir string) error
	// Digest is the key of what Fetch left in dir.
	Digest(ctx context.Context, dir string) (schema.Key, error)
}

// A Log is where facts are recorded. *ledger.Ledger is one; a client of a
// remote ledger is another.
type Log interface {
	// Append records a batch, whole or not at all. The error of one that is
	// refused because a cursor is not where the batch says has a method
	// Conflict() bool that returns true.
	Append(ctx context.Context, b schema.Batch) (schema.Receipt, error)
	// Cursor is how far source has been read in namespace; "" if never.
	Cursor(ctx context.Context, namespace, source string) (string, error)
}

// Content is where bytes are kept so that they can be restored.
// *content.Store is one.
type Content interface {
	// Put keeps the file or folder at path and returns its key: sha256 of a
	// file, retraceTree1 of a folder. Putting the same bytes again is cheap.
	Put(ctx context.Context, path string) (schema.Key, error)
	// Has says whether the bytes of key are kept.
	Has(ctx context.Context, key schema.Key) (bool, error)
	// Fetch lays the content of key out at path, which must not exist.
	Fetch(ctx context.Context, key schema.Key, path string) error
}
