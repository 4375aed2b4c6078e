package snapshot

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/url"
	"os"
	"path/filepath"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/keep"
	"github.com/retrace-ledger/retrace/schema"
)

// Name is the name of this kind.
const Name = "snapshot"

const scheme = "dir"

// Store is what a snapshot needs of the content store. *content.Store is one.
type Store interface {
	ingest.Content
	// Snapshot keeps the folder at path until holder lets it go, for good if that
	// is "", and says what it found. It need not read files that did not change
	// since the last time, unless all are to be.
	Snapshot(ctx context.Context, path, holder string, all bool) (schema.Key, []schema.SnapshotFile, error)
	// Durability is what the bytes that Snapshot keeps of the folder dir survive:
	// one of schema's durabilities, "" where that cannot be told.
	Durability(dir string) string
	// Digest is the key that Put would give.
	Digest(ctx context.Context, path string, exclude ...string) (schema.Key, []schema.SnapshotFile, error)
	// Excluded is what Put leaves out below the folder dir.
	Excluded(dir string) []string
}

// Kind is how ingest/all lists this package.
func Kind() ingest.Kind {
	return ingest.Kind{
		Name:    Name,
		Schemes: []string{scheme},
		Open: func(_ context.Context, place ingest.Place, env ingest.Env) (ingest.Source, string, error) {
			set, err := settingsOf(place)
			if err != nil {
				return nil, "", err
			}
			dir, err := parseURL(place.URL)
			if err != nil {
				return nil, "", err
			}
			store, err := storeOf(env)
			if err != nil {
				return nil, "", err
			}
			o := Options{All: set.Read == readAll}
			if set.Keep != nil {
				o.Holder = URL(dir)
			}
			return &source{store: store, dir: dir, opts: o}, URL(dir), nil
		},
		NewFetcher: func(env ingest.Env) ingest.Fetcher { return fetcher{env} },
	}
}

func storeOf(env ingest.Env) (Store, error) {
	store, ok := env.Content.(Store)
	if !ok {
		return nil, errors.New("a snapshot needs a content store to keep the bytes in, and there is none")
	}
	return store, nil
}

// URL names the folder at the absolute path dir as a source.
func URL(dir string) string {
	return (&url.URL{Scheme: scheme, Path: filepath.ToSlash(filepath.Clean(dir))}).String()
}

// parseURL reads dir:///path.
func parseURL(rawURL string) (string, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return "", fmt.Errorf("%q is not the URL of a folder: %w", rawURL, err)
	}
	if u.Scheme != scheme || u.Host != "" || u.User != nil || u.Opaque != "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || !filepath.IsAbs(filepath.FromSlash(u.Path)) {
		return "", fmt.Errorf("%q is not the URL of a folder: want dir:///path, with three slashes and nothing behind the path", rawURL)
	}
	return filepath.Clean(filepath.FromSlash(u.Path)), nil
}

// settings are those of a folder in retrace.yaml.
type settings struct {
	// Read is "changed", which is the default, or "all".
	Read string `json:"read"`
	// Keep says which snapshots stay in the content store; without it, all.
	Keep *keep.Rules `json:"keep"`
}

const (
	readChanged = "changed"
	readAll     = "all"
)

func settingsOf(place ingest.Place) (settings, error) {
	var s settings
	if err := place.Settings(&s); err != nil {
		return s, err
	}
	switch s.Read {
	case "", readChanged, readAll:
	default:
		return s, ingest.Setting("read", fmt.Errorf("%q is neither %q nor %q", s.Read, readChanged, readAll))
	}
	if s.Keep != nil {
		if err := s.Keep.Check(); err != nil {
			return s, ingest.Setting("keep", err)
		}
	}
	return s, nil
}

// KeepOf returns the keep rules of a folder in retrace.yaml, nil where it has
// none.
func KeepOf(place ingest.Place) (*keep.Rules, error) {
	s, err := settingsOf(place)
	return s.Keep, err
}

type source struct {
	store Store
	dir   string
	opts  Options
}

// Options of [Take]. The zero value is right.
type Options struct {
	Holder string // who may let the snapshot go; "" keeps it for good
	All    bool   // read all files, whether or not they changed
}

// Observe yields one statement if the folder differs from that of the cursor.
func (s *source) Observe(ctx context.Context, cursor string) iter.Seq2[ingest.Event, error] {
	return func(yield func(ingest.Event, error) bool) {
		e, err := observe(ctx, s.store, s.dir, cursor, s.opts)
		yield(e, err)
	}
}

// Take keeps the folder dir in store and describes it, if it differs from what
// it was at cursor; "" stands for never. Otherwise the statement is empty, its
// Type "". The cursor that it returns is the one to hand in the next time.
func Take(ctx context.Context, store Store, dir, cursor string, opts Options) (schema.Statement, string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return schema.Statement{}, "", fmt.Errorf("taking a snapshot of %s: %w", dir, err)
	}
	e, err := observe(ctx, store, abs, cursor, opts)
	return e.Statement, e.Cursor, err
}

// position is the cursor: what the folder held, and the statement that said
// so, by the sha256 of its payload.
type position struct {
	Version  int        `json:"v"`
	Tree     schema.Key `json:"tree"`
	Previous string     `json:"previous"`
}

func parseCursor(cursor string) (position, error) {
	var p position
	if cursor == "" {
		return p, nil
	}
	dec := json.NewDecoder(bytes.NewReader([]byte(cursor)))
	dec.DisallowUnknownFields()
	err := dec.Decode(&p)
	if err == nil {
		if _, end := dec.Token(); !errors.Is(end, io.EOF) {
			err = errors.New("something follows it")
		}
	}
	if err == nil && p.Version != 1 {
		err = fmt.Errorf("version %d is not one that this program writes", p.Version)
	}
	if err == nil {
		_, err = schema.ParseKey(string(p.Tree))
	}
	if err == nil {
		_, err = schema.ParseKey(schema.SHA256 + ":" + p.Previous)
	}
	if err == nil && p.Tree.Algorithm() != schema.RetraceTree1 {
		err = fmt.Errorf("%s is not the digest of a folder", p.Tree)
	}
	if err != nil {
		return p, fmt.Errorf("reading the cursor of a snapshot: %w", err)
	}
	return p, nil
}

// At is the folder that a cursor stands for; "" for none.
func At(cursor string) (schema.Key, error) {
	p, err := parseCursor(cursor)
	return p.Tree, err
}

func observe(ctx context.Context, store Store, dir, cursor string, opts Options) (ingest.Event, error) {
	var e ingest.Event
	last, err := parseCursor(cursor)
	if err != nil {
		return e, err
	}
	if err := ctx.Err(); err != nil {
		return e, err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return e, fmt.Errorf("taking a snapshot: %w", err)
	}
	if !info.IsDir() {
		return e, fmt.Errorf("taking a snapshot of %s: it is not a folder", dir)
	}
	key, files, err := store.Snapshot(ctx, dir, opts.Holder, opts.All)
	if err != nil {
		return e, fmt.Errorf("taking a snapshot: %w", err)
	}
	e.Listing = &ingest.Listing{Count: len(files), Digest: key}
	e.Cursor, e.Total = cursor, 1
	if key == last.Tree {
		return e, nil
	}
	if e.Statement, err = describe(store, dir, key, files, last.Previous); err != nil {
		return ingest.Event{}, fmt.Errorf("taking a snapshot of %s: %w", dir, err)
	}
	payload, err := e.Statement.Encode()
	if err != nil {
		return ingest.Event{}, err
	}
	next, err := json.Marshal(position{Version: 1, Tree: key, Previous: schema.BytesKey(payload).Hex()})
	e.Cursor = string(next)
	return e, err
}

// How many bytes of file list go with a statement: with the first of a folder,
// so that it fits into an envelope, to which base64 adds a third; and with those
// after it, of which there may be thousands. What is not listed is in the
// content store.
const (
	maxList  = 5 << 19
	maxAgain = 64 << 10
)

func describe(store Store, dir string, key schema.Key, files []schema.SnapshotFile, previous string) (schema.Statement, error) {
	s := schema.Snapshot{
		Source: URL(dir), Store: "store", Durability: store.Durability(dir),
		Count: len(files), Excluded: store.Excluded(dir), Previous: previous,
	}
	for _, f := range files {
		s.Bytes += f.Size
	}
	if len(files) <= schema.MaxSnapshotFiles {
		s.Files = files
	}
	raw, err := schema.Canonical(&s)
	if err != nil {
		return schema.Statement{}, err
	}
	if len(raw) > maxList || previous != "" && len(raw) > maxAgain {
		s.Files = nil
	}
	return schema.NewStatement(schema.SnapshotV1, &s, schema.Descriptor{
		Name: filepath.Base(dir), URI: URL(dir), Digest: schema.DigestSet{key.Algorithm(): key.Hex()},
	})
}

// fetcher brings folders back from the content store.
type fetcher struct{ env ingest.Env }

// Fetch lays the folder r out in dir.
func (f fetcher) Fetch(ctx context.Context, r schema.Resource, dir string) error {
	if r.Key.Algorithm() != schema.RetraceTree1 {
		return fmt.Errorf("fetching %s: it is not the digest of a folder", r.Key)
	}
	store, err := storeOf(f.env)
	if err != nil {
		return fmt.Errorf("fetching %s: %w", r.Key, err)
	}
	var random [8]byte
	rand.Read(random[:])
	work := filepath.Join(dir, ".retrace-"+hex.EncodeToString(random[:]))
	if err := store.Fetch(ctx, r.Key, work); err != nil {
		return err
	}
	entries, err := os.ReadDir(work)
	if err != nil {
		return fmt.Errorf("fetching %s: %w", r.Key, err)
	}
	for _, e := range entries {
		if err := os.Rename(filepath.Join(work, e.Name()), filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("fetching %s: %w", r.Key, err)
		}
	}
	if err := os.Remove(work); err != nil {
		return fmt.Errorf("fetching %s: %w", r.Key, err)
	}
	return nil
}

// Digest is the key of what Fetch left in dir.
func (f fetcher) Digest(ctx context.Context, dir string) (schema.Key, error) {
	store, err := storeOf(f.env)
	if err != nil {
		return "", fmt.Errorf("digesting %s: %w", dir, err)
	}
	key, _, err := store.Digest(ctx, dir)
	return key, err
}
