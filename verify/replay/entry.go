package replay

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/retrace-ledger/retrace/keys"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// document is an entry as its body says.
type document struct {
	schema.Entry
	statement  schema.Statement
	subjects   []schema.Key
	fault      string // why the body is not what is committed to, or is none
	unreadable string // why the statement cannot be read
	signers    []string
	verified   int      // signatures
	unknown    int      // signatures by keys that are not known
	forged     []string // known key IDs that a signature names and is not by
}

// apply replays a chunk. A trust entry changes how later signatures are
// checked, so entries are taken in runs that end with one.
func (r *Replay) apply(ctx context.Context, log Log, chunk []schema.Entry) error {
	docs := make([]document, len(chunk))
	if err := parallel(ctx, len(docs), func(i int) { docs[i] = decode(chunk[i]) }); err != nil {
		return err
	}
	for len(docs) > 0 {
		n := 1 + slices.IndexFunc(docs, decidesKeys)
		if n == 0 {
			n = len(docs)
		}
		run := docs[:n]
		if err := parallel(ctx, n, func(i int) { r.trust.check(&run[i]) }); err != nil {
			return err
		}
		for i := range run {
			if err := r.entry(ctx, log, &run[i]); err != nil {
				return err
			}
		}
		docs = docs[n:]
	}
	return nil
}

func decidesKeys(d document) bool {
	return d.statement.PredicateType == schema.GenesisV1 || d.statement.PredicateType == schema.TrustV1
}

// parallel calls fn for 0 to n-1, on all cores.
func parallel(ctx context.Context, n int, fn func(i int)) error {
	const part = 16
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for start := 0; start < n; start += part {
		group.Go(func() error {
			for i := start; i < min(start+part, n); i++ {
				fn(i)
			}
			return ctx.Err()
		})
	}
	return group.Wait()
}

// decode reads the body of an entry again. It never fails: what is wrong is in
// the document, which then states nothing.
func decode(e schema.Entry) document {
	d := document{Entry: schema.Entry{Index: e.Index, Commitment: e.Commitment, State: e.State}}
	if e.State != schema.Present {
		return d
	}
	if got := schema.Commitment(e.Body); got != e.Commitment {
		d.fault = fmt.Sprintf("its body hashes to %x, and its commitment is %x", got, e.Commitment)
		return d
	}
	body, err := schema.ParseBody(e.Body)
	if err != nil {
		d.fault = "what it commits to is no body: " + err.Error()
		return d
	}
	d.Header = body.Header
	if d.Envelope, err = schema.ParseEnvelope(body.Envelope); err != nil {
		d.fault = "what it holds is no envelope: " + err.Error()
		return d
	}
	s, err := d.Envelope.Statement()
	var facts *schema.Facts
	if err == nil {
		facts, err = s.Facts()
	}
	if err != nil {
		d.unreadable = err.Error()
		return d
	}
	d.statement, d.subjects = s, facts.Subjects
	return d
}

// entry replays one entry.
func (r *Replay) entry(ctx context.Context, log Log, d *document) error {
	if err := r.tree.add(d.Commitment); err != nil {
		return err
	}
	switch d.State {
	case schema.Present:
		r.report.Present++
	case schema.Erased, schema.Withheld:
		return r.hide(d)
	default:
		return fmt.Errorf("replaying entry %d: its state is %q", d.Index, d.State)
	}
	if d.fault != "" {
		r.find(d.Index, KindBody, "%s", d.fault)
		r.hidden = d.Index
		return nil
	}
	r.time(d)
	if d.Index == 0 {
		if err := r.genesis(d); err != nil {
			r.find(0, KindGenesis, "it does not begin a ledger of the log key %s: %v", r.key.Name(), err)
		}
	}
	r.signatures(d)
	if d.unreadable != "" {
		r.unreadable(d.Index, d.unreadable)
		return nil
	}
	switch d.statement.PredicateType {
	case schema.GenesisV1:
		if d.Index > 0 {
			r.find(d.Index, KindGenesis, "it is a second genesis, and a ledger has one, entry 0")
		}
	case schema.TrustV1:
		if err := r.rotation(d); err != nil {
			r.find(d.Index, KindObserver, "it rotates a key of the ledger, and is not lawful: %v", err)
			return nil
		}
		if reason := r.trust.apply(d); reason != "" {
			r.unreadable(d.Index, reason)
		}
		r.report.TrustEntries = int64(len(r.trust.applied))
	case schema.ErasureV1:
		return r.erasure(ctx, log, d)
	default:
		r.chain(d)
	}
	return nil
}

func (r *Replay) unreadable(index int64, problem string) {
	r.report.Unreadable++
	if len(r.report.UnreadableList) < MaxListed {
		r.report.UnreadableList = append(r.report.UnreadableList, Unreadable{index, problem})
	}
}

// time checks that the committer's clock did not go back.
func (r *Replay) time(d *document) {
	at := d.Header.RecordedAt
	if at.Before(r.last) {
		r.find(d.Index, KindTime, "it was recorded at %s, and the one before at %s", at.Format(time.RFC3339Nano), r.last.Format(time.RFC3339Nano))
	}
	r.last = at
}

// genesis checks that entry 0 names this log, its key, and an observer that
// signed it.
func (r *Replay) genesis(d *document) error {
	if d.unreadable != "" {
		return errors.New(d.unreadable)
	}
	if d.statement.PredicateType != schema.GenesisV1 {
		return fmt.Errorf("it is a %s statement", d.statement.PredicateType)
	}
	var g schema.Genesis
	if err := schema.DecodePredicate(d.statement, true, &g); err != nil {
		return err
	}
	if g.Origin != r.key.Name() {
		return fmt.Errorf("it names the origin %q", g.Origin)
	}
	chain, err := verify.NewChain(g)
	if err != nil {
		return err
	}
	observer, err := keys.ParsePublic([]byte(g.ObserverKey))
	if err != nil {
		return fmt.Errorf("its observer key: %w", err)
	}
	if len(verify.Signers(d.Envelope, []schema.PublicKey{observer})) == 0 {
		return errors.New("its observer key did not sign it")
	}
	r.trust.begin(observer, g.ObserverKey)
	r.succession, r.own = chain, []schema.Entry{d.Entry}
	*d = document{Entry: d.Entry, statement: d.statement, subjects: d.subjects}
	r.trust.check(d)
	return nil
}

// rotation follows a rotation of the ledger's own keys.
func (r *Replay) rotation(d *document) error {
	if r.succession == nil {
		return nil
	}
	chain, err := r.succession.Follow(d.Entry)
	if err != nil || chain == r.succession {
		return err
	}
	r.succession, r.own = chain, append(r.own, d.Entry)
	return nil
}

// signatures counts what was verified and grades the entry by the trust of the
// entries before it.
func (r *Replay) signatures(d *document) {
	r.report.Signatures += int64(d.verified)
	r.report.UnknownSignatures += int64(d.unknown)
	for _, id := range d.forged {
		if r.trust.isObserver(id) {
			r.find(d.Index, KindObserver, "it claims to be signed by the ledger's observer, %s, and is not", id)
		} else {
			r.find(d.Index, KindSignature, "it claims to be signed by the key %s, and is not", id)
		}
	}
	switch r.trust.history.Grade(d.Header, d.statement.PredicateType, d.signers) {
	case schema.Attested:
		r.report.Attested++
	case schema.Observed:
		r.report.Observed++
	default:
		r.report.Claimed++
	}
}
