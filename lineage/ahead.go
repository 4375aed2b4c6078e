package lineage

import (
	"context"
	"fmt"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/retrace-ledger/retrace/schema"
)

// Bounds of a stretch. About three are in memory at once, decoded or not.
const (
	stretchEntries = 1024
	stretchBytes   = 2 << 20 // of bodies; one entry may be larger
)

// A stretch is some entries that follow one another: what goes into one
// transaction of the index, unless an entry in it decides how others are read.
type stretch struct {
	entries []schema.Entry
	docs    []decoded // the same, decoded
	keys    int       // of the graph's keys, those that its signatures were held against
	err     error     // why none comes after it
}

// readAhead reads the log from the entry next on while what it has read before
// is decoded and indexed. The channel is closed after the last stretch; who
// wants no more closes stop.
func readAhead(ctx context.Context, log Log, next int64, stop <-chan struct{}) <-chan stretch {
	out := make(chan stretch)
	go func() {
		defer close(out)
		var s stretch
		size := 0
		for e, err := range log.Entries(ctx, next) {
			if err != nil {
				s.err = fmt.Errorf("following the log at entry %d: %w", next, err)
				break
			}
			next = e.Index + 1
			s.entries, size = append(s.entries, e), size+len(e.Body)
			if len(s.entries) < stretchEntries && size < stretchBytes {
				continue
			}
			if !send(out, s, stop) {
				return
			}
			s, size = stretch{}, 0
		}
		if len(s.entries) > 0 || s.err != nil {
			send(out, s, stop)
		}
	}()
	return out
}

// send says whether s was taken; it is not once stop is closed.
func send(out chan<- stretch, s stretch, stop <-chan struct{}) bool {
	select {
	case out <- s:
		return true
	case <-stop:
		return false
	}
}

// decodeAhead decodes what comes in while what it has decoded before is
// indexed, in the same order. When its channel is closed, in is too.
func (g *Graph) decodeAhead(in <-chan stretch, stop <-chan struct{}) <-chan stretch {
	out := make(chan stretch)
	go func() {
		defer close(out)
		defer func() {
			for range in {
			}
		}()
		for s := range in {
			g.decode(&s)
			if !send(out, s, stop) {
				return
			}
		}
	}()
	return out
}

// decoded is an entry with what its statement states.
type decoded struct {
	schema.Entry
	statement schema.Statement
	facts     *schema.Facts
	signers   []string
	problem   string
}

// mayDecide says whether the entry decides how others are read, if its signer
// may.
func (d *decoded) mayDecide() bool {
	switch d.statement.PredicateType {
	case schema.GenesisV1, schema.TrustV1, schema.ErasureV1:
		return true
	}
	return false
}

// decode parses the entries of s and checks their signatures, on all cores.
func (g *Graph) decode(s *stretch) {
	keys := g.knownKeys()
	s.keys, s.docs = len(keys), make([]decoded, len(s.entries))
	inParts(len(s.docs), func(i int) { s.docs[i] = g.decodeOne(s.entries[i], keys) })
	s.entries = nil
}

// checkAgain holds the signatures of docs against the keys that were learnt
// since they were held against the first known ones, and returns how many there
// are now.
func (g *Graph) checkAgain(docs []decoded, known int) int {
	keys := g.knownKeys()
	if more := keys[known:]; len(more) > 0 {
		inParts(len(docs), func(i int) {
			if d := &docs[i]; d.State == schema.Present {
				d.signers = append(d.signers, g.signers(d.Envelope, more)...)
			}
		})
	}
	return len(keys)
}

// inParts calls fn with each index below n, on all cores.
func inParts(n int, fn func(i int)) {
	const part = 32
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for from := 0; from < n; from += part {
		group.Go(func() error {
			for i := from; i < min(from+part, n); i++ {
				fn(i)
			}
			return nil
		})
	}
	_ = group.Wait() // no part fails
}

// knownKeys are those of genesis and of every trust entry followed, in order.
func (g *Graph) knownKeys() []schema.PublicKey {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return slices.Clip(g.keys)
}

// Keys are those of genesis and of every trust entry followed, in order: what
// signatures are held against.
func (g *Graph) Keys() []schema.PublicKey { return g.knownKeys() }

// decodeOne never fails: what the ledger holds but this program cannot read is
// shown as such and states nothing.
func (g *Graph) decodeOne(e schema.Entry, keys []schema.PublicKey) decoded {
	d := decoded{Entry: e, facts: &schema.Facts{}}
	if e.State != schema.Present {
		return d
	}
	var err error
	if d.statement, err = e.Envelope.Statement(); err == nil {
		var facts *schema.Facts
		if facts, err = d.statement.Facts(); err == nil {
			d.facts = facts
		}
	}
	if err != nil {
		d.problem = err.Error()
		d.facts.PredicateType = d.statement.PredicateType
	}
	d.signers = g.signers(e.Envelope, keys)
	return d
}
