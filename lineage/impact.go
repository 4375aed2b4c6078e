package lineage

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/retrace-ledger/retrace/schema"
)

// Reached is a version of a model, or a workload, that something reaches: it is
// made from it, or ran what is.
type Reached struct {
	Name    string     // model:NAME@VERSION or workload:CLUSTER/NAMESPACE/KIND/NAME
	Key     schema.Key // what the name stood for
	From    time.Time  // when it came to stand for it
	Until   time.Time  // when it no longer did; zero while it does
	Running bool       // of a workload: it ran so in the span asked for
	Depth   int        // edges on the way by which it was found
	Claimed bool       // its name, or that way, rests on a claim
	Entry   int64      // that names it
}

// Span is a part of time. The zero value is the view's own time, which is now
// unless it was asked for another one.
type Span struct {
	Since, Until time.Time // Until excluded; zero for no bound
}

// now says whether no span was asked for.
func (s Span) now() bool { return s.Since.IsZero() && s.Until.IsZero() }

// Impact yields every version of a model and every workload that lies downstream
// of starts, each once, as the walk comes upon them: the first are there at once
// however many there are. A version that is bound to
// another run is not reached by equal bytes of this one.
func (v *View) Impact(ctx context.Context, starts []schema.Start, span Span) iter.Seq2[Reached, error] {
	return func(yield func(Reached, error) bool) {
		c := &impact{v: v, span: span, met: map[schema.Start]bool{}, claimed: map[schema.Key]bool{}, said: map[string]bool{}, yield: yield}
		for _, s := range starts {
			if c.met[s] {
				continue // and all below it
			}
			if err := c.from(ctx, s); err != nil {
				if !errors.Is(err, errEnough) {
					yield(Reached{}, err)
				}
				return
			}
		}
	}
}

// errEnough ends a walk whose caller wants no more.
var errEnough = errors.New("the caller wants no more")

// impact is one Impact under way.
type impact struct {
	v       *View
	span    Span
	met     map[schema.Start]bool
	claimed map[schema.Key]bool // that the way to a resource rests on a claim
	said    map[string]bool     // names
	yield   func(Reached, error) bool
}

func (c *impact) from(ctx context.Context, start schema.Start) error {
	if err := c.reach(start, 0); err != nil {
		return err
	}
	for e, err := range schema.Walk(ctx, c.v, start, schema.WalkOptions{Direction: schema.Downstream, Size: c.v.size, DepthFirst: true}) {
		if err != nil {
			return err
		}
		if _, ok := c.claimed[e.From]; !ok {
			c.claimed[e.From] = c.claimed[e.To] || e.Evidence == schema.Claimed
		}
		to := schema.Start{Key: e.From}
		if e.Step >= 0 {
			step, err := c.v.Step(ctx, e.Step)
			if err != nil {
				return err
			}
			to.Run = step.Run
		}
		if err := c.reach(to, e.Depth+1); err != nil {
			return err
		}
	}
	return nil
}

// reach yields the names of what was reached.
func (c *impact) reach(at schema.Start, depth int) error {
	if c.met[at] {
		return nil
	}
	c.met[at] = true
	names, err := c.v.NamesOf(at.Key)
	if err != nil {
		return err
	}
	for _, n := range names {
		kind, rest, _ := strings.Cut(n.NameFact.Name, ":")
		isModel, isWorkload := kind == schema.NameModel, kind == schema.NameWorkload && !strings.Contains(rest, "#")
		if !isModel && !isWorkload || isModel && n.Run != "" && at.Run != "" && n.Run != at.Run {
			continue
		}
		if err := c.name(n.NameFact.Name, at.Key, depth, isWorkload); err != nil {
			return err
		}
	}
	return nil
}

// name yields what a name says of its time at a resource, once.
func (c *impact) name(name string, k schema.Key, depth int, workload bool) error {
	if id := name + " " + string(k); c.said[id] {
		return nil
	} else {
		c.said[id] = true
	}
	history, err := c.v.History(name)
	if err != nil {
		return err
	}
	history = vouched(history)
	r := Reached{Name: name, Key: k, Depth: depth, Claimed: c.claimed[k], Entry: -1}
	for i, p := range history {
		if p.Key != k || p.Deleted {
			continue
		}
		until := time.Time{}
		if i+1 < len(history) {
			until = history[i+1].At
		}
		if r.Entry < 0 {
			r.From = p.At
		}
		r.Until, r.Entry = until, p.Entry
		r.Claimed = r.Claimed || p.Evidence == schema.Claimed
		r.Running = r.Running || workload && c.within(p.At, until)
	}
	if r.Entry < 0 { // nobody who is vouched for says so
		return nil
	}
	if !c.yield(r, nil) {
		return errEnough
	}
	return nil
}

// within says whether a time from since until until, zero for no end, touches
// the span.
func (c *impact) within(since, until time.Time) bool {
	from, to := c.span.Since, c.span.Until
	if c.span.now() {
		if from = c.v.time; from.IsZero() {
			return until.IsZero()
		}
		return !since.After(from) && (until.IsZero() || until.After(from))
	}
	return (to.IsZero() || since.Before(to)) && (until.IsZero() || from.IsZero() || until.After(from))
}

// SignedBy are the places where a walk begins from everything that entries
// signed by a key are about, in order of entry: what rests on its word. read
// gives the entries; one whose body is gone is passed.
func (v *View) SignedBy(ctx context.Context, read func(context.Context, int64) (schema.Entry, error), keyID string) ([]schema.Start, error) {
	var starts []schema.Start
	seen := map[schema.Start]bool{}
	for e, err := range v.Entries(ctx, 0, Filter{}) {
		if err != nil {
			return nil, err
		}
		if e.State != schema.Present || !slices.Contains(e.Signers, keyID) {
			continue
		}
		entry, err := read(ctx, e.Index)
		if err != nil {
			return nil, err
		}
		s, err := entry.Envelope.Statement()
		if err != nil {
			continue // an entry that cannot be read states nothing
		}
		for _, d := range s.Subject {
			start := schema.Start{Key: d.Key(), Run: e.Run}
			if !seen[start] {
				seen[start] = true
				starts = append(starts, start)
			}
		}
	}
	return starts, nil
}
