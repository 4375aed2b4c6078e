package replay

import (
	"crypto/sha256"
	"encoding/hex"

	"github.com/retrace-ledger/retrace/schema"
)

// maxChains is how many sources, refs and tags are followed; links of more are
// counted as open.
const maxChains = 1 << 18

// chainID is the digest of what a chain of statements is about.
type chainID [16]byte

// link is the newest statement of a chain.
type link struct {
	digest [sha256.Size]byte // of its payload
	index  int64
}

// chain checks that a coverage, ref or tag statement of the observer's names
// the one before it. Others can state what they like about a ref; the ledger's
// own watchers promise to leave nothing out in between.
func (r *Replay) chain(d *document) {
	name, previous, ok := chained(d)
	if !ok || !r.trust.observed(d) {
		return
	}
	sum := sha256.New()
	for _, part := range []string{d.statement.PredicateType, d.Header.Namespace, d.Header.Source, name} {
		n := sha256.Sum256([]byte(part))
		sum.Write(n[:])
	}
	id := chainID(sum.Sum(nil)[:16])
	last, known := r.chains[id]
	switch {
	case previous == "":
		r.report.Beginnings++
	case known && previous == hex.EncodeToString(last.digest[:]):
		r.report.Links++
	case r.hidden > last.index || !known && (r.hidden >= 0 || len(r.chains) >= maxChains):
		r.report.OpenLinks++ // the one before may be what is not here
	case known:
		r.find(d.Index, KindChain, "it names %s as the statement about %s before it, and that is entry %d with %x", previous, name, last.index, last.digest)
	default:
		r.find(d.Index, KindChain, "it names %s as the statement about %s before it, and there is none", previous, name)
	}
	if known || len(r.chains) < maxChains {
		r.chains[id] = link{sha256.Sum256(d.Envelope.Payload), d.Index}
	}
}

// chained is what a statement is one of a chain about, and what it says comes
// before it.
func chained(d *document) (name, previous string, ok bool) {
	decode := func(p any) bool { return schema.DecodePredicate(d.statement, true, p) == nil }
	switch d.statement.PredicateType {
	case schema.CoverageV1:
		var p schema.Coverage
		ok = decode(&p)
		return p.Source, p.Previous, ok
	case schema.RefV1:
		var p schema.Ref
		ok = decode(&p)
		return p.Repository + "#" + p.Ref, p.Previous, ok
	case schema.TagV1:
		var p schema.Tag
		ok = decode(&p)
		return p.Repository + ":" + p.Tag, p.Previous, ok
	}
	return "", "", false
}
