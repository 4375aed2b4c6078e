package lineage

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/go-json-experiment/json"

	"github.com/retrace-ledger/retrace/schema"
)

// A Log is what the graph follows. *ledger.Ledger is one.
type Log interface {
	Size() int64
	Entry(ctx context.Context, index int64) (schema.Entry, error)
	Entries(ctx context.Context, from int64) iter.Seq2[schema.Entry, error]
}

// Signers returns the IDs of those of keys by which a signature of env
// verifies. verify.Signers is one.
type Signers func(env schema.Envelope, keys []schema.PublicKey) []string

// ParseKey reads a public key from PEM. keys.ParsePublic is one.
type ParseKey func(pem []byte) (schema.PublicKey, error)

// Graph is the lineage index of one log. Its methods may be called from many
// goroutines; one at a time follows.
type Graph struct {
	db       *badger.DB
	dir      string
	signers  Signers
	parseKey ParseKey

	followMu sync.Mutex // held by the one who follows
	known    known      // to them
	turn     turn       // of those who read
	reads    atomic.Int64

	mu          sync.RWMutex
	state       state
	observer    string // key ID that genesis names
	trust       []trustEntry
	keys        []schema.PublicKey // of genesis and of every trust entry, in order
	changed     chan struct{}      // closed and replaced when state moves
	cache       *cache
	holes       holes
	retractions retractions
}

// Reads is how often views asked the store since g was opened. What they find in
// memory is not counted.
func (g *Graph) Reads() int64 { return g.reads.Load() }

// state is how far the log was followed.
type state struct {
	Version  int    `json:"version"`
	Size     int64  `json:"size"`     // entries followed
	Last     string `json:"last"`     // commitment of the last of them, in hex
	Nodes    nodeID `json:"nodes"`    // ids given
	Genesis  string `json:"genesis"`  // commitment of entry 0, in hex
	Observer string `json:"observer"` // key ID of the one in force
}

// indexVersion is the version of the keys above. An index of another version
// is deleted and built again.
const indexVersion = 8

type trustEntry struct {
	Index int64
	schema.Trust
}

// Open opens the index in dir, which is made if it is not there. An index that
// cannot be read, is of another version, or does not belong to log is deleted
// and comes back with the next Follow.
func Open(dir string, log Log, signers Signers, parseKey ParseKey) (*Graph, error) {
	g, err := openGuarded(dir, signers, parseKey)
	if err == nil {
		err = os.RemoveAll(freshPath(dir)) // nobody builds there: that would need this lock
	}
	if err == nil {
		if err = g.belongsTo(context.Background(), log); err == nil {
			return g, nil
		}
		g.db.Close()
	}
	if errors.Is(err, errInUse) {
		return nil, err
	}
	if rmErr := os.RemoveAll(dir); rmErr != nil {
		return nil, fmt.Errorf("removing the unusable lineage index %s (%v): %w", dir, err, rmErr)
	}
	return open(dir, signers, parseKey)
}

var errInUse = errors.New("the lineage index is in use by another process")

func open(dir string, signers Signers, parseKey ParseKey) (*Graph, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := checkTables(dir); err != nil {
		return nil, err
	}
	opts := badger.DefaultOptions(dir).
		WithLogger(nil).
		WithMetricsEnabled(false).
		WithDetectConflicts(false).
		WithCompression(options.None).
		WithChecksumVerificationMode(options.OnBlockRead).
		WithMemTableSize(32 << 20).
		WithNumMemtables(2).
		WithBlockCacheSize(32 << 20).
		WithIndexCacheSize(32 << 20).
		WithValueLogFileSize(64 << 20)
	db, err := badger.Open(opts)
	if err != nil {
		if isLockError(err) {
			return nil, fmt.Errorf("opening %s: %w", dir, errInUse)
		}
		return nil, fmt.Errorf("opening the lineage index %s: %w", dir, err)
	}
	g := &Graph{db: db, dir: dir, signers: signers, parseKey: parseKey, changed: make(chan struct{}), cache: newCache(), known: newKnown()}
	g.turn.idle.L = &g.turn.mu
	if err := g.load(); err != nil {
		db.Close()
		return nil, err
	}
	return g, nil
}

// load reads state and trust.
func (g *Graph) load() error {
	g.state = state{Version: indexVersion}
	return g.db.View(func(txn *badger.Txn) error {
		if err := getJSON(txn, key(tagState), &g.state); err != nil && !errors.Is(err, badger.ErrKeyNotFound) {
			return err
		}
		if g.state.Version != indexVersion {
			return fmt.Errorf("lineage index %s has version %d; this program writes %d", g.dir, g.state.Version, indexVersion)
		}
		if err := g.holes.load(txn); err != nil {
			return err
		}
		var err error
		if g.retractions, err = loadRetractions(txn); err != nil {
			return err
		}
		return scan(txn, key(tagTrust), func(k, v []byte) error {
			t := trustEntry{Index: entryAt(k, 1)}
			if err := json.Unmarshal(v, &t.Trust); err != nil {
				return fmt.Errorf("reading trust entry %d of the lineage index: %w", t.Index, err)
			}
			return g.learn(t)
		})
	})
}

// belongsTo checks that the index followed this log and no other.
func (g *Graph) belongsTo(ctx context.Context, log Log) error {
	if g.state.Size == 0 {
		return nil
	}
	if g.state.Size > log.Size() {
		return fmt.Errorf("the index followed %d entries, the log has %d", g.state.Size, log.Size())
	}
	for _, want := range []struct {
		index int64
		hex   string
	}{{0, g.state.Genesis}, {g.state.Size - 1, g.state.Last}} {
		e, err := log.Entry(ctx, want.index)
		if err != nil {
			return err
		}
		if hex.EncodeToString(e.Commitment[:]) != want.hex {
			return fmt.Errorf("entry %d of the log is not the one that the index followed", want.index)
		}
	}
	return nil
}

// learn remembers a trust entry and its key. Entry 0 teaches the observer.
func (g *Graph) learn(t trustEntry) error {
	pub, err := g.parseKey([]byte(t.Key))
	if err != nil {
		return fmt.Errorf("key of entry %d: %w", t.Index, err)
	}
	if t.Index == 0 {
		g.observer, g.keys = pub.ID, append(g.keys, pub)
		return nil
	}
	g.trust = append(g.trust, t)
	for _, k := range g.keys {
		if k.ID == pub.ID {
			return nil
		}
	}
	g.keys = append(g.keys, pub)
	return nil
}

// Close closes the index.
func (g *Graph) Close() error { return g.db.Close() }

// Size is how many entries the graph has followed: the size that answers
// speak for.
func (g *Graph) Size() int64 {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.state.Size
}

// Wait returns when the graph has followed at least size entries.
func (g *Graph) Wait(ctx context.Context, size int64) error {
	for {
		g.mu.RLock()
		have, changed := g.state.Size, g.changed
		g.mu.RUnlock()
		if have >= size {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("waiting for the lineage index to reach %d entries (it has %d): %w", size, have, ctx.Err())
		}
	}
}

// trustAt is the trust history below size.
func (g *Graph) trustAt(size int64) *schema.TrustHistory {
	g.mu.RLock()
	defer g.mu.RUnlock()
	h := schema.NewTrustHistory(g.observer)
	for _, t := range g.trust {
		if t.Index < size {
			h.Apply(t.Trust)
		}
	}
	return h
}

// scan calls fn for every key that begins with prefix, in order. Key and value
// are valid until fn returns.
func scan(txn *badger.Txn, prefix []byte, fn func(k, v []byte) error) error {
	opts := badger.DefaultIteratorOptions
	opts.Prefix = prefix
	it := txn.NewIterator(opts)
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		item := it.Item()
		if err := item.Value(func(v []byte) error { return fn(item.Key(), v) }); err != nil {
			return err
		}
	}
	return nil
}

func getJSON(txn *badger.Txn, k []byte, v any) error {
	item, err := txn.Get(k)
	if err != nil {
		return err
	}
	return item.Value(func(raw []byte) error { return json.Unmarshal(raw, v) })
}

// idOf is the dense id of k; false if no entry mentions it.
func idOf(txn *badger.Txn, k schema.Key) (nodeID, bool, error) {
	item, err := txn.Get(key(tagKey, k))
	if errors.Is(err, badger.ErrKeyNotFound) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	var id nodeID
	err = item.Value(func(v []byte) error {
		if len(v) != 8 {
			return fmt.Errorf("the lineage index holds a bad id for %s", k)
		}
		id = nodeID(binary.BigEndian.Uint64(v))
		return nil
	})
	return id, true, err
}

// isLockError recognises Badger's error for a directory that another process
// has open; it has no type of its own.
func isLockError(err error) bool {
	return strings.Contains(err.Error(), "Another process is using this Badger database")
}
