package ledger

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/retrace-ledger/retrace/ledger/engine"
	"github.com/retrace-ledger/retrace/ledger/internal/disk"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// Recovery says what Recover did.
type Recovery struct {
	Checkpoint verify.Checkpoint // what the ledger holds now
	Had        int64             // the newest size that it knew to be signed before
	Copied     int64             // entries that came from the copy
	Lost       []Finding         // what could not be repaired and stays as it was found; at most maxLost of them
	LostAll    int64             // how many there are
	Kept       string            // where the store is that was there; "" if there was none
	File       bool              // the checkpoint file was written anew
	Secret     string            // where dedup.key is from, if it was lost: "copy", or "new"
	Cursors    int               // sources that go on where they were
}

// maxLost is how many losses are listed.
const maxLost = 1000

// Recover repairs the ledger in dir from a copy: a directory, such as one that
// Mirror keeps, or a file that Backup wrote. A new store is made from each entry
// of the old one that is right and, where one is not, from the copy; compared
// with the newest checkpoint known that the log signed; and put in the place of
// the old one, which is kept. Entries that only the copy has are taken over:
// the ledger was put back to an older state. The checkpoint file, the index of
// duplicates and, where they are lost, dedup.key and cursors are made anew.
//
// A copy of another log gives a *verify.FalseError, and one whose history
// contradicts the ledger's own a *ForkError. Where the entries that are left
// do not lead to what was signed, nothing is changed and the error is a
// *DamageError. A body that nobody has stays as it was found and is listed.
func Recover(ctx context.Context, dir string, key note.Verifier, copyAt string, report func(Progress)) (got Recovery, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("recovering %s from %s: %w", dir, copyAt, err)
		}
	}()
	lock, err := lockDir(dir)
	if err != nil {
		return got, err
	}
	defer func() { err = errors.Join(err, lock.release()) }()
	r := &recovering{ctx: ctx, dir: dir, key: key, report: report, own: openSalvage(dir, key)}
	if r.from, err = r.openCopy(copyAt); err != nil {
		return got, errors.Join(err, r.own.close())
	}
	defer func() { err = errors.Join(err, r.from.close()) }()
	if r.report == nil {
		r.report = func(Progress) {}
	}
	if err = r.readSigned(); err == nil {
		err = r.build()
	}
	if err := errors.Join(err, r.own.close()); err != nil {
		return got, errors.Join(err, os.RemoveAll(r.fresh()))
	}
	if err := r.exchange(); err != nil {
		return got, err
	}
	return r.Recovery, nil
}

// openCopy opens the copy. One that an earlier key of the log signed is taken
// where the store still has the rotations that replaced it, and the copy is not
// of after them: compare then holds it to what the key in force signed.
func (r *recovering) openCopy(at string) (original, error) {
	from, err := openOriginal(at, r.key)
	var notSigned *verify.FalseError
	if err == nil || !errors.As(err, &notSigned) {
		return from, err
	}
	recv := newReceiver(r.ctx, r.dir, r.own.engine, r.key)
	if !r.own.look(recv.resumeGenesis) || recv.genesis.chain == nil || !recv.genesis.chain.Has(r.key) {
		return nil, err
	}
	chain := recv.genesis.chain
	for _, link := range slices.Backward(chain.Logs()) {
		older := chain.LogAt(link.Entry + 1)
		from, openErr := openOriginal(at, older)
		if openErr != nil {
			continue
		}
		if chain.LogAt(from.signed().Size).KeyHash() == older.KeyHash() {
			return from, nil
		}
		return nil, errors.Join(fmt.Errorf("%w: it is of size %d and signed by a key that was replaced by then", err, from.signed().Size), from.close())
	}
	return nil, err
}

// recovering is one Recover under way.
type recovering struct {
	Recovery
	ctx    context.Context
	dir    string
	key    note.Verifier
	from   original
	own    *salvage
	report func(Progress)

	filed  []verify.Checkpoint // of the checkpoint file, the newest last
	whole  bool                // nothing is wrong with that file
	target verify.Checkpoint   // the newest that is known
	recv   *receiver
	// differs is an entry that the ledger and the copy both have, each right by
	// itself, and not the same; -1 if there is none.
	differs int64
}

func (r *recovering) fresh() string { return storePath(r.dir) + ".recovered" }

// readSigned reads what the checkpoint file says was signed.
func (r *recovering) readSigned() error {
	file, signed, faults, err := openCheckpointFile(r.dir, r.key, false)
	var damaged *DamageError
	switch {
	case errors.As(err, &damaged), errors.Is(err, ErrNoLedger), errors.Is(err, ErrUnfinished):
		return nil // it will be written anew
	case err != nil:
		return err
	}
	r.filed, r.whole = signed, len(faults) == 0
	return file.Close()
}

// known are all signed checkpoints that are known.
func (r *recovering) known() []verify.Checkpoint {
	all := slices.Clone(r.filed)
	for _, cp := range []verify.Checkpoint{r.own.stored, r.from.signed()} {
		if cp.Size > 0 {
			all = append(all, cp)
		}
	}
	return all
}

// build makes the new store.
func (r *recovering) build() (err error) {
	r.differs = -1
	r.target = slices.MaxFunc(r.known(), func(a, b verify.Checkpoint) int { return int(min(max(a.Size-b.Size, -1), 1)) })
	for _, cp := range append(slices.Clone(r.filed), r.own.stored) {
		r.Had = max(r.Had, cp.Size)
	}
	if err := os.RemoveAll(r.fresh()); err != nil {
		return err
	}
	if err := os.Mkdir(r.fresh(), 0o700); err != nil {
		return err
	}
	e, err := engine.OpenBadger(r.fresh())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	r.recv = newReceiver(r.ctx, r.dir, e, r.key)
	for _, cp := range r.known() {
		r.recv.roots[cp.Size] = [32]byte{}
	}
	if err := r.chooseSecret(); err != nil {
		return err
	}
	for i := range r.target.Size {
		if err := r.entry(i); err != nil {
			return err
		}
		if i%1024 == 0 || i+1 == r.target.Size {
			r.report(Progress{i + 1, r.target.Size})
		}
	}
	if err := r.from.finish(r.ctx, r.recv); err != nil {
		return err
	}
	if err := r.compare(); err != nil {
		return err
	}
	return r.complete()
}

// lose lists what cannot be repaired.
func (r *recovering) lose(index int64, problem string) {
	if r.LostAll++; len(r.Lost) < maxLost {
		r.Lost = append(r.Lost, Finding{entryName(index), problem})
	}
}

// entry takes entry i from where it is right.
func (r *recovering) entry(i int64) error {
	own, haveOwn := r.own.at(i)
	other, haveOther, err := r.from.at(r.ctx, i)
	if err != nil {
		return err
	}
	if !haveOther {
		return r.ownEntry(i, own, haveOwn)
	}
	switch same := haveOwn && own.commitment == other.commitment; {
	case same && r.ownIsRight(i, own):
		return r.recv.add(own)
	case haveOwn && !same && len(own.body) > 0 && own.right():
		r.differs = i
	case haveOwn && len(own.body) > 0 && commitment(schema.Commitment(own.body)) == other.commitment:
		return r.recv.add(record{commitment: other.commitment, body: own.body}) // its commitment was damaged, not its body
	}
	r.Copied++
	if other.withheld && r.own.target.Size == 0 {
		r.lose(i, "its body is lost here, and the copy was not given it")
	}
	return r.recv.add(other)
}

// ownIsRight says whether an own record needs no copy. One without a body is
// right if the store says which entry erased it.
func (r *recovering) ownIsRight(i int64, own record) bool {
	if len(own.body) > 0 {
		return own.right()
	}
	return !own.withheld && r.own.erased(i)
}

// ownEntry takes entry i, which the copy does not have.
func (r *recovering) ownEntry(i int64, own record, have bool) error {
	if have && (r.ownIsRight(i, own) || own.withheld && r.own.target.Size > 0) {
		return r.recv.add(own)
	}
	leaf, known := r.own.commitment(i)
	switch {
	case have && known && len(own.body) > 0 && commitment(schema.Commitment(own.body)) == leaf:
		return r.recv.add(record{commitment: leaf, body: own.body})
	case have:
		r.lose(i, "its body is damaged or missing, and the copy does not have it")
		return r.recv.store(own)
	case known:
		r.lose(i, "it cannot be read, and the copy does not have it; its place in the tree is kept")
		return r.recv.store(record{commitment: leaf, withheld: true})
	}
	return &DamageError{Where: entryName(i), Problem: fmt.Sprintf("is lost: neither the store nor the copy, which ends at size %d, has it, and size %d was signed; nothing was changed, and a newer copy is needed", r.from.signed().Size, r.target.Size)}
}

// compare compares the tree with every checkpoint that is known.
func (r *recovering) compare() error {
	theirs := r.from.signed()
	for _, cp := range r.known() {
		if cp.Size == 0 || r.recv.roots[cp.Size] == cp.Root {
			continue
		}
		if bytes.Equal(cp.Note, theirs.Note) || r.differs >= 0 || cp.Size <= theirs.Size {
			ours := r.own.stored.Note
			if len(r.filed) > 0 {
				ours = r.filed[len(r.filed)-1].Note
			}
			return &ForkError{Old: ours, New: theirs.Note}
		}
		return damage(fmt.Sprintf("checkpoint of size %d", cp.Size), "it signs root %s, and the entries that are left give %s; nothing was changed, and a newer copy is needed", cp.Root, r.recv.roots[cp.Size])
	}
	return nil
}

// chooseSecret finds the secret of the identities, or makes one.
func (r *recovering) chooseSecret() error {
	if r.own.target.Size > 0 {
		return nil // a mirror has none
	}
	own, err := readSecret(r.dir)
	var damaged *DamageError
	if err != nil && !errors.As(err, &damaged) {
		return err
	}
	theirs := r.from.secret()
	switch {
	case own != nil && (theirs == nil || bytes.Equal(own, theirs) || r.finds(own)):
		r.recv.secret = own
		return nil
	case theirs != nil:
		r.recv.secret, r.Secret = theirs, "copy"
	default:
		r.recv.secret, r.Secret = make([]byte, secretSize), "new"
		if _, err := rand.Read(r.recv.secret); err != nil {
			return err
		}
	}
	return nil
}

// finds says whether the genesis is found under a secret in the own store.
func (r *recovering) finds(secret []byte) bool {
	rec, ok := (&salvage{engine: r.own.engine}).at(0)
	if !ok || len(rec.body) == 0 {
		return false
	}
	e, err := schema.ParseEntry(0, rec.body)
	if err != nil {
		return false
	}
	g, err := readGenesis(e.Envelope)
	if err != nil {
		return false
	}
	return r.own.look(func(s engine.Snapshot) error {
		return s.Get(identify(secret, e.Header.Namespace, e.Envelope.Identity(g.observerID)).key(), func([]byte) error { return nil })
	})
}

// complete adds what is not an entry, and publishes.
func (r *recovering) complete() error {
	for _, index := range slices.Sorted(maps.Keys(r.recv.orphans)) {
		r.lose(index, "it has no body, and no entry says that it was erased")
	}
	if r.recv.secret != nil {
		r.own.look(func(s engine.Snapshot) error {
			for key, value := range duplicates(s) {
				if index := int64(binary.BigEndian.Uint64(value)); r.recv.gone[index] && r.Secret == "" {
					r.recv.put(slices.Clone(key), slices.Clone(value))
				}
			}
			return nil
		})
	}
	cursors := r.cursors()
	r.Cursors = len(cursors)
	for _, key := range slices.Sorted(maps.Keys(cursors)) {
		r.recv.put([]byte(key), cursors[key])
		if err := r.recv.flush(); err != nil {
			return err
		}
	}
	if r.own.target.Size > 0 {
		r.recv.put([]byte(targetKey), formatState(state{recordedAt: r.recv.last, note: r.target.Note}))
	}
	r.Checkpoint = r.target
	return r.recv.publish(r.target)
}

// cursors are those of whichever side is newer, completed from the other. None
// stands for an entry that is not in the tree: a store's cursors are of the
// commit that its state is of, and without that they count for nothing.
func (r *recovering) cursors() map[string][]byte {
	own, theirs := map[string][]byte{}, r.from.cursors()
	if r.own.stored.Size > 0 {
		own = r.own.cursors()
	}
	out := map[string][]byte{}
	first, second := theirs, own
	if r.from.signed().Size > r.own.stored.Size {
		first, second = own, theirs
	}
	maps.Copy(out, first)
	maps.Copy(out, second)
	return out
}

// exchange puts the new store in the place of the old one, which is kept.
func (r *recovering) exchange() error {
	if r.Secret != "" {
		if err := writeFile(secretPath(r.dir), r.recv.secret, 0o600); err != nil {
			return err
		}
	}
	if err := disk.SyncDir(r.fresh()); err != nil {
		return err
	}
	store := storePath(r.dir)
	if _, err := os.Lstat(store); errors.Is(err, fs.ErrNotExist) {
		if err := os.Rename(r.fresh(), store); err != nil {
			return err
		}
	} else {
		// Under its last name first: between the two steps the old store is
		// still in its place, and after them each has the name it should have.
		r.Kept = store + ".damaged-" + time.Now().UTC().Format("20060102T150405.000Z")
		if err := os.Rename(r.fresh(), r.Kept); err != nil {
			return err
		}
		if err := disk.Exchange(store, r.Kept); err != nil {
			return errors.Join(err, os.RemoveAll(r.Kept))
		}
	}
	if r.whole && len(r.filed) > 0 && r.filed[len(r.filed)-1].Size == r.target.Size {
		return disk.SyncDir(r.dir)
	}
	r.File = true
	return finish(r.dir, r.target)
}
