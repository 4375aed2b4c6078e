package ledger

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/retrace-ledger/retrace/ledger/engine"
	"github.com/retrace-ledger/retrace/ledger/internal/disk"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

func storePath(dir string) string  { return filepath.Join(dir, "store") }
func secretPath(dir string) string { return filepath.Join(dir, "dedup.key") }

const secretSize = 32

// Open opens the ledger in dir for appending. One process can have it open;
// others get ErrLocked.
//
// The store is compared with the checkpoint file before anything else. A store
// that holds less than was signed is refused with ErrShort, and one that holds
// something else with a *ForkError. One that holds more, since the process
// ended between its commit and the checkpoint file, is finished: what it
// committed becomes signed. A store that contradicts what Confront kept is
// refused with the same error as there.
func Open(dir string, key note.Signer, opts *Options) (*Ledger, error) {
	l, err := open(dir, verifierOf(key), opts, true)
	if err != nil {
		return nil, err
	}
	l.committer.key = key
	go l.run()
	return l, nil
}

// OpenReadOnly opens the ledger in dir, or a copy of it, for reading: no
// private key is needed. It answers from the size that the checkpoint file
// signed and ignores anything beyond. A ledger that a process has open for
// appending gives ErrLocked.
func OpenReadOnly(dir string, key note.Verifier, opts *Options) (*Ledger, error) {
	return open(dir, key, opts, false)
}

func open(dir string, v note.Verifier, opts *Options, writable bool) (*Ledger, error) {
	l, err := openWith(dir, v, opts, writable)
	if newest := newestKey(dir, v, err); newest != nil {
		if writable {
			return nil, fmt.Errorf("opening the ledger in %s with the key %s+%08x: %w: %s+%08x is in force", dir, v.Name(), v.KeyHash(), ErrRotated, newest.Name(), newest.KeyHash())
		}
		return openWith(dir, newest, opts, writable)
	}
	return l, err
}

// openWith opens the ledger with the log key in force.
func openWith(dir string, v note.Verifier, opts *Options, writable bool) (_ *Ledger, err error) {
	l, err := newLedger(dir, v)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			l.release()
			err = fmt.Errorf("opening the ledger in %s: %w", dir, err)
		}
	}()
	lock := lockDir
	if !writable {
		lock = lockToRead
	}
	if l.lock, err = lock(dir); err != nil {
		return nil, err
	}
	file, signed, _, err := openCheckpointFile(dir, v, writable)
	if err != nil {
		return nil, err
	}
	if writable {
		l.committer = newCommitter(opts)
		l.committer.file = file
	} else {
		defer file.Close()
	}
	if err := l.openStore(signed, file); err != nil {
		return nil, err
	}
	if err := l.loadGenesis(); err != nil {
		return nil, err
	}
	if writable {
		if err := l.loadSecret(); err != nil {
			return nil, err
		}
		if err := removeLeftover(dir); err != nil {
			return nil, err
		}
		if err := l.checkEvidence(); err != nil {
			return nil, err
		}
	}
	l.loadCosigned()
	return l, nil
}

// openStore opens the store and compares it with what was signed. A store that
// is to be written to is looked at first, without changing it: opening it for
// writing would throw away what of it cannot be read.
func (l *Ledger) openStore(signed []verify.Checkpoint, file *checkpointFile) error {
	path := storePath(l.dir)
	e, err := engine.InspectBadger(path)
	if err != nil {
		return cannotOpen(path, err)
	}
	if l.committer == nil {
		l.engine = e
		return l.recover(signed, nil)
	}
	probe, err := newLedger(l.dir, l.verifier)
	if err != nil {
		return errors.Join(err, e.Close())
	}
	probe.engine = e
	if err := errors.Join(probe.recover(signed, nil), e.Close()); err != nil {
		return err
	}
	if l.engine, err = engine.OpenBadger(path); err != nil {
		return cannotOpen(path, err)
	}
	return l.recover(signed, file)
}

// cannotOpen says that a store does not open: that it is damaged, unless what
// is wrong is around it and says nothing about what it holds.
func cannotOpen(path string, err error) error {
	for _, around := range []error{syscall.ENOSPC, syscall.EROFS, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, fs.ErrPermission} {
		if errors.Is(err, around) {
			return fmt.Errorf("opening the store in %s: %w", path, err)
		}
	}
	return &DamageError{Where: path, Problem: "cannot be opened", Err: err}
}

func newLedger(dir string, v note.Verifier) (*Ledger, error) {
	tiles, err := lru.New[tileID, *fullTile](tileCacheSize)
	if err != nil {
		return nil, err
	}
	return &Ledger{dir: dir, verifier: v, tiles: tiles, queue: newQueue(), done: make(chan struct{})}, nil
}

func newCommitter(opts *Options) *committer {
	c := &committer{now: time.Now, step: func(string) error { return nil }, free: disk.FreeSpace}
	if opts != nil && opts.Now != nil {
		c.now = opts.Now
	}
	if opts != nil && opts.step != nil {
		c.step = opts.step
	}
	if opts != nil && opts.free != nil {
		c.free = opts.free
	}
	return c
}

// verifierOf returns the public half of key. A signer that does not know its
// own is asked to sign again: Ed25519 gives the same signature each time.
func verifierOf(key note.Signer) note.Verifier {
	if v, ok := key.(note.Verifier); ok {
		return v
	}
	return resigner{key}
}

type resigner struct{ note.Signer }

func (r resigner) Verify(msg, sig []byte) bool {
	again, err := r.Sign(msg)
	return err == nil && bytes.Equal(again, sig)
}

// recover compares the store with the newest checkpoints that were signed
// (oldest first), and publishes the view that the ledger answers from.
func (l *Ledger) recover(signed []verify.Checkpoint, file *checkpointFile) error {
	newest := signed[len(signed)-1]
	return l.engine.View(func(s engine.Snapshot) error {
		stored, at, err := readState(s, l.verifier)
		if err != nil {
			return err
		}
		if stored.Size < newest.Size {
			return fmt.Errorf("%w: it ends at size %d, and the checkpoint file signed size %d", ErrShort, stored.Size, newest.Size)
		}
		if stored.Size == newest.Size && stored.Root != newest.Root {
			return &ForkError{Old: newest.Note, New: stored.Note}
		}
		t, err := loadTree(s, stored)
		if err != nil {
			return err
		}
		l.publish(stored, t)
		if err := l.checkHistory(s, signed); err != nil {
			return err
		}
		if l.committer == nil {
			if stored.Size > newest.Size {
				l.beyond = errBeyond
			}
			return l.stepBack(s, newest)
		}
		l.committer.tree, l.committer.last = t, at
		if l.committer.small, err = lastRun(s, stored.Size); err != nil {
			return err
		}
		if stored.Size > newest.Size {
			return file.write(stored.Note)
		}
		return nil
	})
}

func (l *Ledger) publish(cp verify.Checkpoint, t *tree) {
	l.view.Store(&view{checkpoint: cp, edge: t.edge.clone(), next: make(chan struct{})})
}

// checkHistory compares what was signed with the tree of the published view.
func (l *Ledger) checkHistory(s engine.Snapshot, signed []verify.Checkpoint) error {
	v := l.view.Load()
	for _, cp := range signed {
		root, err := tlog.TreeHash(cp.Size, l.hashes(s, v))
		if err != nil {
			return err
		}
		if root != cp.Root {
			return &ForkError{Old: cp.Note, New: v.checkpoint.Note}
		}
	}
	return nil
}

// stepBack makes the view that of a checkpoint at or before the published one,
// with whose tree it was found consistent.
func (l *Ledger) stepBack(s engine.Snapshot, cp verify.Checkpoint) error {
	if cp.Size == l.view.Load().checkpoint.Size {
		return nil
	}
	t, err := loadTree(s, cp)
	if err != nil {
		return err
	}
	l.publish(cp, t)
	return nil
}

// readState reads the newest checkpoint that the store holds.
func readState(s engine.Snapshot, v note.Verifier, older ...note.Verifier) (verify.Checkpoint, time.Time, error) {
	const where = "state of the store"
	var st state
	err := s.Get([]byte(stateKey), func(value []byte) (err error) {
		st, err = parseState(value)
		return err
	})
	if errors.Is(err, engine.ErrNotFound) {
		return verify.Checkpoint{}, time.Time{}, nil // size 0: shorter than anything signed
	}
	if err != nil {
		return verify.Checkpoint{}, time.Time{}, &DamageError{Where: where, Problem: "cannot be read", Err: err}
	}
	cp, err := openSigned(st.note, v, older)
	if err != nil {
		return verify.Checkpoint{}, time.Time{}, &DamageError{Where: where, Problem: "its checkpoint is not one", Err: err}
	}
	return cp, st.recordedAt, nil
}

// loadTree rebuilds the tree of cp from its right edge, which is at most 255
// hashes a level, and checks that it has cp's root.
func loadTree(s engine.Snapshot, cp verify.Checkpoint) (*tree, error) {
	_, width := edgeWidth(cp.Size, 0)
	leaves, err := readLeaves(s, cp.Size-int64(width), cp.Size)
	if err != nil {
		return nil, err
	}
	t, err := rebuildTree(cp.Size, leaves, storedRoots(s))
	if err != nil {
		return nil, err
	}
	root, err := t.root()
	if err != nil {
		return nil, err
	}
	if root != cp.Root {
		return nil, damage("right edge of the tree", "the tree of size %d has root %x, and the signed one is %x", cp.Size, root, cp.Root)
	}
	return t, nil
}

// storedRoots gives rebuildTree the roots of the full tiles that s holds.
func storedRoots(s engine.Snapshot) func(level int, from int64, n int) ([]tlog.Hash, error) {
	return func(level int, from int64, n int) ([]tlog.Hash, error) {
		roots := make([]tlog.Hash, n)
		for i := range roots {
			tile, err := readTile(s, tileID{level, from + int64(i)})
			if err != nil {
				return nil, err
			}
			roots[i] = tile.root()
		}
		return roots, nil
	}
}

// readLeaves reads the commitments of the entries from low up to high, without
// their bodies.
func readLeaves(s engine.Snapshot, low, high int64) ([]commitment, error) {
	leaves := make([]commitment, 0, tileWidth)
	for next := low; next < high; {
		err := findSegment(s, next, func(first int64, seg segment) error {
			at, wanted := first, next
			for r, err := range seg.records() {
				if err != nil {
					return damage(segmentName(first), "%v", err)
				}
				if at == next && at < high {
					leaves = append(leaves, r.commitment)
					next++
				}
				at++
			}
			if next == wanted {
				return damage(entryName(next), "missing: the segment from %d on ends before it", first)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return leaves, nil
}

// loadGenesis reads entry 0 and the rotations since, and checks that the ledger
// is opened with the log key in force.
func (l *Ledger) loadGenesis() error {
	return l.engine.View(func(s engine.Snapshot) error {
		e, err := l.readEntry(s, l.view.Load(), 0)
		if err != nil {
			return err
		}
		if e.State == schema.Withheld && l.committer == nil {
			l.genesis = genesis{origin: l.verifier.Name(), log: l.verifier}
			return nil
		}
		if e.State != schema.Present {
			return damage(entryName(0), "the genesis is not here")
		}
		if l.genesis, err = readGenesis(e.Envelope); err != nil {
			return err
		}
		if err := l.followRotations(s); err != nil {
			return err
		}
		return l.checkKey(l.verifier)
	})
}

// loadSecret reads the secret under which duplicates are recognized and checks
// that it is the one that the genesis is found under.
func (l *Ledger) loadSecret() error {
	path := secretPath(l.dir)
	secret, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &DamageError{Where: path, Problem: "missing; without it duplicates are not recognized, so it has to come from a backup", Key: true}
	case err != nil:
		return err
	case len(secret) != secretSize:
		return damage(path, "it has %d bytes, not %d", len(secret), secretSize)
	}
	l.committer.secret = secret
	return l.engine.View(func(s engine.Snapshot) error {
		e, err := l.readEntry(s, l.view.Load(), 0)
		if err != nil {
			return err
		}
		found, err := l.findDuplicate(s, l.view.Load(), identify(secret, e.Header.Namespace, e.Envelope.Identity(l.genesis.observerAt(0))))
		if err != nil {
			return err
		}
		if !found.Duplicate || found.Index != 0 {
			return damage(path, "the genesis is not found under it; it is not the secret of this ledger, or the index of duplicates is damaged")
		}
		return nil
	})
}

// Create makes a ledger in dir, which may exist but must not hold one, with
// genesis as entry 0: a schema.GenesisV1 statement that names key and is signed
// by the observer key that it names. The checkpoint of size 1 is signed and
// durable when Create returns nil.
func Create(dir string, key note.Signer, genesis schema.Envelope) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("making a ledger in %s: %w", dir, err)
		}
	}()
	g, err := readGenesis(genesis)
	if err != nil {
		return err
	}
	if err := g.matches(key); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	lock, err := lockDir(dir)
	if err != nil {
		return err
	}
	defer lock.release()
	for _, path := range []string{checkpointPath(dir), storePath(dir), secretPath(dir)} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s: %w", path, ErrExists)
		}
	}
	defer func() {
		// The checkpoint file is made last: without it nothing was signed.
		if err != nil && !errors.Is(err, fs.ErrExist) {
			os.RemoveAll(storePath(dir))
			os.Remove(secretPath(dir))
		}
	}()
	return create(dir, key, g, genesis)
}

func create(dir string, key note.Signer, g genesis, env schema.Envelope) error {
	l, err := newLedger(dir, verifierOf(key))
	if err != nil {
		return err
	}
	l.genesis = g
	l.committer = newCommitter(nil)
	l.committer.key = key
	l.committer.tree = newTree()
	l.committer.file = newCheckpoint{dir}
	if l.committer.secret, err = createSecret(dir); err != nil {
		return err
	}
	if err := os.Mkdir(storePath(dir), 0o700); err != nil {
		return err
	}
	if l.engine, err = engine.OpenBadger(storePath(dir)); err != nil {
		return err
	}
	r, err := newRequest(schema.Batch{Source: "init", Submitter: g.observerID, Envelopes: []schema.Envelope{env}})
	if err != nil {
		l.release()
		return err
	}
	l.identify(r)
	p := newPending(r)
	if err := l.commit([]*pending{p}); err != nil {
		l.release()
		return err
	}
	a := <-p.answer
	return errors.Join(a.err, l.release())
}

func createSecret(dir string) ([]byte, error) {
	secret := make([]byte, secretSize)
	if _, err := rand.Read(secret); err != nil {
		return nil, err
	}
	path := secretPath(dir)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.Write(secret); err != nil {
		return nil, fmt.Errorf("writing %s: %w", path, err)
	}
	if err := f.Sync(); err != nil {
		return nil, fmt.Errorf("writing %s: %w", path, err)
	}
	return secret, nil
}

// newCheckpoint writes the first checkpoint of a ledger.
type newCheckpoint struct{ dir string }

func (n newCheckpoint) write(signed []byte) error { return createCheckpointFile(n.dir, signed) }
func (n newCheckpoint) Close() error              { return nil }
