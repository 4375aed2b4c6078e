package verify

import (
	"errors"
	"fmt"
	"slices"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"golang.org/x/mod/sumdb/note"

	"github.com/retrace-ledger/retrace/keys"
	"github.com/retrace-ledger/retrace/schema"
)

// Chain is the succession of a ledger's own keys: those that genesis names,
// and those that rotations put in their place. It never changes; Follow
// returns a longer one.
type Chain struct {
	origin    string
	logs      []Link // oldest first, as are the observers
	observers []Link
	// given is the one key that the verifier holds. A link with its name and hash
	// has to be this key: 32 bits alone would let another one pass for it.
	given note.Verifier
}

// Link is a key in the place that it has in a chain.
type Link struct {
	schema.PublicKey
	VKey  string // of a log key
	Entry int64  // that names it: 0 for genesis, or that of the rotation

	verifier note.Verifier // of a log key
}

// NewChain is the chain of a ledger that begins with g. Whether the envelope
// of g is signed is for the caller to check.
func NewChain(g schema.Genesis) (*Chain, error) {
	v, err := ParseLogKey([]byte(g.LogKey), g.Origin)
	if err != nil {
		return nil, fmt.Errorf("logKey: %w", err)
	}
	logKey, err := keys.ParseVKey(g.LogKey)
	if err != nil {
		return nil, fmt.Errorf("logKey: %w", err)
	}
	observer, err := keys.ParsePublic([]byte(g.ObserverKey))
	if err != nil {
		return nil, fmt.Errorf("observerKey: %w", err)
	}
	return &Chain{
		origin:    g.Origin,
		logs:      []Link{{PublicKey: logKey, VKey: g.LogKey, verifier: v}},
		observers: []Link{{PublicKey: observer}},
	}, nil
}

// GivenTo is the chain for somebody who holds v: where it has a key of v's name
// and hash, that key has to be v.
func (c *Chain) GivenTo(v note.Verifier) *Chain {
	given := *c
	given.given = v
	return &given
}

// Origin is the name of the log.
func (c *Chain) Origin() string { return c.origin }

// Logs are the keys that sign checkpoints, oldest first: the last is in force.
func (c *Chain) Logs() []Link { return slices.Clone(c.logs) }

// Observers are the keys that sign what is observed, oldest first: the last is
// in force.
func (c *Chain) Observers() []Link { return slices.Clone(c.observers) }

// Observer is the observer in force.
func (c *Chain) Observer() schema.PublicKey { return c.observers[len(c.observers)-1].PublicKey }

// ObserverAt is the observer of the entry at index. A rotation is still one of
// the observer that it replaces.
func (c *Chain) ObserverAt(index int64) schema.PublicKey {
	for _, l := range slices.Backward(c.observers) {
		if l.Entry < index || l.Entry == 0 {
			return l.PublicKey
		}
	}
	return c.observers[0].PublicKey
}

// At is the chain as it stood for the entry at index.
func (c *Chain) At(index int64) *Chain {
	before := func(l Link) bool { return l.Entry < index || l.Entry == 0 }
	then := &Chain{origin: c.origin, given: c.given}
	for _, l := range c.logs {
		if before(l) {
			then.logs = append(then.logs, l)
		}
	}
	for _, l := range c.observers {
		if before(l) {
			then.observers = append(then.observers, l)
		}
	}
	return then
}

// Open opens a checkpoint that the log key signed which was in force at its
// size. The errors are those of OpenCheckpoint.
func (c *Chain) Open(signed []byte) (Checkpoint, error) {
	var first error
	for _, l := range slices.Backward(c.logs) {
		cp, err := OpenCheckpoint(signed, c.verifier(l))
		if first == nil {
			first = err
		}
		if err == nil {
			return OpenCheckpoint(cp.Note, c.LogAt(cp.Size))
		}
	}
	return Checkpoint{}, first
}

// Log is the log key in force.
func (c *Chain) Log() note.Verifier { return c.verifier(c.logs[len(c.logs)-1]) }

// LogAt is the key that has to have signed a checkpoint of the given size. One
// that covers a rotation is signed by the new key, and the first of these by
// the old one too.
func (c *Chain) LogAt(size int64) note.Verifier {
	for _, l := range slices.Backward(c.logs) {
		if l.Entry < size {
			return c.verifier(l)
		}
	}
	return c.verifier(c.logs[0])
}

func (c *Chain) verifier(l Link) note.Verifier {
	if c.given != nil && sameName(c.given, l.verifier) {
		return c.given
	}
	return l.verifier
}

func sameName(a, b note.Verifier) bool { return a.Name() == b.Name() && a.KeyHash() == b.KeyHash() }

// Has says whether v is one of the log keys.
func (c *Chain) Has(v note.Verifier) bool {
	return slices.ContainsFunc(c.logs, func(l Link) bool { return sameName(l.verifier, v) })
}

// IsRotation says whether the statement of env is a rotation, lawful or not.
func IsRotation(env schema.Envelope) bool {
	_, ok := rotationIn(env)
	return ok
}

func rotationIn(env schema.Envelope) (schema.Trust, bool) {
	var t schema.Trust
	s, err := env.Statement()
	if err != nil || s.PredicateType != schema.TrustV1 || schema.DecodePredicate(s, true, &t) != nil {
		return t, false
	}
	return t, t.Action == "rotate" && (t.Role == schema.RoleLog || t.Role == schema.RoleObserver)
}

// Follow is the chain after the entry e: c itself, unless e is a rotation that
// the observer in force signed. What others sign changes no keys. A rotation
// that the key it replaces, or the key itself, did not sign gives a
// *FalseError.
func (c *Chain) Follow(e schema.Entry) (*Chain, error) {
	if e.State != schema.Present || len(e.Envelope.Signatures) < 2 {
		return c, nil // a rotation has two signatures at least
	}
	t, ok := rotationIn(e.Envelope)
	if !ok || len(Signers(e.Envelope, []schema.PublicKey{c.Observer()})) == 0 {
		return c, nil
	}
	claim := fmt.Sprintf("that entry %d rotates the %s key", e.Index, t.Role)
	key, err := keys.ParsePublic([]byte(t.Key))
	if err != nil {
		return nil, &MalformedError{What: fmt.Sprintf("entry %d", e.Index), Err: fmt.Errorf("key: %w", err)}
	}
	links := c.logs
	if t.Role == schema.RoleObserver {
		links = c.observers
	}
	old := links[len(links)-1]
	switch {
	case key.ID != t.KeyID:
		return nil, &FalseError{claim, fmt.Errorf("the key is %s, not %s as it says", key.ID, t.KeyID)}
	case t.Replaces != old.ID:
		return nil, &FalseError{claim, fmt.Errorf("it replaces %s, and %s is in force", t.Replaces, old.ID)}
	case c.used(key.ID):
		return nil, &FalseError{claim, fmt.Errorf("the ledger has used %s before", key.ID)}
	case !t.NotBefore.Equal(e.Header.RecordedAt):
		return nil, &FalseError{claim, fmt.Errorf("it was recorded at %s, not %s as it says", e.Header.RecordedAt, t.NotBefore)}
	}
	next := Link{PublicKey: key, Entry: e.Index}
	if t.Role == schema.RoleLog {
		if next.VKey, err = keys.VKey(c.origin, key.Key); err != nil {
			return nil, &FalseError{claim, err}
		}
		if next.verifier, err = note.NewVerifier(next.VKey); err != nil {
			return nil, &FalseError{claim, err}
		}
	}
	for _, by := range []struct {
		which string
		key   Link
	}{{"the key that it replaces", old}, {"the new key", next}} {
		if !c.signed(e.Envelope, by.key) {
			return nil, &FalseError{claim, fmt.Errorf("%s, %s, did not sign it", by.which, by.key.ID)}
		}
	}
	longer := *c
	if t.Role == schema.RoleLog {
		longer.logs = append(slices.Clone(c.logs), next)
	} else {
		longer.observers = append(slices.Clone(c.observers), next)
	}
	return &longer, nil
}

func (c *Chain) used(id string) bool {
	return slices.ContainsFunc(append(c.Logs(), c.observers...), func(l Link) bool { return l.ID == id })
}

// signed says whether the key of a link signed env.
func (c *Chain) signed(env schema.Envelope, l Link) bool {
	pae := dsse.PAE(env.PayloadType, env.Payload)
	return slices.ContainsFunc(env.Signatures, func(s schema.Signature) bool {
		if l.verifier != nil && !c.verifier(l).Verify(pae, s.Sig) {
			return false
		}
		return SignedBy(l.Key, pae, s.Sig)
	})
}

// chain reads the log's keys out of the bundle's genesis and rotations, for a
// verifier that holds v, and returns the key that has to have signed the
// checkpoint, and the one that genesis has to name. Where there is no rotation
// of the log key both are v, and chain is nil.
//
// Nothing is proven yet: each rotation is signed by the keys on both sides of
// it, v is one of them, and that the entries are in the tree is for the caller
// to check under the key returned.
func (b *Bundle) chain(v note.Verifier) (chain *Chain, signer, first note.Verifier, err error) {
	for i, be := range b.Entries {
		if be.Body == "" {
			continue
		}
		raw, err := decode64(be.Body)
		if err != nil {
			continue // said when the entry is opened
		}
		e, err := schema.ParseEntry(be.Index, raw)
		if err != nil {
			continue
		}
		if i == 0 {
			if chain = genesisChain(e); chain == nil {
				return nil, v, v, nil
			}
			chain = chain.GivenTo(v)
			continue
		}
		if chain != nil {
			if chain, err = chain.Follow(e); err != nil {
				return nil, nil, nil, err
			}
		}
	}
	if chain == nil || len(chain.logs) == 1 {
		return nil, v, v, nil
	}
	if !chain.Has(v) {
		return nil, nil, nil, &FalseError{
			Claim: fmt.Sprintf("that %s+%08x is a key of this log", v.Name(), v.KeyHash()),
			Err:   errors.New("neither genesis nor a rotation in the bundle names it"),
		}
	}
	size, err := sizeOf([]byte(b.Checkpoint))
	if err != nil {
		return nil, nil, nil, err
	}
	return chain, chain.LogAt(size), chain.verifier(chain.logs[0]), nil
}

// genesisChain is the chain that begins with e; nil if e is no genesis, which
// is said when the entry is checked.
func genesisChain(e schema.Entry) *Chain {
	s, err := e.Envelope.Statement()
	if err != nil || s.PredicateType != schema.GenesisV1 {
		return nil
	}
	var g schema.Genesis
	if err := schema.DecodePredicate(s, true, &g); err != nil {
		return nil
	}
	chain, err := NewChain(g)
	if err != nil {
		return nil
	}
	return chain
}

// concludeKeys says in words how the verifier's key leads to the one that
// signed the checkpoint.
func (c *checkState) concludeKeys(chain *Chain, given note.Verifier) {
	if chain == nil {
		return
	}
	for i, l := range chain.logs[1:] {
		c.verdict.proven("entry %d put the log key %s in the place of %s; both signed it", l.Entry, hashName(l.verifier), hashName(chain.logs[i].verifier))
	}
	if !sameName(given, chain.Log()) {
		c.verdict.notProven("that %s, which you verify with, is still to be trusted: it was replaced, and whoever has it can sign a tree without the rotation. Verify with %s from now on", hashName(given), chain.logs[len(chain.logs)-1].VKey)
	}
}

func hashName(v note.Verifier) string { return fmt.Sprintf("%s+%08x", v.Name(), v.KeyHash()) }
