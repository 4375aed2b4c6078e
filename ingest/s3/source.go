package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/schema"
)

// source reads what recorded steps left in a bucket. It is for one goroutine at
// a time.
type source struct {
	bucket  *bucket
	entries ingest.Entries
	hashed  map[string]hashed // what was read last, by key
	seen    int64             // entries that were looked at
}

// hashed is what reading an object gave, so that what ten thousand runs read is
// hashed once.
type hashed struct {
	object object
	digest string
}

// maxHashed is of how many objects that is kept.
const maxHashed = 10_000

// position is the cursor: the first entry that was not looked at, and of that
// one, how many locations were.
type position struct {
	Entry int64 `json:"entry"`
	Done  int   `json:"done,omitempty"`
}

func parsePosition(s string) (position, error) {
	var p position
	if s == "" {
		return p, nil
	}
	if err := json.Unmarshal([]byte(s), &p, json.RejectUnknownMembers(true)); err != nil || p.Entry < 0 || p.Done < 0 || s == "null" || p == (position{}) {
		return p, fmt.Errorf("%.100q is not a cursor of objects", s)
	}
	return p, nil
}

func (p position) String() string {
	raw, err := schema.Canonical(p)
	if err != nil { // two numbers
		panic(err)
	}
	return string(raw)
}

// Observe implements ingest.Source: it looks at the steps recorded beyond the
// cursor.
func (s *source) Observe(ctx context.Context, from string) iter.Seq2[ingest.Event, error] {
	return func(yield func(ingest.Event, error) bool) {
		at, err := parsePosition(from)
		if err != nil {
			yield(ingest.Event{}, err)
			return
		}
		// A store that is not there fails also when no step left anything in it.
		if ok, err := s.bucket.client.BucketExists(ctx, s.bucket.name); err != nil {
			yield(ingest.Event{}, fmt.Errorf("asking for the bucket %s: %w", s.bucket.name, err))
			return
		} else if !ok {
			yield(ingest.Event{}, fmt.Errorf("there is no bucket %s", s.bucket.name))
			return
		}
		for e, err := range s.entries.Entries(ctx, at.Entry) {
			if err != nil {
				yield(ingest.Event{}, err)
				return
			}
			for i, l := range s.bucket.locations(e) {
				if i < at.Done {
					continue
				}
				next := position{Entry: e.Index, Done: i + 1}
				event, err := s.look(ctx, l)
				if err != nil {
					yield(ingest.Event{}, err)
					return
				}
				event.Cursor = next.String()
				if !yield(event, nil) {
					return
				}
			}
			at = position{Entry: e.Index + 1}
			s.seen = max(s.seen, at.Entry)
		}
		if err := ctx.Err(); err != nil {
			yield(ingest.Event{}, err)
			return
		}
		if at != (position{}) {
			yield(ingest.Event{Cursor: at.String()}, nil)
		}
	}
}

// Wait implements ingest.Waiter. Where the ledger cannot tell when it grows, it
// is looked at again after the interval.
func (s *source) Wait(ctx context.Context, from string) error {
	at, err := parsePosition(from)
	if err != nil {
		return err
	}
	log, ok := s.entries.(interface {
		Wait(ctx context.Context, size int64) error
	})
	if !ok {
		return errors.New("this ledger does not say when it grows")
	}
	return log.Wait(ctx, max(at.Entry, s.seen)+1)
}

// location is where a step left or read something in the bucket.
type location struct {
	key  string
	when time.Time // when the step ended, for what it left, began, for what it read
	run  string    // that left it; "" for what it read
}

// locations are those that an entry names in the bucket, if it states a step.
func (b *bucket) locations(e schema.Entry) []location {
	if e.State != schema.Present {
		return nil
	}
	st, err := e.Envelope.Statement()
	if err != nil || st.PredicateType != schema.ProvenanceV1 {
		return nil
	}
	f, err := st.Facts()
	if err != nil || f.Step == nil {
		return nil
	}
	// Of a version of a table no store can say which of its objects were in it.
	version := func(k schema.Key) bool {
		return slices.ContainsFunc(f.Relations, func(r schema.Relation) bool { return r.Kind == schema.RelLocated && r.From == k })
	}
	var found []location
	add := func(k schema.Key, when time.Time, run string) {
		uri, ok := strings.CutPrefix(string(k), string(schema.URIKey("")))
		if !ok || version(k) {
			return
		}
		key, ok := b.key(uri)
		if ok && !slices.ContainsFunc(found, func(l location) bool { return l.key == key }) {
			found = append(found, location{key, when, run})
		}
	}
	for _, o := range f.Step.Generates {
		add(o.Key, f.Step.Finished, f.Step.Run)
	}
	for _, u := range f.Step.Uses {
		if u.Producer == "" { // else the step that left it has been looked at
			add(u.Key, f.Step.Started, "")
		}
	}
	return found
}

// slack is how much later than the end of a step, by the clock of the pipeline,
// what it left may have been written by the clock of the store.
const slack = 2 * time.Minute

// errNothing is why a location is left out where nothing is.
var errNothing = errors.New("nothing is there, and nothing is kept of what was")

// look reads what is at a location and says what it is. What is not there, or
// cannot be read, is left out.
func (s *source) look(ctx context.Context, l location) (ingest.Event, error) {
	when := l.when
	if !when.IsZero() {
		when = when.Add(slack)
	}
	objects, folder, err := s.bucket.at(ctx, l.key, when)
	if err == nil && len(objects) == 0 {
		err = errNothing
	}
	if err == nil {
		var st schema.Statement
		if st, err = s.describe(ctx, l, objects, folder, when); err == nil {
			return ingest.Event{Statement: st}, nil
		}
	}
	var odd *schema.FieldError
	if errors.Is(err, errNothing) || errors.Is(err, errOverwritten) || denied(err) || missing(err) || errors.As(err, &odd) {
		return ingest.Event{Skipped: &ingest.Skip{Object: s.bucket.uri(l.key), Reason: err}}, nil
	}
	return ingest.Event{}, err
}

// describe hashes the objects and makes the statement.
func (s *source) describe(ctx context.Context, l location, objects []object, folder bool, when time.Time) (schema.Statement, error) {
	p := schema.Snapshot{Source: s.bucket.uri(l.key), Run: l.run, Count: len(objects)}
	subject := schema.Descriptor{Name: path.Base(l.key), Annotations: map[string]any{schema.AnnotationKind: Name}}
	for _, o := range objects {
		p.Bytes += o.size
	}
	if !folder {
		o := objects[0]
		sum, err := s.digest(ctx, o)
		if err != nil {
			return schema.Statement{}, err
		}
		p.Version, p.ETag, p.Modified = o.version, o.etag, o.modified.UTC()
		subject.URI = p.Source
		if o.version != "" {
			subject.URI += "?versionId=" + url.QueryEscape(o.version)
		}
		subject.Digest = schema.DigestSet{schema.SHA256: sum}
		return schema.NewStatement(schema.SnapshotV1, p, subject)
	}
	list, err := files(l.key+"/", objects, func(o object) (string, error) { return s.digest(ctx, o) })
	if err != nil {
		return schema.Statement{}, err
	}
	tree, err := schema.TreeDigest(list)
	if err != nil {
		return schema.Statement{}, err
	}
	p.Count = len(list)
	if len(list) <= schema.MaxSnapshotFiles {
		p.Files = list
	}
	subject.URI = p.Source
	if !when.IsZero() {
		subject.URI += "?at=" + url.QueryEscape(when.UTC().Format(time.RFC3339))
	}
	subject.Digest = schema.DigestSet{schema.RetraceTree1: tree}
	return schema.NewStatement(schema.SnapshotV1, p, subject)
}

// digest is that of an object, read unless it was read before.
func (s *source) digest(ctx context.Context, o object) (string, error) {
	if h, ok := s.hashed[o.key]; ok && h.object == o {
		return h.digest, nil
	}
	sum, err := s.bucket.read(ctx, o, io.Discard)
	if err != nil {
		return "", err
	}
	if len(s.hashed) >= maxHashed {
		clear(s.hashed)
	}
	s.hashed[o.key] = hashed{o, sum}
	return sum, nil
}
