package verify

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/retrace-ledger/retrace/keys"
	"github.com/retrace-ledger/retrace/schema"
)

// Verdict is the outcome of verifying a bundle that holds: what was proven, by
// whose key, and what was not (DESIGN, invariant 12).
type Verdict struct {
	Origin    string         `json:"origin"`
	LogKey    string         `json:"logKey"` // name+hash of the key that signed the checkpoint
	Observer  string         `json:"observer"`
	TreeSize  int64          `json:"treeSize"`  // of the checkpoint
	SpeaksFor int64          `json:"speaksFor"` // entries that the answer is about
	Ref       string         `json:"ref"`
	Root      schema.Key     `json:"root,omitempty"`
	Edges     []schema.Edge  `json:"edges,omitempty"` // with the verifier's own grades
	Entries   []VerdictEntry `json:"entries"`
	Proven    []string       `json:"proven"`
	NotProven []string       `json:"notProven"`
	Grades    string         `json:"grades"` // whose trust the evidence is graded by
	// Cosignatures are those of the verifier's policy, by time; none without a policy.
	Cosignatures []Cosignature     `json:"cosignatures,omitempty"`
	Resources    []schema.Resource `json:"-"`
}

// VerdictEntry is an entry that was checked.
type VerdictEntry struct {
	Index         int64           `json:"index"`
	PredicateType string          `json:"predicateType,omitempty"`
	RecordedAt    time.Time       `json:"recordedAt,omitzero"`
	Signers       []string        `json:"signers,omitempty"`
	Evidence      schema.Evidence `json:"evidence,omitempty"`
	Withheld      bool            `json:"withheld,omitempty"`
	Unreadable    string          `json:"unreadable,omitempty"` // why it states nothing
}

// Options changes how a bundle is verified. The zero value is right.
type Options struct {
	// Trust are the verifier's own keys: evidence is graded by them alone, and
	// not by what the ledger's operator trusts.
	Trust []schema.PublicKey
	// Policy is the verifier's: the checkpoint must carry its quorum of
	// cosignatures. Without one no cosignature counts.
	Policy *Policy
}

// Verify checks the bundle against the log's public key. A *FalseError says
// exactly what does not hold; a *MalformedError what could not be read.
func (b *Bundle) Verify(ctx context.Context, v note.Verifier, opts *Options) (*Verdict, error) {
	if opts == nil {
		opts = &Options{}
	}
	given := v
	chain, v, first, err := b.chain(given)
	if err != nil {
		return nil, err
	}
	c, err := OpenCheckpoint([]byte(b.Checkpoint), v)
	if err != nil {
		return nil, err
	}
	if b.Claim.Size < 1 || b.Claim.Size > c.Size {
		return nil, &FalseError{"the size that the answer speaks for", fmt.Errorf("it is %d, the checkpoint covers %d", b.Claim.Size, c.Size)}
	}
	ck := &checkState{b: b, opts: opts, graph: schema.NewFactGraph(), resources: map[schema.Key]schema.Resource{}, made: map[schema.Key]bool{}}
	ck.verdict = &Verdict{
		Origin: c.Origin, LogKey: fmt.Sprintf("%s+%08x", v.Name(), v.KeyHash()), TreeSize: c.Size, SpeaksFor: b.Claim.Size,
		Ref: b.Claim.Ref, Root: b.Claim.Root, Grades: "as the ledger's operator trusts keys",
	}
	if opts.Trust != nil {
		ck.verdict.Grades = "by the verifier's own keys"
	}
	if opts.Policy != nil {
		if ck.verdict.Cosignatures, err = opts.Policy.Check(c, v); err != nil {
			return nil, err
		}
	}
	for i, e := range b.Entries {
		if e.Index >= b.Claim.Size {
			return nil, &FalseError{"the size that the answer speaks for", fmt.Errorf("it is %d, and the bundle rests on entry %d", b.Claim.Size, e.Index)}
		}
		entry, err := e.open(b, v)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			err = ck.genesis(entry, first)
		} else {
			err = ck.entry(entry)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := ck.grade(); err != nil {
		return nil, err
	}
	if err := ck.claim(ctx); err != nil {
		return nil, err
	}
	ck.conclude()
	ck.concludeKeys(chain, given)
	return ck.verdict, nil
}

// checkState is the work on one bundle.
type checkState struct {
	b         *Bundle
	opts      *Options
	verdict   *Verdict
	trust     *schema.TrustHistory
	observer  schema.PublicKey // in force after the entries read so far
	keys      []schema.PublicKey
	entries   []opened
	graph     *schema.FactGraph
	resources map[schema.Key]schema.Resource
	withheld  int
	made      map[schema.Key]bool // that a step in the bundle made
	naming    *opened             // states the name that was asked for; nil if there was none
	unasked   string              // what is not proven of the question
}

type opened struct {
	schema.Entry
	statement schema.Statement
	facts     *schema.Facts
	evidence  schema.Evidence
	// unreadable is why the envelope states nothing; empty if it does.
	unreadable string
}

// genesis checks that entry 0 names this log, this log key, and an observer
// key that signed it.
func (c *checkState) genesis(e schema.Entry, v note.Verifier) error {
	if e.State != schema.Present {
		return malformed("bundle", "genesis, entry 0, has no body")
	}
	claim := "that entry 0 is the genesis of log " + v.Name()
	s, err := e.Envelope.Statement()
	if err != nil {
		return &MalformedError{What: "genesis", Err: err}
	}
	var g schema.Genesis
	if s.PredicateType != schema.GenesisV1 {
		return &FalseError{claim, fmt.Errorf("it is a %s statement", s.PredicateType)}
	}
	if err := schema.DecodePredicate(s, true, &g); err != nil {
		return &MalformedError{What: "genesis", Err: err}
	}
	if g.Origin != v.Name() {
		return &FalseError{claim, fmt.Errorf("it is of log %s", g.Origin)}
	}
	key, err := note.NewVerifier(g.LogKey)
	if err != nil {
		return &MalformedError{What: "genesis", Err: fmt.Errorf("log key: %w", err)}
	}
	if key.KeyHash() != v.KeyHash() {
		return &FalseError{claim, fmt.Errorf("it names the log key %08x, not %08x", key.KeyHash(), v.KeyHash())}
	}
	observer, err := keys.ParsePublic([]byte(g.ObserverKey))
	if err != nil {
		return &MalformedError{What: "genesis", Err: fmt.Errorf("observer key: %w", err)}
	}
	if len(Signers(e.Envelope, []schema.PublicKey{observer})) == 0 {
		return &FalseError{claim, errors.New("its observer key did not sign it")}
	}
	c.trust = schema.NewTrustHistory(observer.ID)
	c.observer, c.keys = observer, []schema.PublicKey{observer}
	c.verdict.Observer = observer.ID
	return c.entry(e)
}

// entry reads an entry's facts, and the trust that it states.
func (c *checkState) entry(e schema.Entry) error {
	if e.State != schema.Present {
		c.withheld++
		c.entries = append(c.entries, opened{Entry: e, facts: &schema.Facts{}})
		return nil
	}
	what := fmt.Sprintf("entry %d", e.Index)
	s, err := e.Envelope.Statement()
	f := &schema.Facts{}
	if err == nil {
		f, err = s.Facts()
	}
	if err != nil {
		// The ledger holds what it could not read when it was recorded, and so
		// does its graph: it states nothing.
		c.entries = append(c.entries, opened{Entry: e, statement: s, facts: &schema.Facts{}, unreadable: err.Error()})
		return nil
	}
	c.entries = append(c.entries, opened{Entry: e, statement: s, facts: f})
	for _, r := range f.Resources {
		if _, ok := c.resources[r.Key]; !ok {
			c.resources[r.Key] = r
		}
	}
	if s.PredicateType != schema.TrustV1 || len(Signers(e.Envelope, []schema.PublicKey{c.observer})) == 0 {
		return nil
	}
	var t schema.Trust
	if err := schema.DecodePredicate(s, true, &t); err != nil {
		return &MalformedError{What: what, Err: err}
	}
	pub, err := Trusted(t)
	if err != nil || pub.ID != t.KeyID {
		return nil // states a key under another key's ID: trusts nobody
	}
	c.trust.Apply(t)
	c.keys = append(c.keys, pub)
	if c.trust.Observer() == pub.ID { // the chain was checked before
		c.observer, c.verdict.Observer = pub, pub.ID
	}
	return nil
}

// grade checks signatures and adds the facts of every entry to the graph. The
// answer is derived by the operator's grades, as it was given, and shown with
// the verifier's own where it brought keys.
func (c *checkState) grade() error {
	for i := range c.entries {
		e := &c.entries[i]
		ve := VerdictEntry{Index: e.Index, PredicateType: e.statement.PredicateType, RecordedAt: e.Header.RecordedAt, Unreadable: e.unreadable}
		if e.State != schema.Present {
			ve.Withheld = true
			c.verdict.Entries = append(c.verdict.Entries, ve)
			continue
		}
		ve.Signers = Signers(e.Envelope, c.keys)
		operator := c.trust.Grade(e.Header, e.statement.PredicateType, ve.Signers)
		e.evidence = operator
		if c.opts.Trust != nil {
			ve.Signers, e.evidence = Signers(e.Envelope, c.opts.Trust), schema.Claimed
			if len(ve.Signers) > 0 {
				e.evidence = schema.Attested
			}
		}
		ve.Evidence = e.evidence
		c.verdict.Entries = append(c.verdict.Entries, ve)
		c.graph.Add(e.Index, e.facts, schema.Grade{Evidence: operator, Namespace: e.Header.Namespace})
	}
	return nil
}

// claim derives the answer again from the entries and compares.
func (c *checkState) claim(ctx context.Context) error {
	cl := c.b.Claim
	if cl.Name != "" {
		if err := c.name(); err != nil {
			return err
		}
	}
	if err := c.asked(); err != nil {
		return err
	}
	if cl.Root == "" {
		return c.entryClaim()
	}
	if err := c.run(); err != nil {
		return err
	}
	next, more := 0, false
	walk := schema.Walk(ctx, c.graph, schema.Start{Key: cl.Root, Run: cl.Run}, schema.WalkOptions{
		Direction: cl.Direction, Depth: cl.Depth, Size: cl.Size,
		Made: func(k schema.Key, _ int64) { c.made[k] = true },
	})
	for got, err := range walk {
		if err != nil {
			return &MalformedError{What: "bundle", Err: err}
		}
		if next == len(cl.Edges) {
			if more = cl.Truncated; more {
				break
			}
			return &FalseError{"the answer", fmt.Errorf("it leaves out an edge that entry %d states: %s", got.Entry, describeEdge(got))}
		}
		want := cl.Edges[next]
		if got != want && c.hidden(got, want) {
			return malformed("bundle", "edge %d of the answer cannot be derived again: the body of an entry that it rests on is withheld", next+1)
		}
		if got != want {
			return &FalseError{"the answer", fmt.Errorf("its edge %d says %s; the entries state %s", next+1, describeEdge(want), describeEdge(got))}
		}
		c.verdict.Edges = append(c.verdict.Edges, c.regraded(got))
		next++
	}
	if next < len(cl.Edges) && c.hidden(schema.Edge{}, cl.Edges[next]) {
		return malformed("bundle", "edge %d of the answer cannot be derived again: the body of entry %d, which states it, is withheld", next+1, cl.Edges[next].Entry)
	}
	if next < len(cl.Edges) {
		return &FalseError{"the answer", fmt.Errorf("no entry in the bundle states its edge %d: %s", next+1, describeEdge(cl.Edges[next]))}
	}
	if cl.Truncated && cl.Depth == 0 && !more {
		return &FalseError{"the answer", errors.New("it says that it was cut off, and the entries state no more")}
	}
	return nil
}

// regraded is the edge with the evidence of its entry, or of the label that it
// rests on.
func (c *checkState) regraded(e schema.Edge) schema.Edge {
	i := slices.IndexFunc(c.entries, func(o opened) bool { return o.Index == e.Entry })
	if label := e.Relation == schema.RelBase || e.Relation == schema.RelBuiltOf; i >= 0 && !label {
		e.Evidence = c.entries[i].evidence
	}
	return e
}

// hidden says whether a withheld body may be why the entries give another edge
// than the answer: it would state the edge, or decide how it is graded.
func (c *checkState) hidden(got, want schema.Edge) bool {
	if c.withheld == 0 {
		return false
	}
	got.Evidence = want.Evidence
	if want.Ambiguous {
		got.Ambiguous = true // the other producer may be what is hidden
	}
	return got == want || slices.ContainsFunc(c.entries, func(e opened) bool { return e.Index == want.Entry && e.State != schema.Present })
}

// name checks that the entry which the claim names says that the name points
// at the root.
func (c *checkState) name() error {
	cl := c.b.Claim
	claim := fmt.Sprintf("that %s names %s", cl.Name, cl.Root.Short())
	i := slices.IndexFunc(c.entries, func(e opened) bool { return e.Index == cl.Entry })
	if i < 0 {
		return &FalseError{claim, fmt.Errorf("entry %d, which is to say so, is not in the bundle", cl.Entry)}
	}
	e := &c.entries[i]
	if !slices.ContainsFunc(e.facts.Names, func(n schema.NameFact) bool {
		return n.Name == cl.Name && n.Key == cl.Root && n.Run == cl.Run && !n.Deleted
	}) {
		if e.State != schema.Present {
			return malformed("bundle", "%s cannot be checked: the body of entry %d is withheld", claim, cl.Entry)
		}
		return &FalseError{claim, fmt.Errorf("entry %d does not state it", cl.Entry)}
	}
	c.naming = e
	if c.graded(cl.Entry).Trusted() {
		return nil
	}
	for _, o := range c.entries {
		if c.graded(o.Index).Trusted() && slices.ContainsFunc(o.facts.Names, func(n schema.NameFact) bool { return n.Name == cl.Name }) {
			return &FalseError{claim, fmt.Errorf("entry %d only claims it, and what it names is for entry %d to say", cl.Entry, o.Index)}
		}
	}
	return nil
}

// graded is the operator's grade of an entry of the bundle.
func (c *checkState) graded(index int64) schema.Evidence {
	grade, err := c.graph.Grade(context.Background(), index)
	if err != nil {
		return schema.Claimed // its body is withheld
	}
	return grade.Evidence
}

// run checks that a run to which the claim binds its root made it. A name may
// bind its resource to a run that no step tells of.
func (c *checkState) run() error {
	cl := c.b.Claim
	if cl.Run == "" || cl.Name != "" || slices.ContainsFunc(c.entries, func(e opened) bool { return makes(e.facts.Step, cl.Root, cl.Run) }) {
		return nil
	}
	if c.withheld > 0 {
		return malformed("bundle", "that run %s made %s cannot be derived again: a body is withheld", cl.Run, cl.Root.Short())
	}
	return &FalseError{fmt.Sprintf("that run %s made %s", cl.Run, cl.Root.Short()), errors.New("no entry in the bundle states it")}
}

// makes says whether s is a step of run that made k, or is k.
func makes(s *schema.Step, k schema.Key, run string) bool {
	return s != nil && s.Run == run && (s.Subject == k || slices.ContainsFunc(s.Generates, func(o schema.Output) bool { return o.Key == k }))
}

func (c *checkState) entryClaim() error {
	cl := c.b.Claim
	if len(cl.Edges) > 0 || cl.Run != "" || cl.Direction != "" || cl.Depth != 0 || cl.Truncated {
		return &FalseError{"the answer", errors.New("it has a walk but no root that it starts from")}
	}
	if !slices.ContainsFunc(c.entries, func(e opened) bool { return e.Index == cl.Entry }) {
		return &FalseError{"the answer", fmt.Errorf("entry %d, which it is about, is not in the bundle", cl.Entry)}
	}
	return nil
}

func describeEdge(e schema.Edge) string {
	s := fmt.Sprintf("%s was made from %s", e.From.Short(), e.To.Short())
	if e.Step >= 0 {
		s += fmt.Sprintf(" by step %d", e.Step)
	}
	s += fmt.Sprintf(" (%s", e.Relation)
	if e.Role != "" {
		s += ", " + e.Role
	}
	if e.Path != "" {
		s += " " + e.Path
	}
	return s + fmt.Sprintf(", %s by entry %d)", e.Evidence, e.Entry)
}

// conclude says in words what was proven and what was not.
func (c *checkState) conclude() {
	v, cl := c.verdict, c.b.Claim
	v.proven("the log key %s signed a checkpoint over %d entries", v.LogKey, v.TreeSize)
	v.proven("all %d entries of the bundle are in that tree, byte for byte", len(c.entries))
	for _, s := range v.Cosignatures {
		v.proven("witness %s (%s) cosigned it: these entries were there no later than %s, and it saw no other history of the log", s.Witness, s.Key, s.Time.Format(time.RFC3339))
	}
	if c.naming != nil {
		v.proven("entry %d names %s: %s (%s)", cl.Entry, cl.Name, cl.Root, c.naming.evidence)
		v.notProven("that %s pointed nowhere else at size %d, and that it was the newest that %q may mean: entries that the bundle does not hold may say so", cl.Name, cl.Size, cl.Ref)
	}
	switch {
	case cl.Root != "" && cl.Truncated:
		v.proven("these entries state the %d edges shown from %s, and these come first", len(v.Edges), cl.Root)
	case cl.Root != "":
		v.proven("these entries state exactly the %d edges shown from %s", len(v.Edges), cl.Root)
	}
	for _, k := range c.unproduced() {
		r := c.resources[k]
		v.notProven("where %s came from: no entry in the bundle records a step that made it", label(r, k))
	}
	switch {
	case cl.Truncated:
		v.notProven("what lies beyond: the answer was cut off")
	case cl.Depth > 0:
		v.notProven("what lies deeper than %d edges: the answer was not asked for it", cl.Depth)
	}
	if c.unasked != "" {
		v.notProven("%s", c.unasked)
	}
	if c.withheld > 0 {
		v.notProven("what %d entries state whose bodies are withheld or erased", c.withheld)
	}
	v.notProven("that nothing was left out: entries that the bundle does not hold may state more, or retract or revoke")
	if len(v.Cosignatures) == 0 {
		v.notProven("when: no witness cosigned the checkpoint, so the times are the operator's")
	} else {
		v.notProven("when each entry was recorded: the witnesses say only how late the whole can have been, the times before that are the operator's")
	}
	v.notProven("that what the signers of the entries state is true")
}

func (v *Verdict) proven(format string, args ...any) {
	v.Proven = append(v.Proven, fmt.Sprintf(format, args...))
}

func (v *Verdict) notProven(format string, args ...any) {
	v.NotProven = append(v.NotProven, fmt.Sprintf(format, args...))
}

func label(r schema.Resource, k schema.Key) string {
	if r.Name != "" {
		return fmt.Sprintf("%s (%s)", r.Name, k.Short())
	}
	return k.Short()
}

// unproduced are the root and the resources that edges lead to, where no step
// made them and no edge leads from them.
func (c *checkState) unproduced() []schema.Key {
	made := maps.Clone(c.made)
	for _, e := range c.verdict.Edges {
		made[e.From] = true
	}
	var out []schema.Key
	if cl := c.b.Claim; cl.Root != "" && cl.Direction != schema.Downstream && cl.Root.Algorithm() != schema.GitCommit && !made[cl.Root] {
		out = append(out, cl.Root)
	}
	for _, e := range c.verdict.Edges {
		switch e.Role {
		case schema.RoleTool, schema.RoleCode, schema.RoleChanges, schema.RoleParams:
			continue
		}
		if e.To.Algorithm() == schema.GitCommit {
			continue
		}
		if !made[e.To] && !slices.Contains(out, e.To) {
			out = append(out, e.To)
		}
	}
	return out
}
