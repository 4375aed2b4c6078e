package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

// Sizes that were measured rather than guessed: values of 64 KiB and more stay
// out of the tree of tables, which is what keeps long runs fast; one
// transaction holds 15 % of a memtable.
const (
	valueThreshold   = 64 << 10
	memTableSize     = 64 << 20
	blockCacheSize   = 64 << 20
	valueLogFileSize = 256 << 20
)

// badgerEngine is an Engine on Badger.
type badgerEngine struct {
	db  *badger.DB
	log *watchedLog
}

// OpenBadger opens the Badger store in dir, which must exist, and makes one
// there if it is empty. What a write-ahead log holds behind damage is lost by
// that; InspectBadger shows it first.
func OpenBadger(dir string) (Engine, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, err
	}
	if err := errors.Join(dropEmptyLogs(dir), shieldValueLog(dir)); err != nil {
		return nil, err
	}
	return openBadger(dir, badgerOptions(dir))
}

func badgerOptions(dir string) badger.Options {
	return badger.DefaultOptions(dir).
		WithSyncWrites(true).
		WithDetectConflicts(false). // there is one writer
		WithCompression(options.None).
		WithChecksumVerificationMode(options.OnBlockRead).
		WithValueThreshold(valueThreshold).
		WithMemTableSize(memTableSize).
		WithNumMemtables(2).
		WithBlockCacheSize(blockCacheSize).
		WithValueLogFileSize(valueLogFileSize).
		WithMetricsEnabled(false)
}

func openBadger(dir string, opt badger.Options) (e *badgerEngine, err error) {
	defer guard(&err)()
	if err := takeBackUnsynced(opt.Dir); err != nil {
		return nil, fmt.Errorf("opening the store in %s: %w", dir, err)
	}
	if err := checkTables(opt.Dir); err != nil {
		return nil, err
	}
	settled, err := settledLength(opt.Dir)
	if err != nil {
		return nil, fmt.Errorf("opening the store in %s: %w", dir, err)
	}
	log := &watchedLog{dir: opt.Dir, settled: settled}
	db, err := openUnlocked(opt.WithLogger(log))
	if err != nil {
		return nil, fmt.Errorf("opening the store in %s: %w", dir, err)
	}
	return &badgerEngine{db: db, log: log}, nil
}

// openUnlocked opens a store, and waits a moment for Badger's lock of the
// directory: a process that was forked while a store was open holds the lock on
// until it has become another program. Whose a store is, is for the ledger's own
// lock to say.
func openUnlocked(opt badger.Options) (*badger.DB, error) {
	const patience = 2 * time.Second
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		db, err := badger.Open(opt)
		if err == nil || !strings.Contains(err.Error(), "Cannot acquire directory lock") || time.Since(began) > patience {
			return db, err
		}
	}
}

func (e *badgerEngine) Commit(puts []Put) (err error) {
	defer guard(&err)()
	txn := e.db.NewTransaction(true)
	defer txn.Discard()
	for _, p := range puts {
		if p.Value == nil {
			if err := txn.Delete(p.Key); err != nil {
				return fmt.Errorf("removing %q: %w", p.Key, err)
			}
			continue
		}
		if err := txn.Set(p.Key, p.Value); err != nil {
			return fmt.Errorf("putting %d bytes under %q: %w", len(p.Value), p.Key, err)
		}
	}
	if err := txn.Commit(); err != nil {
		return fmt.Errorf("committing %d keys: %w", len(puts), err)
	}
	// Badger syncs its value log before Commit returns, and only logs it when
	// that fails.
	if err := e.log.failure(); err != nil {
		return fmt.Errorf("committing %d keys: %w", len(puts), err)
	}
	return nil
}

func (e *badgerEngine) View(fn func(Snapshot) error) (err error) {
	defer guard(&err)()
	txn := e.db.NewTransaction(false)
	defer txn.Discard()
	return fn(badgerSnapshot{txn})
}

func (e *badgerEngine) VerifyChecksums(context.Context) (err error) {
	defer guard(&err)()
	return e.db.VerifyChecksum()
}

func (e *badgerEngine) Close() (err error) {
	defer guard(&err)()
	if err := e.db.Close(); err != nil {
		return fmt.Errorf("closing the store: %w", err)
	}
	return nil
}

// errUnreadable says that Badger met what it cannot have written.
var errUnreadable = errors.New("the files of the store are damaged beyond what Badger reads")

// guard makes the caller return an error where it would panic. Badger maps its
// files into memory and trusts what it finds there, so that a damaged or
// shortened file can make it panic or fault; that is damage to report, not a
// reason to die.
func guard(err *error) func() {
	before := debug.SetPanicOnFault(true)
	return func() {
		debug.SetPanicOnFault(before)
		if r := recover(); r != nil {
			*err = fmt.Errorf("%w: %v", errUnreadable, r)
		}
	}
}

type badgerSnapshot struct {
	txn *badger.Txn
}

func (s badgerSnapshot) Get(key []byte, fn func([]byte) error) error {
	item, err := s.txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("reading %q: %w", key, err)
	}
	return badgerItem{item}.Value(fn)
}

func (s badgerSnapshot) Ascend(low, high []byte) iter.Seq2[Item, error] {
	return s.scan(low, func(key []byte) bool { return bytes.Compare(key, high) < 0 }, commonPrefix(low, high), false)
}

func (s badgerSnapshot) Descend(high, low []byte) iter.Seq2[Item, error] {
	return s.scan(high, func(key []byte) bool { return bytes.Compare(key, low) >= 0 }, commonPrefix(low, high), true)
}

func (s badgerSnapshot) scan(from []byte, within func([]byte) bool, prefix []byte, reverse bool) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		it := s.txn.NewIterator(badger.IteratorOptions{Prefix: prefix, Reverse: reverse})
		defer it.Close()
		for it.Seek(from); it.Valid() && within(it.Item().Key()); it.Next() {
			if !yield(badgerItem{it.Item()}, nil) {
				return
			}
		}
	}
}

// commonPrefix lets Badger leave out tables that cannot hold the keys asked
// for.
func commonPrefix(a, b []byte) []byte {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return a[:n]
}

type badgerItem struct {
	item *badger.Item
}

func (i badgerItem) Key() []byte { return i.item.Key() }

func (i badgerItem) Value(fn func([]byte) error) error {
	called := false
	err := i.item.Value(func(v []byte) error {
		called = true
		return fn(v)
	})
	if err != nil && !called {
		return fmt.Errorf("reading the value under %q: %w", i.item.Key(), err)
	}
	return err
}
