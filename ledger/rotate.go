package ledger

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/retrace-ledger/retrace/keys"
	"github.com/retrace-ledger/retrace/ledger/engine"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// ErrRotated says that a key of the ledger was rotated since it was opened, or
// that it was opened with a log key that was. Opening it with the key in force goes on.
var ErrRotated = errors.New("the ledger's key was rotated")

// Rotation puts a new key in the place of one of the ledger's own.
type Rotation struct {
	Role     string        // schema.RoleLog or schema.RoleObserver
	Old, New *keys.Private // of that role
	Observer *keys.Private // in force; Old where the observer is rotated
	Reason   string        // in words; may be empty
}

// Rotate records r as an entry that both keys and the observer signed. When it
// returns nil, the entry is durable under a checkpoint that, where the log key
// is rotated, both keys signed; later ones the new key signs alone.
//
// It is the last thing that this opening of the ledger records: what waits, and
// whatever is appended afterwards, is refused with ErrRotated.
func (l *Ledger) Rotate(ctx context.Context, r Rotation) (schema.Receipt, error) {
	if err := l.CheckRotation(r); err != nil {
		return schema.Receipt{}, err
	}
	p := &pending{request: &request{}, rotate: &r, answer: make(chan answer, 1)}
	receipt, err := l.submit(ctx, p)
	if err != nil {
		err = fmt.Errorf("rotating the %s key of %s: %w", r.Role, l.dir, err)
	}
	return receipt, err
}

// Keys are the log's keys, oldest first, and the observers: the last of each is
// in force.
func (l *Ledger) Keys() (logs, observers []verify.Link) {
	return l.genesis.chain.Logs(), l.genesis.chain.Observers()
}

// CheckRotation checks the keys of a rotation before anything is made of it.
// That they sign is checked when the entry is made.
func (l *Ledger) CheckRotation(r Rotation) error {
	err := l.checkRotation(r)
	if l.committer == nil {
		err = ErrReadOnly
	}
	if err != nil {
		return fmt.Errorf("rotating the %s key of %s: %w", r.Role, l.dir, err)
	}
	return nil
}

func (l *Ledger) checkRotation(r Rotation) error {
	logs, observers := l.Keys()
	inForce := logs
	switch r.Role {
	case schema.RoleLog:
		if _, err := r.New.VKey(l.genesis.origin); err != nil {
			return err
		}
	case schema.RoleObserver:
		inForce = observers
	default:
		return &schema.FieldError{Field: "role", Reason: fmt.Sprintf("%q is neither log nor observer", clip(r.Role))}
	}
	if want := inForce[len(inForce)-1].ID; r.Old.ID() != want {
		return fmt.Errorf("the key to replace is %s, and %s is in force", r.Old.ID(), want)
	}
	if r.Observer.ID() != l.genesis.observerID {
		return fmt.Errorf("the observer's key is %s, and %s is in force", r.Observer.ID(), l.genesis.observerID)
	}
	for _, k := range slices.Concat(logs, observers) {
		if k.ID == r.New.ID() {
			return fmt.Errorf("the new key %s is one that the ledger has used before; a key is used once", k.ID)
		}
	}
	return nil
}

func isRotation(p *pending) bool { return p.rotate != nil }

// commitRotation commits group, in which member i is a rotation: what was
// queued before it, then the rotation. What comes after is refused.
func (l *Ledger) commitRotation(group []*pending, i int) error {
	if i > 0 {
		if err := l.commit(group[:i]); err != nil {
			return err
		}
	}
	done, err := l.rotate(group[i])
	switch {
	case err != nil:
		return err
	case done:
		l.stop(fmt.Errorf("%s: %w; open it again", l.dir, ErrRotated), group[i+1:])
		return nil
	case i+1 < len(group):
		return l.commit(group[i+1:])
	}
	return nil
}

// rotate makes a commit of one rotation and answers it. It is not done if it
// was refused; an error means that the commit failed part-way.
func (l *Ledger) rotate(p *pending) (done bool, err error) {
	if err := l.room([]*pending{p}); err != nil {
		p.reply(schema.Receipt{}, err)
		return false, nil
	}
	c := l.newCommit([]*pending{p})
	if err := c.admitRotation(p); err != nil {
		p.reply(schema.Receipt{}, err)
		return false, nil
	}
	if err := c.step("admitted"); err != nil {
		return false, err
	}
	if err := c.seal(); err != nil {
		return false, err
	}
	if err := c.store(); err != nil {
		return false, err
	}
	c.answer()
	return true, nil
}

// admitRotation makes an entry of a rotation and takes it into the commit. It
// is recorded later than anything before it, so that times alone say which
// observer an entry is of.
func (c *commit) admitRotation(p *pending) error {
	r, l := p.rotate, c.ledger
	c.now = c.clock()
	if !c.now.After(c.last) {
		c.now = c.last.Add(time.Microsecond)
	}
	env, err := rotationEnvelope(r, c.now)
	if err != nil {
		return err
	}
	req, err := newRequest(schema.Batch{Source: "keys", Submitter: l.genesis.observerID, Envelopes: []schema.Envelope{env}})
	if err != nil {
		return err
	}
	header := schema.Header{RecordedAt: c.now, Namespace: req.namespace, Source: req.source, Submitter: req.submitter}
	chain, err := l.genesis.chain.Follow(schema.Entry{Index: c.base, State: schema.Present, Header: header, Envelope: env})
	if err != nil {
		return err
	}
	if chain == l.genesis.chain {
		return errors.New("the observer's key did not sign it")
	}
	l.identify(req)
	p.request, p.places = req, make([]schema.Recorded, 1)
	if err := l.engine.View(func(s engine.Snapshot) error { return c.admit(s, p) }); err != nil {
		return err
	}
	c.puts = append(c.puts, engine.Put{Key: []byte(rotationsKey), Value: formatRotations(rotationsOf(chain))})
	if r.Role == schema.RoleLog {
		c.also, err = r.New.NoteSigner(l.genesis.origin)
	}
	return err
}

// rotationEnvelope is the statement of a rotation, signed by everybody who has
// to.
func rotationEnvelope(r *Rotation, now time.Time) (schema.Envelope, error) {
	public, err := keys.MarshalPublic(r.New.Public())
	if err != nil {
		return schema.Envelope{}, err
	}
	s, err := schema.NewStatement(schema.TrustV1,
		schema.Trust{Action: "rotate", Role: r.Role, KeyID: r.New.ID(), Key: public, NotBefore: now, Replaces: r.Old.ID(), Reason: r.Reason},
		schema.Descriptor{Name: "key " + r.New.ID(), Digest: schema.DigestSet{schema.SHA256: schema.BytesKey([]byte(public)).Hex()}})
	if err != nil {
		return schema.Envelope{}, err
	}
	payload, err := s.Encode()
	if err != nil {
		return schema.Envelope{}, err
	}
	others := []*keys.Private{r.New}
	if r.Observer.ID() != r.Old.ID() {
		others = append(others, r.Observer)
	}
	return r.Old.SignPayload(schema.PayloadType, payload, others...)
}

// signers are the keys that sign the checkpoint of the commit.
func (c *commit) signers() []note.Signer {
	if c.also != nil {
		return []note.Signer{c.key, c.also}
	}
	return []note.Signer{c.key}
}

// rotationsOf are the entries that made the chain what it is, ascending.
func rotationsOf(c *verify.Chain) []int64 {
	var entries []int64
	for _, l := range append(c.Logs(), c.Observers()...) {
		if l.Entry > 0 {
			entries = append(entries, l.Entry)
		}
	}
	slices.Sort(entries)
	return entries
}

func formatRotations(entries []int64) []byte {
	var raw []byte
	for _, e := range entries {
		raw = binary.BigEndian.AppendUint64(raw, uint64(e))
	}
	return seal(raw)
}

func parseRotations(sealed []byte) ([]int64, error) {
	raw, err := unseal(sealed)
	if err != nil {
		return nil, err
	}
	if len(raw)%8 != 0 {
		return nil, fmt.Errorf("%d bytes are no list of entries", len(raw))
	}
	var entries []int64
	for part := range slices.Chunk(raw, 8) {
		e := int64(binary.BigEndian.Uint64(part))
		if e < 1 || len(entries) > 0 && e <= entries[len(entries)-1] {
			return nil, errors.New("the entries do not ascend")
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// readRotations reads which entries rotate keys, as the store says.
func readRotations(s engine.Snapshot) ([]int64, error) {
	var entries []int64
	err := s.Get([]byte(rotationsKey), func(value []byte) (err error) {
		entries, err = parseRotations(value)
		return err
	})
	if errors.Is(err, engine.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, &DamageError{Where: rotationsWhere, Problem: "cannot be read", Err: err}
	}
	return entries, nil
}

const rotationsWhere = "the store's list of rotations"

// follow takes a rotation into account.
func (g genesis) follow(e schema.Entry) (genesis, error) {
	chain, err := g.chain.Follow(e)
	if err != nil || chain == g.chain {
		return g, err
	}
	return newGenesis(chain), nil
}

// observerAt is the ID of the observer of the entry at index.
func (g genesis) observerAt(index int64) string { return g.chain.ObserverAt(index).ID }

// checkRetired refuses what an observer signed that was replaced. Whoever still
// has that key is to notice, and not to fill the ledger with what is graded as
// a claim.
func (g genesis) checkRetired(keyID string) error {
	if keyID == g.observerID {
		return nil
	}
	observers := g.chain.Observers()
	for i, o := range observers[:len(observers)-1] {
		if o.ID == keyID {
			return &schema.FieldError{Field: "signatures", Reason: fmt.Sprintf("it is signed by the observer key %s, which entry %d replaced by %s: what still signs with it has to be started again", keyID, observers[i+1].Entry, observers[i+1].ID)}
		}
	}
	return nil
}

// followRotations follows the rotations below the published size.
func (l *Ledger) followRotations(s engine.Snapshot) error {
	entries, err := readRotations(s)
	if err != nil {
		return err
	}
	v := l.view.Load()
	for _, index := range entries {
		if index >= v.checkpoint.Size {
			break // committed and not signed yet
		}
		e, err := l.readEntry(s, v, index)
		if err != nil {
			return err
		}
		g, err := l.genesis.follow(e)
		if err != nil {
			return &DamageError{Where: rotationsWhere, Problem: fmt.Sprintf("names entry %d", index), Err: err}
		}
		if g.chain == l.genesis.chain {
			return damage(rotationsWhere, "names entry %d, which rotates no key", index)
		}
		l.genesis = g
	}
	return nil
}

// checkKey checks that v is the log key in force.
func (l *Ledger) checkKey(v note.Verifier) error {
	err := l.genesis.matches(v)
	if err != nil && l.genesis.chain.Has(v) {
		return fmt.Errorf("%w: %w", ErrRotated, err)
	}
	return err
}

// newestKey is the log key in force where opening the ledger in dir with v
// failed with err because v was rotated; else nil. The rotations that lead
// from v to it are signed on both sides; that they are in the tree is checked
// when the ledger is opened with what they lead to.
func newestKey(dir string, v note.Verifier, err error) note.Verifier {
	var foreign *verify.FalseError
	if err == nil || !errors.As(err, &foreign) && !errors.Is(err, ErrRotated) {
		return nil
	}
	chain, err := inspectChain(dir, v)
	if err != nil || !chain.Has(v) || chain.Log().KeyHash() == v.KeyHash() {
		return nil
	}
	return chain.Log()
}

// inspectChain reads the keys of the ledger in dir before it is known what was
// signed, for somebody who holds v.
func inspectChain(dir string, v note.Verifier) (*verify.Chain, error) {
	e, err := engine.InspectBadger(storePath(dir))
	if err != nil {
		return nil, err
	}
	defer e.Close()
	var chain *verify.Chain
	err = e.View(func(s engine.Snapshot) error {
		entries, err := readRotations(s)
		if err != nil {
			return err
		}
		for _, index := range append([]int64{0}, entries...) {
			e, err := inspectEntry(s, index)
			if err != nil {
				return err
			}
			if index == 0 {
				g, err := readGenesis(e.Envelope)
				if err != nil {
					return err
				}
				chain = g.chain.GivenTo(v)
			} else if chain, err = chain.Follow(e); err != nil {
				return err
			}
		}
		return nil
	})
	return chain, err
}

// inspectEntry reads an entry without asking whether it is in a tree.
func inspectEntry(s engine.Snapshot, index int64) (e schema.Entry, err error) {
	err = findSegment(s, index, func(first int64, seg segment) error {
		at := first
		for r, err := range seg.records() {
			if err != nil {
				return damage(segmentName(first), "%v", err)
			}
			if at == index {
				e, err = schema.ParseEntry(index, slices.Clone(r.body))
				return err
			}
			at++
		}
		return damage(entryName(index), "missing: the segment from %d on ends before it", first)
	})
	return e, err
}

// findKeys finds the log's keys before those of what was signed can be checked.
// What it cannot read is found later.
func (c *checker) findKeys() {
	chain, err := inspectChain(c.dir, c.verifier)
	if err != nil || !chain.Has(c.verifier) {
		return
	}
	logs := chain.Logs()
	for _, l := range logs[:len(logs)-1] {
		if v, err := note.NewVerifier(l.VKey); err == nil {
			c.older = append(c.older, v)
		}
	}
	c.verifier = chain.Log()
}

// followRotation takes a rotation into account; it says whether e is one.
func (c *checker) followRotation(e schema.Entry) (bool, error) {
	if c.genesis.chain == nil {
		return false, nil
	}
	g, err := c.genesis.follow(e)
	if err != nil || g.chain == c.genesis.chain {
		return false, err
	}
	c.genesis = g
	c.rotated = append(c.rotated, e.Index)
	return true, nil
}

// compareKeys compares the store's list of rotations with the entries, and
// checks that each checkpoint is signed by the key in force at its size.
func (c *checker) compareKeys(s engine.Snapshot) error {
	if c.genesis.chain == nil {
		return nil // found at entry 0
	}
	entries, err := readRotations(s)
	if err != nil {
		return c.findError(err)
	}
	if !slices.Equal(entries, c.rotated) {
		if err := c.find(rotationsWhere, "it names %d, and the entries that rotate keys are %d", entries, c.rotated); err != nil {
			return err
		}
	}
	if err := c.genesis.matches(c.verifier); err != nil && len(c.older)+len(c.rotated) > 0 {
		if err := c.find(entryName(0), "%v", err); err != nil {
			return err
		}
	}
	for _, cp := range append(slices.Clone(c.signed), c.stored) {
		if cp.Size == 0 || len(c.rotated) == 0 {
			continue
		}
		if _, err := verify.OpenCheckpoint(cp.Note, c.genesis.chain.LogAt(cp.Size)); err != nil {
			if err := c.find(fmt.Sprintf("checkpoint of size %d", cp.Size), "%v", err); err != nil {
				return err
			}
		}
	}
	return nil
}
