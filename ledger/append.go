package ledger

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"unicode"
	"unicode/utf8"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"github.com/retrace-ledger/retrace/ledger/engine"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// Limits of a batch beside those of package schema. The first three keep every
// header below schema.MaxHeader.
const (
	maxNamespace = 128     // bytes
	maxSource    = 1536    // bytes
	maxSubmitter = 256     // bytes
	maxCursor    = 1 << 20 // bytes of From or To
	maxCursors   = 256     // of one batch
)

// Append records b, whole or not at all. When it returns nil, every envelope
// of b is durable at the index that the receipt says, and so are b's cursors,
// all under the signed checkpoint of the receipt, which is durable too.
//
// An envelope that the namespace holds already is not recorded again: its
// first index is returned, marked as a duplicate. A batch whose cursor is not
// where the batch says is refused with a *CursorError.
//
// If ctx ends first, Append returns its error; b may be recorded all the same.
// The bytes of b must not be changed afterwards.
func (l *Ledger) Append(ctx context.Context, b schema.Batch) (schema.Receipt, error) {
	c, err := l.Check(b)
	if err != nil {
		return schema.Receipt{}, err
	}
	return l.AppendChecked(ctx, c)
}

// Checked is a batch that passed Check and can be appended to the ledger that
// checked it.
type Checked struct {
	ledger  *Ledger
	request request
}

// Check does the part of Append that needs nobody else: it decodes each
// statement, verifies each signature that claims the observer key, and holds
// the batch to the limits. It records nothing.
func (l *Ledger) Check(b schema.Batch) (*Checked, error) {
	if l.committer == nil {
		return nil, fmt.Errorf("appending to %s: %w", l.dir, ErrReadOnly)
	}
	r, err := l.check(b)
	if err != nil {
		return nil, fmt.Errorf("appending to %s: %w", l.dir, err)
	}
	return &Checked{ledger: l, request: *r}, nil
}

// AppendChecked is Append for a batch that l has checked.
func (l *Ledger) AppendChecked(ctx context.Context, c *Checked) (schema.Receipt, error) {
	if c.ledger != l {
		return schema.Receipt{}, fmt.Errorf("appending to %s: the batch was checked by another ledger", l.dir)
	}
	if err := ctx.Err(); err != nil {
		return schema.Receipt{}, err
	}
	p := newPending(&c.request)
	if err := l.lookUp(ctx, p); err != nil {
		return schema.Receipt{}, fmt.Errorf("appending to %s: %w", l.dir, err)
	}
	return l.submit(ctx, p)
}

// lookUp finds which envelopes of p the ledger holds already, so that the
// committer need not. What a commit in progress holds is left to the
// committer, which comes to p after it.
func (l *Ledger) lookUp(ctx context.Context, p *pending) error {
	if !l.committer.seen.mayHold(p.ids) {
		return nil
	}
	v := l.view.Load()
	return l.reading(ctx, func(s engine.Snapshot) error {
		for i, id := range p.ids {
			known, err := l.findDuplicate(s, v, id)
			if err != nil && !errors.Is(err, errUnsigned) {
				return err
			}
			p.places[i] = known
		}
		return nil
	})
}

// submit queues p and waits for its commit.
func (l *Ledger) submit(ctx context.Context, p *pending) (schema.Receipt, error) {
	if err := l.queue.put(p); err != nil {
		return schema.Receipt{}, err
	}
	select {
	case a := <-p.answer:
		return a.receipt, a.err
	case <-ctx.Done():
		p.taken.Store(true) // if the committer has not taken it yet, it will not
		return schema.Receipt{}, ctx.Err()
	}
}

// request is a batch that passed every check that does not need the store.
type request struct {
	namespace, source, submitter string
	envelopes                    []schema.Envelope
	ids                          []identity
	cursors                      []schema.Cursor
	bytes                        int   // of envelopes and cursors
	erases                       int64 // the entry whose body goes with it; 0 if none
}

// pending is a request on its way through a commit.
type pending struct {
	*request
	places []schema.Recorded // of the envelopes, as far as they are known
	rotate *Rotation         // instead of a request, which the committer makes of it; else nil
	taken  atomic.Bool       // by the committer, or by a caller that went away
	answer chan answer       // has room for the one answer
}

func newPending(r *request) *pending {
	return &pending{request: r, places: make([]schema.Recorded, len(r.envelopes)), answer: make(chan answer, 1)}
}

type answer struct {
	receipt schema.Receipt
	err     error
}

// reply answers p. Only the first answer counts.
func (p *pending) reply(receipt schema.Receipt, err error) {
	select {
	case p.answer <- answer{receipt, err}:
	default:
	}
}

// check does in the caller's goroutine all that can be done there.
func (l *Ledger) check(b schema.Batch) (*request, error) {
	r, err := newRequest(b)
	if err != nil {
		return nil, err
	}
	for i, env := range b.Envelopes {
		if err := l.genesis.checkEnvelope(env); err != nil {
			return nil, fmt.Errorf("envelope %d: %w", i, err)
		}
		if err := l.genesis.refuseErasure(env); err != nil {
			return nil, fmt.Errorf("envelope %d: %w", i, err)
		}
	}
	l.identify(r)
	return r, nil
}

// identify computes under which keys r's envelopes are found again.
func (l *Ledger) identify(r *request) {
	r.ids = make([]identity, len(r.envelopes))
	for i, env := range r.envelopes {
		r.ids[i] = identify(l.committer.secret, r.namespace, env.Identity(l.genesis.observerID))
	}
}

// newRequest checks the form and the limits of a batch.
func newRequest(b schema.Batch) (*request, error) {
	r := &request{
		namespace: b.Namespace, source: b.Source, submitter: b.Submitter,
		envelopes: b.Envelopes, cursors: b.Cursors,
	}
	if r.namespace == "" {
		r.namespace = schema.DefaultNamespace
	}
	if len(b.Envelopes) == 0 && len(b.Cursors) == 0 {
		return nil, &schema.FieldError{Reason: "the batch is empty: it has neither envelopes nor cursors"}
	}
	for _, limit := range []LimitError{
		{"envelopes in a batch", len(b.Envelopes), schema.MaxBatchEnvelopes},
		{"cursors in a batch", len(b.Cursors), maxCursors},
	} {
		if limit.Have > limit.Limit {
			return nil, &limit
		}
	}
	for _, name := range []struct {
		what, value string
		limit       int
	}{
		{"bytes of namespace", r.namespace, maxNamespace},
		{"bytes of source", r.source, maxSource},
		{"bytes of submitter", r.submitter, maxSubmitter},
	} {
		if err := checkName(name.what, name.value, name.limit); err != nil {
			return nil, err
		}
	}
	for i, env := range b.Envelopes {
		if len(env.Raw) == 0 {
			return nil, &schema.FieldError{Field: fmt.Sprintf("envelopes.%d", i), Reason: "is empty"}
		}
		if len(env.Raw) > schema.MaxEnvelope {
			return nil, fmt.Errorf("envelope %d: %w", i, &LimitError{"bytes", len(env.Raw), schema.MaxEnvelope})
		}
		r.bytes += len(env.Raw)
	}
	if err := r.addCursors(b.Cursors); err != nil {
		return nil, err
	}
	if r.bytes > schema.MaxBatchBytes {
		return nil, &LimitError{"bytes in a batch", r.bytes, schema.MaxBatchBytes}
	}
	return r, nil
}

func (r *request) addCursors(cursors []schema.Cursor) error {
	seen := make(map[string]bool, len(cursors))
	for _, c := range cursors {
		if c.Source == "" || seen[c.Source] {
			return &schema.FieldError{Field: "cursors", Reason: fmt.Sprintf("the batch moves the cursor of source %q twice, or names none", clip(c.Source))}
		}
		seen[c.Source] = true
		if err := checkName("bytes of a cursor's source", c.Source, maxSource); err != nil {
			return err
		}
		for _, at := range []string{c.From, c.To} {
			if len(at) > maxCursor {
				return fmt.Errorf("cursor of source %q: %w", clip(c.Source), &LimitError{"bytes", len(at), maxCursor})
			}
			r.bytes += len(at)
		}
	}
	return nil
}

// checkName refuses what could not stand in a header or a key.
func checkName(what, s string, limit int) error {
	if len(s) > limit {
		return &LimitError{what, len(s), limit}
	}
	if !utf8.ValidString(s) {
		return &schema.FieldError{Reason: fmt.Sprintf("%s: %q is not UTF-8", what, clip(s))}
	}
	for _, r := range s {
		if unicode.IsControl(r) {
			return &schema.FieldError{Reason: fmt.Sprintf("%s: %q has a control character", what, clip(s))}
		}
	}
	return nil
}

// checkEnvelope refuses an envelope that states nothing, or that claims to be
// our own and is not.
func (g genesis) checkEnvelope(env schema.Envelope) error {
	if _, err := g.checkOwn(env); err != nil {
		return err
	}
	s, err := env.Statement()
	if err != nil {
		return err
	}
	if s.PredicateType == schema.GenesisV1 {
		return &schema.FieldError{Field: "predicateType", Reason: "a ledger has one genesis, entry 0"}
	}
	if s.PredicateType == schema.TrustV1 && verify.IsRotation(env) {
		return &schema.FieldError{Field: "predicate.action", Reason: "the ledger records rotations of its keys itself: run `retrace keys rotate` where it is"}
	}
	_, err = s.Facts()
	return err
}

// checkOwn verifies each signature that claims the observer key and reports
// whether there is one. Duplicates of our own statements are recognized by
// their payload, so a forged copy could otherwise stand in for the real one.
// Nor is a real one taken in other clothes, under another key ID or beside
// other signatures: that copy would be a new entry as good as what was
// observed, and move names back to where they pointed once.
func (g genesis) checkOwn(env schema.Envelope) (claims bool, err error) {
	pae := dsse.PAE(env.PayloadType, env.Payload)
	for i, sig := range env.Signatures {
		if err := g.checkRetired(sig.KeyID); err != nil {
			return false, err
		}
		own := verify.SignedBy(g.chain.Observer().Key, pae, sig.Sig)
		if sig.KeyID != g.observerID {
			if own {
				return false, &schema.FieldError{Field: fmt.Sprintf("signatures.%d.keyid", i), Reason: fmt.Sprintf("is %q, and the signature is by the observer key %s", clip(sig.KeyID), g.observerID)}
			}
			if claims {
				return true, errMixed(i)
			}
			continue
		}
		if i > 0 && !claims {
			return true, errMixed(i)
		}
		claims = true
		if !own {
			return true, &schema.FieldError{Field: "signatures", Reason: fmt.Sprintf("the signature that claims the observer key %s is not by that key", g.observerID)}
		}
	}
	return claims, nil
}

func errMixed(i int) error {
	return &schema.FieldError{Field: fmt.Sprintf("signatures.%d", i), Reason: "stands beside a signature of the observer key with another key's; what others sign comes in an envelope of its own"}
}
