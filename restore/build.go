package restore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
)

// PlanOptions bounds a plan. The zero value is right.
type PlanOptions struct {
	Steps int // at most; DefaultSteps if 0
}

// DefaultSteps is how many steps a plan has at most unless told otherwise.
const DefaultSteps = 10000

// NewPlan plans what restoring ref lays out. It asks the sources what they
// hold, and fetches and writes nothing.
//
// Every step upstream of ref is planned once, after the steps that it rests
// on. Where several recorded steps made the same bytes and none was named, the
// newest one before the step that used them is taken, those of trusted signers
// first, and a note names all; one that ran after the bytes were used is not
// where they came from. A circle of steps is cut where it closes: the
// bytes there are laid out as recorded, and a note says so.
func NewPlan(ctx context.Context, v *lineage.View, ref lineage.Ref, src Sources, opt *PlanOptions) (*Plan, error) {
	if ref.Start.Key == "" {
		return nil, fmt.Errorf("%s names no resource, so there is nothing to restore", ref.Text)
	}
	b := &planner{ctx: ctx, v: v, src: src, limit: DefaultSteps, state: map[int64]visitState{}, uses: map[int64][][]link{}, placed: map[schema.Key]bool{}}
	if opt != nil && opt.Steps > 0 {
		b.limit = opt.Steps
	}
	b.plan = &Plan{Version: PlanVersion, Ref: ref.Text, Name: ref.Name, Key: ref.Start.Key, Run: ref.Start.Run, Size: v.Size()}
	roots, err := b.producers(ref.Start, nil)
	if err != nil {
		return nil, fmt.Errorf("planning %s: %w", ref.Text, err)
	}
	for _, l := range roots {
		if err := b.visit(l.info); err != nil {
			return nil, fmt.Errorf("planning %s: %w", ref.Text, err)
		}
	}
	if err := b.lay(roots); err != nil {
		return nil, fmt.Errorf("planning %s: %w", ref.Text, err)
	}
	if err := b.plan.check(); err != nil {
		return nil, fmt.Errorf("planning %s: %w", ref.Text, err)
	}
	return b.plan, nil
}

type visitState int

const (
	unseen visitState = iota
	open              // being visited: meeting it again closes a circle
	done
)

// link leads from a resource to a step that made it, or made a file of it.
type link struct {
	info   lineage.StepInfo
	member schema.Key // the file that the step made, where the resource is a folder that holds it
	within schema.Key // the folder that the step made, where the resource is a file in it
}

type planner struct {
	ctx    context.Context
	v      *lineage.View
	src    Sources
	limit  int
	plan   *Plan
	state  map[int64]visitState
	order  []lineage.StepInfo // dependencies first
	uses   map[int64][][]link // by entry of a step: for each of its uses, what made it
	number map[int64]int      // by entry, once ordered
	placed map[schema.Key]bool
}

func (b *planner) note(format string, args ...any) {
	if n := fmt.Sprintf(format, args...); !slices.Contains(b.plan.Notes, n) {
		b.plan.Notes = append(b.plan.Notes, n)
	}
}

// visit orders the step after everything it rests on.
func (b *planner) visit(s lineage.StepInfo) error {
	if err := b.ctx.Err(); err != nil {
		return err
	}
	if len(b.state) >= b.limit {
		return fmt.Errorf("more than %d steps were run to produce it; the limit is %d", b.limit, b.limit)
	}
	b.state[s.Entry] = open
	links := make([][]link, len(s.Step.Uses))
	for i, u := range s.Step.Uses {
		made, err := b.producers(schema.Start{Key: u.Key, Run: u.Producer}, &s)
		if err == nil && len(made) == 0 {
			made, err = b.within(u, &s)
		}
		if err != nil {
			return err
		}
		for _, l := range made {
			switch b.state[l.info.Entry] {
			case open:
				b.note("step entry:%d used %s, which step entry:%d made, which itself rests on the former: that circle is cut there, and the bytes are those recorded", s.Entry, u.Key.Short(), l.info.Entry)
				continue
			case unseen:
				if err := b.visit(l.info); err != nil {
					return err
				}
			}
			links[i] = append(links[i], l)
		}
	}
	b.uses[s.Entry] = links
	b.state[s.Entry] = done
	b.order = append(b.order, s)
	return nil
}

// producers are the steps that made the resource where start begins, seen from
// the step that used it: one for the resource itself, or one for each of its
// files that steps made. user is nil for the resource that is to be restored.
func (b *planner) producers(start schema.Start, user *lineage.StepInfo) ([]link, error) {
	if start.Key.Empty() {
		return nil, nil
	}
	one, err := b.producer(start, user)
	if err != nil {
		return nil, err
	}
	if one != nil {
		return []link{{info: *one}}, nil
	}
	up, _, err := b.v.Relations(b.ctx, start.Key)
	if err != nil {
		return nil, err
	}
	var links []link
	for _, r := range up {
		if r.Kind != schema.RelAlias && r.Kind != schema.RelPartOf || r.To == start.Key || r.To.Empty() {
			continue
		}
		// Whoever claims another digest of these bytes brings in no steps.
		if grade, err := b.v.Grade(b.ctx, r.Entry); err != nil {
			return nil, err
		} else if r.Kind == schema.RelAlias && !grade.Evidence.Trusted() {
			continue
		}
		made, err := b.producer(schema.Start{Key: r.To}, user)
		if err != nil {
			return nil, err
		}
		if made == nil || slices.ContainsFunc(links, func(l link) bool { return l.member == r.To }) {
			continue
		}
		if r.Kind == schema.RelAlias {
			return []link{{info: *made}}, nil
		}
		links = append(links, link{info: *made, member: r.To})
	}
	return links, nil
}

// within is the step that made the folder out of which user used a file: the
// folder holds its bytes, and lay where the file was read.
func (b *planner) within(u schema.Use, user *lineage.StepInfo) ([]link, error) {
	if !u.Key.Digested() || u.Key.Empty() || u.Path == "" {
		return nil, nil
	}
	_, down, err := b.v.Relations(b.ctx, u.Key)
	if err != nil {
		return nil, err
	}
	var best *link
	for _, r := range down {
		if r.Kind != schema.RelPartOf {
			continue
		}
		made, err := b.producer(schema.Start{Key: r.From}, user)
		if err != nil {
			return nil, err
		}
		if made == nil || best != nil && made.Entry <= best.info.Entry {
			continue
		}
		if slices.ContainsFunc(made.Step.Generates, func(o schema.Output) bool {
			return o.Key == r.From && (o.Path == "." || strings.HasPrefix(u.Path, o.Path+"/"))
		}) {
			best = &link{info: *made, within: r.From}
		}
	}
	if best == nil {
		return nil, nil
	}
	return []link{*best}, nil
}

// producer chooses the step that made one resource; nil where none was
// recorded. A step is never its own producer.
func (b *planner) producer(start schema.Start, user *lineage.StepInfo) (*lineage.StepInfo, error) {
	made, err := b.v.Producers(b.ctx, start)
	if err != nil {
		return nil, err
	}
	made = slices.DeleteFunc(slices.Clone(made), func(s lineage.StepInfo) bool {
		if user == nil || start.Run != "" && s.Step.Run == start.Run {
			return user != nil && s.Entry == user.Entry
		}
		return s.Entry == user.Entry || !before(s, *user)
	})
	if len(made) == 0 {
		return nil, nil
	}
	best := slices.MaxFunc(made, func(x, y lineage.StepInfo) int {
		if tx, ty := x.Evidence != schema.Claimed, y.Evidence != schema.Claimed; tx != ty {
			if tx {
				return 1
			}
			return -1
		}
		return int(x.Entry - y.Entry)
	})
	if runs := differentRuns(made); runs > 1 {
		var entries []string
		for _, s := range made {
			entries = append(entries, fmt.Sprintf("entry:%d", s.Entry))
		}
		b.note("%s was made by %d recorded steps (%s) and none is named; entry:%d is taken", start.Key.Short(), runs, strings.Join(entries, ", "), best.Entry)
	}
	return &best, nil
}

// clockSkew is how far the clocks of two builders may be apart (as DESIGN
// 12.11 allows).
const clockSkew = 5 * time.Minute

// before says whether one step can have made what another used: it ended
// before the other began, by their builders' clocks where both say. Where they
// do not, or are too close to tell, the ledger's order decides.
func before(made, user lineage.StepInfo) bool {
	ended, began := made.Step.Finished, user.Step.Started
	switch {
	case ended.IsZero() || began.IsZero():
		return made.Entry < user.Entry
	case ended.After(began):
		return made.Entry < user.Entry && !ended.After(began.Add(clockSkew))
	}
	return true
}

// differentRuns counts the runs among steps: several entries may state one.
func differentRuns(steps []lineage.StepInfo) int {
	runs := map[string]bool{}
	for _, s := range steps {
		id := s.Step.Run
		if id == "" {
			id = fmt.Sprint(s.Entry)
		}
		runs[id] = true
	}
	return len(runs)
}

// lay turns the ordered steps into the plan's.
func (b *planner) lay(roots []link) error {
	b.number = map[int64]int{}
	for i, s := range b.order {
		b.number[s.Entry] = i + 1
	}
	for _, s := range b.order {
		step, err := b.step(s)
		if err != nil {
			return fmt.Errorf("step entry:%d: %w", s.Entry, err)
		}
		b.plan.Steps = append(b.plan.Steps, step)
	}
	b.need(roots)
	return b.resource(roots)
}

// need marks the steps whose outputs reproducing needs.
func (b *planner) need(roots []link) {
	needed := map[int64]bool{}
	for _, l := range roots {
		needed[l.info.Entry] = true
	}
	for i := len(b.order) - 1; i >= 0; i-- {
		s := b.order[i]
		if !needed[s.Entry] {
			continue
		}
		b.plan.Steps[i].Needed = true
		for j, u := range s.Step.Uses {
			if u.Role == schema.RoleImage {
				continue
			}
			for _, l := range b.uses[s.Entry][j] {
				needed[l.info.Entry] = true
			}
		}
	}
}

// resource plans the thing asked for itself.
func (b *planner) resource(roots []link) error {
	r, err := b.v.Resource(b.plan.Key)
	if err != nil {
		return err
	}
	if r.Kind == "run" {
		return nil
	}
	it, err := b.item(r, "")
	if err != nil {
		return err
	}
	if len(roots) == 1 && roots[0].member == "" {
		it.Producer = b.number[roots[0].info.Entry]
	}
	if it.Kind == kindOCI {
		b.image(it)
		return nil
	}
	if it.Key.Digested() {
		it.Place = resourceFolder + "/" + resourceName(r)
	}
	b.plan.Resource = &it
	return nil
}

func (b *planner) image(it Item) {
	if b.placed[it.Key] {
		return
	}
	b.placed[it.Key] = true
	if it.Key.Digested() {
		it.Place = imagePlace(it.Key)
	}
	b.plan.Images = append(b.plan.Images, it)
}

func (b *planner) step(info lineage.StepInfo) (Step, error) {
	s := info.Step
	n := b.number[info.Entry]
	out := Step{
		Number: n, Place: stepPlace(n, len(b.order), stepName(s)), Entry: info.Entry, Run: s.Run, Name: s.Name,
		BuildType: s.BuildType, Builder: s.Builder, Evidence: info.Evidence, Argv: s.Argv, Dir: s.Dir,
		Parameters: s.Parameters, Environment: s.Environment, Secrets: s.Secrets, Platform: s.Platform, Exit: s.Exit, Gaps: s.Gaps,
	}
	if out.Dir != "" && out.Dir != "." && checkRecordedPath(out.Dir) != nil {
		b.note("step entry:%d ran in %q, which is refused as a path below its working root", info.Entry, s.Dir)
		out.Dir, out.Argv = "", nil
	}
	for _, o := range s.Generates {
		out.Outputs = append(out.Outputs, Output{Path: o.Path, Key: o.Key})
	}
	for i, u := range s.Uses {
		if err := b.use(&out, u, b.uses[info.Entry][i]); err != nil {
			return out, err
		}
	}
	return out, nil
}

// use adds what a step used to what is laid out for it.
func (b *planner) use(step *Step, u schema.Use, made []link) error {
	r, err := b.v.Resource(u.Key)
	if err != nil {
		return err
	}
	it, err := b.item(r, u.Role)
	if err != nil {
		return err
	}
	for _, l := range made {
		if l.member == "" {
			it.Producer, it.Within = b.number[l.info.Entry], l.within
		} else {
			it.Members = append(it.Members, Member{Key: l.member, Producer: b.number[l.info.Entry]})
		}
	}
	it.Exec = u.Exec
	switch {
	case u.Role == schema.RoleTool:
		if step.Tool != nil || !u.Key.Digested() {
			return nil
		}
		step.Tool = &Tool{Key: u.Key, Name: firstOf(u.Name, u.Path), Producer: it.Producer}
		if u.Path == "" || checkRecordedPath(u.Path) != nil {
			return nil // a program of the machine, not of the working root
		}
		step.Tool.Path, it.Exec = u.Path, true
	case u.Role == schema.RoleParams && u.Path == "", u.Role == schema.RoleDefinition:
		return nil // the plan itself has their values
	case it.Kind == kindOCI:
		if u.Role == schema.RoleImage {
			step.Image = u.Key
		}
		b.image(it)
		return nil
	}
	if !it.Key.Digested() {
		// Nothing can be laid out under a digest that nobody stated.
	} else if it.Place, err = b.place(step, u, &it); err != nil {
		it.Missing, it.Origin = fmt.Sprintf("its recorded path is refused: %v", err), ""
	}
	if !slices.ContainsFunc(step.Items, func(have Item) bool { return have.Place == it.Place && have.Key == it.Key && have.Role == it.Role }) {
		step.Items = append(step.Items, it)
	}
	return nil
}

// place is where something that a step used goes. What builders other than
// retrace state has no path: its source is the working root, all else lies in
// a folder beside it.
func (b *planner) place(step *Step, u schema.Use, it *Item) (string, error) {
	rooted := slices.ContainsFunc(step.Items, func(have Item) bool { return have.Place == step.Place && have.Kind == kindGit })
	switch {
	case u.Path != "":
		return place(step, u.Path)
	case u.Role == schema.RoleChanges, it.Kind == kindGit && !rooted:
		return step.Place, nil
	}
	p := outsideFolder + "/" + strings.TrimPrefix(step.Place, stepsFolder+"/") + "/" + slug(firstOf(u.Name, it.URI, u.Key.Short()))
	if slices.ContainsFunc(step.Items, func(have Item) bool { return have.Place == p }) {
		p += "-" + u.Key.Hex()[:min(12, len(u.Key.Hex()))]
	}
	return p, checkRecordedPath(p)
}

func firstOf(options ...string) string {
	for _, s := range options {
		if s != "" {
			return s
		}
	}
	return ""
}

// item describes a resource and says where its bytes will come from.
func (b *planner) item(r schema.Resource, role string) (Item, error) {
	r, err := b.heldAt(r)
	if err != nil {
		return Item{}, err
	}
	it := Item{Key: r.Key, Kind: r.Kind, Role: role, Name: r.Name, URI: r.URI, Digests: r.Digests, MediaType: r.MediaType, Bytes: r.Size}
	switch alg := r.Key.Algorithm(); {
	case role == schema.RoleImage || r.Kind == kindOCI:
		it.Kind = kindOCI
	case alg == schema.GitCommit || alg == schema.GitTree:
		it.Kind = kindGit
	case alg == schema.RetraceTree1 && (r.Kind == kindSnapshot || b.src.Fetchers[r.Kind] == nil):
		it.Kind = kindFolder
	case alg == schema.SHA256 && b.src.Fetchers[r.Kind] == nil:
		it.Kind = kindFile
	}
	it.Origin, it.Missing, err = b.origin(&it, r)
	return it, err
}

// heldAt is what a location held when it was looked at last, as far as that is
// told by somebody trusted, and r itself where r is no location or nobody looked.
func (b *planner) heldAt(r schema.Resource) (schema.Resource, error) {
	if r.Key.Digested() {
		return r, nil
	}
	up, _, err := b.v.Relations(b.ctx, r.Key)
	if err != nil {
		return r, err
	}
	slices.Reverse(up)
	for _, rel := range up {
		if rel.Kind != schema.RelHolds {
			continue
		}
		if grade, err := b.v.Grade(b.ctx, rel.Entry); err != nil {
			return r, err
		} else if !grade.Evidence.Trusted() {
			continue
		}
		held, err := b.v.Resource(rel.To)
		if err != nil {
			return r, err
		}
		held.Name = firstOf(r.Name, held.Name)
		return held, nil
	}
	return r, nil
}

// origin is where the bytes of a resource can be had, or why they cannot.
func (b *planner) origin(it *Item, r schema.Resource) (origin, missing string, err error) {
	if !r.Key.Digested() {
		return "", "no digest of it was recorded, so its bytes could not be checked", nil
	}
	fetcher := b.src.Fetchers[it.Kind]
	own := it.Kind == kindFile || it.Kind == kindFolder
	if b.src.Content != nil && (own || fetcher != nil) {
		held, err := b.src.Content.Has(b.ctx, r.Key)
		if err != nil {
			return "", "", fmt.Errorf("asking whether the content of %s is kept: %w", r.Key.Short(), err)
		}
		if held {
			return OriginStore, "", nil
		}
	}
	host, elsewhere := strings.CutPrefix(r.Content, "host:")
	switch {
	case elsewhere:
		return "", fmt.Sprintf("its bytes never left the host %s", host), nil
	case own:
		return "", "its bytes were not kept", nil
	case fetcher == nil:
		return "", fmt.Sprintf("nothing here fetches resources of the kind %q", it.Kind), nil
	case r.URI == "":
		return "", "its bytes were not kept, and no address of it was recorded", nil
	}
	if b.src.MayFetch != nil {
		if err := b.src.MayFetch(it.resource()); err != nil {
			return "", err.Error(), nil
		}
	}
	return r.URI, "", nil
}
