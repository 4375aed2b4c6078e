package lineage

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/retrace-ledger/retrace/schema"
)

// Severity of a gap: what it stands in the way of.
type Severity string

// The severities, worst first.
const (
	Blocks  Severity = "blocks"  // restoring or reproducing cannot work
	Risks   Severity = "risks"   // it may work, and may give something else
	Weakens Severity = "weakens" // it works, but the proof is weaker than it could be
)

// costs are what a rule takes from the score, once however many gaps there are
// of it (docs/gaps.md, "Score").
var costs = map[Severity]int{Blocks: 20, Risks: 5, Weakens: 1}

// Score is 100 where there are no gaps, less the costs of the rules that some
// were found of, and at least 0.
func Score(gaps []Gap) int {
	score, seen := 100, map[string]bool{}
	for _, g := range gaps {
		if !seen[g.ID] {
			seen[g.ID] = true
			score -= costs[g.Severity]
		}
	}
	return max(score, 0)
}

// Rule is a kind of gap (docs/gaps.md).
type Rule struct {
	ID       string
	Severity Severity
	Explain  string
	Remedy   string
}

// Rules are all gaps that are looked for, by ID.
func Rules() []Rule {
	return []Rule{
		{"no-digest", Blocks, "used by location only: nobody recorded a digest, so its bytes cannot be checked", "record it as a snapshot, or as an input of the step"},
		{"content-elsewhere", Blocks, "its content was kept on another host only", "take a snapshot of it into this ledger's content store"},
		{"content-missing", Blocks, "its digest is recorded but its bytes were not kept", "take a snapshot while the bytes still exist; until then only the digest can be checked"},
		{"content-released", Blocks, "its bytes were let go by the keep rules of its source", "what is recorded of it stays; to keep such snapshots, widen the rules (`keep:`), take them by hand, or use them in a recorded step before they are let go"},
		{"non-durable-snapshot", Risks, "its only snapshot is kept on the disk that it was taken of, and is lost with it", "keep content on another disk or in an object store (content.yaml in the ledger), and take a snapshot again"},
		{"not-recorded", Blocks, "no step that made it was recorded", "record the step with `retrace run`, or its provenance with `retrace record`"},
		{"outside-root", Blocks, "an input or output lies outside the working root, so the step cannot be laid out elsewhere", "move the file below the working root"},
		{"code-not-captured", Blocks, "the command names a file that was neither declared nor in the commit, so its bytes were not kept", "commit the file, or declare it with --in"},
		{"secret-withheld", Blocks, "the step was given a secret whose value is withheld", "reproduce it by hand with the secret in the environment"},
		{"not-rerunnable", Blocks, "the statement does not say which command to run", "record the step with `retrace run`"},
		{"erased", Risks, "an entry that mentioned it was erased, so what that one stated is in no answer", "nothing brings it back; the erasure says why and who asked for it, and what may be said can be recorded in other words"},
		{"retracted", Risks, "an entry that it rests on was withdrawn", "look at the reason; record what is right, and make what rests on it anew"},
		{"location-unknown", Blocks, "the pipeline does not say where an input or output of the step is", "give the workflow an artifact repository, or the artifact a bucket"},
		{"dataset-unversioned", Risks, "a dataset was named without its version, so what it held then is not known", "have the integration report versions (those of Delta and Iceberg tables do), or record what was read as a snapshot"},
		{"location-reused", Risks, "a location held different bytes at different times, and what used it does not say which", "write each result to a place of its own, or have the bucket keep versions"},
		{"image-unresolved", Risks, "the step's pod was gone before anybody read which image it ran", "watch the cluster while runs go on, keep pods until runs have ended, or name images by digest"},
		{"hint-unusable", Weakens, "a result that is to name what the step used or made does not: it has no digest, or no location", "have the task write both, as `retrace gaps` shows the name: a whole digest with its algorithm, such as sha256:…, and the location beside it"},
		{"image-by-tag", Weakens, "the step asked for its image by a tag, which may be moved; the digest that ran is recorded, and what asks for the tag again may get another", "name images by digest in the pipeline"},
		{"reused-moved-tag", Risks, "the engine took what an earlier step had left instead of running this one, and the tag of the image that made it pointed elsewhere by then", "run it again without the engine's cache; name images by digest, so that the cache tells them apart"},
		{"seed-not-recorded", Weakens, "the step made a named model and reported metrics of it, as training does, and neither its parameters, its environment nor its command mention a seed", "set the seed of whatever draws at random, and pass it as a parameter, so that a second run can give the same bytes"},
		{"snapshot-policy-delete", Risks, "a snapshot of a volume has the deletion policy Delete: whoever deletes the VolumeSnapshot, or its namespace, deletes the bytes", "use a VolumeSnapshotClass with deletionPolicy Retain"},
		{"steps-elsewhere", Blocks, "the pipeline keeps the steps of a run in a database of its own, and only the run is recorded", "keep the status in the object (Argo: no nodeStatusOffLoad)"},
		{"watcher-blind", Risks, "nobody could look at the source while the step ran, so that what came and went meanwhile was not seen", "`retrace coverage` says when and why; keep runs, pods and their logs until a watcher has seen them"},
		{"parent-not-recorded", Weakens, "the run that the step was a part of is not recorded", "record it, or watch where it runs"},
		{"run-cut-short", Risks, "the run was deleted, or recorded, before it had ended", "keep runs until they have ended"},
		{"model-not-named", Weakens, "an output is a model and no rule gives it a name that can be asked for", "write a rule under `models:` in retrace.yaml"},
		{"input-changed", Risks, "an input changed while the step ran", "run the step again with inputs that nothing else writes"},
		{"changes-left-out", Risks, "some uncommitted changes were not captured", "commit them, or keep the files smaller than the limit and free of secrets"},
		{"output-missing", Risks, "a declared output was not there when the step ended", "look at the step; declare what it writes"},
		{"output-not-recorded", Risks, "a declared output could not be read when the step ended, so it is not recorded", "look at the detail; declare files and folders that can be read"},
		{"content-not-kept", Blocks, "the bytes of an input or output could not be kept when the step ran", "look at the detail, such as a full disk, and run the step again"},
		{"output-unchanged", Weakens, "a declared output was there before and the step did not change it, so it counts as used and not as made", "remove old outputs before running"},
		{"metrics-not-recorded", Weakens, "the file of metrics was missing or is not a JSON object of numbers and strings", "look at the file that the step writes"},
		{"step-failed", Risks, "the step ended with an error", "look at the step; its outputs may be incomplete"},
		{"ambiguous-producer", Risks, "several recorded steps made the same bytes, and the one that counts was not named", "name the model version, or record the input with its producer"},
		{"dirty-tree", Weakens, "the step ran with uncommitted changes; they were captured, but no commit names them", "commit before running"},
		{"commit-not-on-remote", Weakens, "the commit was on no remote when the step ran; it is kept in this ledger's content store only", "push the commit"},
		{"claimed-only", Weakens, "stated by a label or an unsigned or untrusted document only", "trust the signer with `retrace keys trust`, or record the fact with a watcher"},
	}
}

func rule(id string) Rule {
	rules := Rules()
	i := slices.IndexFunc(rules, func(r Rule) bool { return r.ID == id })
	if i < 0 {
		return Rule{ID: id, Severity: Risks, Explain: "seen by the recorder of the step", Remedy: "see the step"}
	}
	return rules[i]
}

// Gap is something that stands in the way of restoring or reproducing a
// resource.
type Gap struct {
	Rule
	Key    schema.Key // of the resource concerned; empty where it is a step
	Name   string
	Entry  int64 // that shows it; -1 if none
	Detail string
}

// Held says whether the bytes of a resource are kept where they can be
// restored from. A nil Held asks nothing.
type Held func(ctx context.Context, r schema.Resource) (bool, error)

// Gaps looks at everything upstream of ref. The order is nearest first.
func (v *View) Gaps(ctx context.Context, ref Ref, held Held) ([]Gap, error) {
	a, err := v.Lineage(ctx, ref, LineageOptions{})
	if err != nil {
		return nil, err
	}
	c := &gapCollector{v: v, ctx: ctx, held: held, made: map[schema.Key]bool{}, roles: map[schema.Key]schema.Edge{}, names: map[schema.Key]string{}, holds: map[schema.Key][]schema.Key{}}
	for _, e := range a.Edges {
		switch e.Relation {
		case schema.RelHolds:
			c.holds[e.From] = append(c.holds[e.From], e.To)
		case schema.RelLocated:
		default:
			c.made[e.From] = true
		}
		if _, ok := c.roles[e.To]; !ok {
			c.roles[e.To] = e
		}
	}
	if !c.made[ref.Start.Key] && ref.Start.Key != "" {
		producers, err := v.Producers(ctx, ref.Start)
		if err != nil {
			return nil, err
		}
		for _, p := range producers {
			c.made[ref.Start.Key] = true
			a.Steps = append(a.Steps, p)
		}
	}
	for i, r := range a.Resources {
		if err := c.resource(r, i == 0); err != nil {
			return nil, err
		}
	}
	if strings.HasPrefix(ref.Name, schema.NameModel+":") {
		if err := c.seed(ref.Start); err != nil {
			return nil, err
		}
	}
	for _, r := range a.Resources {
		c.names[r.Key] = r.Name
	}
	for _, e := range a.Edges {
		c.edge(e)
	}
	for _, r := range a.Retracted {
		of, err := v.Entry(r.Entry)
		if err != nil {
			return nil, err
		}
		c.add("retracted", "", of.Summary, r.Entry, fmt.Sprintf("entry %d: %s", r.By, r.Reason))
	}
	for _, s := range a.Steps {
		if err := c.step(s); err != nil {
			return nil, err
		}
	}
	return c.gaps, c.blind(a.Steps)
}

type gapCollector struct {
	v     *View
	ctx   context.Context
	held  Held
	made  map[schema.Key]bool
	roles map[schema.Key]schema.Edge // nearest edge that leads to a resource
	names map[schema.Key]string
	holds map[schema.Key][]schema.Key // what was seen at a location
	gaps  []Gap
}

func (c *gapCollector) add(id string, k schema.Key, name string, entry int64, detail string) {
	g := Gap{Rule: rule(id), Key: k, Name: name, Entry: entry, Detail: detail}
	if !slices.ContainsFunc(c.gaps, func(h Gap) bool { return h.ID == g.ID && h.Key == k && h.Entry == entry && h.Detail == detail }) {
		c.gaps = append(c.gaps, g)
	}
}

func (c *gapCollector) resource(r schema.Resource, root bool) error {
	via, used := c.roles[r.Key]
	entry := int64(-1)
	if used {
		entry = via.Entry
	}
	for _, h := range c.v.Holes(r.Key) {
		c.add("erased", r.Key, r.Name, h.By, fmt.Sprintf("entry %d: %s", h.Entry, h.Reason))
	}
	if root && !c.made[r.Key] {
		c.add("not-recorded", r.Key, r.Name, entry, "")
	}
	if r.Content == schema.ContentVolumeObject {
		c.add("snapshot-policy-delete", r.Key, r.Name, entry, r.URI)
	}
	if !r.Key.Digested() {
		switch held := c.holds[r.Key]; len(held) {
		case 0:
			c.add("no-digest", r.Key, r.Name, entry, "")
		case 1:
		default:
			c.add("location-reused", r.Key, r.Name, entry, fmt.Sprintf("%d different contents were seen there", len(held)))
		}
		return nil
	}
	switch {
	case via.Relation == schema.RelPins || via.Relation == schema.RelRefers: // restoring what pins it does not take it
		return nil
	case r.Kind == "run" || via.Relation == schema.RelAlias || via.Role == schema.RoleTool || via.Role == schema.RoleParams || via.Role == schema.RoleDefinition:
		return nil
	case strings.HasPrefix(r.Content, "host:"):
		c.add("content-elsewhere", r.Key, r.Name, entry, strings.TrimPrefix(r.Content, "host:"))
		return nil
	case c.held == nil || (c.made[r.Key] && !root):
		return nil
	}
	ok, err := c.held(c.ctx, r)
	if err != nil {
		return fmt.Errorf("asking whether the content of %s is kept: %w", r.Key.Short(), err)
	}
	switch {
	case ok && r.Durability == schema.SameDisk:
		c.add("non-durable-snapshot", r.Key, r.Name, entry, r.URI)
	case !ok:
		return c.missing(r, entry)
	}
	return nil
}

// missing says why the bytes of r are not kept: because a release let them go,
// or those of the folder that they were in, or for no recorded reason.
func (c *gapCollector) missing(r schema.Resource, entry int64) error {
	_, in, err := c.v.Relations(c.ctx, r.Key)
	if err != nil {
		return err
	}
	folders := []schema.Key{r.Key}
	for _, rel := range in {
		if rel.Kind == schema.RelPartOf && rel.From != r.Key {
			folders = append(folders, rel.From)
		}
	}
	for _, k := range folders {
		about, err := c.v.About(k)
		if err != nil {
			return err
		}
		for _, e := range slices.Backward(about) {
			if e.PredicateType == schema.ReleaseV1 && e.Evidence.Trusted() {
				c.add("content-released", r.Key, r.Name, entry, fmt.Sprintf("entry %d: %s", e.Index, e.Summary))
				return nil
			}
		}
	}
	c.add("content-missing", r.Key, r.Name, entry, r.URI)
	return nil
}

func (c *gapCollector) edge(e schema.Edge) {
	if e.Evidence == schema.Claimed {
		c.add("claimed-only", e.From, c.names[e.From], e.Entry, e.Relation)
	}
	if e.Ambiguous {
		c.add("ambiguous-producer", e.From, c.names[e.From], e.Entry, "")
	}
}

func (c *gapCollector) step(s StepInfo) error {
	name := s.Step.Name
	for _, g := range s.Step.Gaps {
		c.add(g.Rule, "", name, s.Entry, g.Detail)
	}
	for _, secret := range s.Step.Secrets {
		c.add("secret-withheld", "", name, s.Entry, secret)
	}
	if s.Step.Exit != nil && *s.Step.Exit != 0 {
		c.add("step-failed", "", name, s.Entry, fmt.Sprintf("exit status %d", *s.Step.Exit))
	}
	if len(s.Step.Argv) == 0 {
		c.add("not-rerunnable", "", name, s.Entry, "")
	}
	if err := c.images(s); err != nil {
		return err
	}
	if s.Step.Parent == "" {
		return nil
	}
	parent, err := c.v.RunEntries(s.Step.Parent)
	if err == nil && len(parent) == 0 {
		c.add("parent-not-recorded", "", name, s.Entry, s.Step.Parent)
	}
	return err
}

// images looks at how the step asked for its image and, where the engine took the
// results of an earlier step instead, for the image of that one.
func (c *gapCollector) images(s StepInfo) error {
	for _, u := range s.Step.Uses {
		switch {
		case u.Role == schema.RoleImage && byTag(u):
			c.add("image-by-tag", u.Key, u.Name, s.Entry, "")
		case u.Role == schema.RoleReused:
			if err := c.reused(s, u); err != nil {
				return err
			}
		}
	}
	return nil
}

// byTag says whether a digest was found for an image that was asked for as
// REPOSITORY[:TAG]. Other names that builders give an image say nothing of it.
func byTag(u schema.Use) bool {
	return u.Key.Digested() && strings.ContainsAny(u.Name, "/:") && !strings.Contains(u.Name, "@")
}

// reused compares the image that made what s took with what its tag pointed at
// when s took it, as far as the tag was watched.
func (c *gapCollector) reused(s StepInfo, u schema.Use) error {
	at := s.Step.Started
	if at.IsZero() {
		at = s.Step.Finished
	}
	made, err := c.v.Producers(c.ctx, schema.Start{Key: u.Key, Run: u.Producer})
	if err != nil || at.IsZero() {
		return err
	}
	for _, maker := range made {
		for _, image := range maker.Step.Uses {
			if maker.Entry == s.Entry || image.Role != schema.RoleImage || !byTag(image) {
				continue
			}
			history, err := c.v.History(schema.NameImage + ":" + image.Name)
			if err != nil {
				return err
			}
			history = vouched(history)
			i := slices.IndexFunc(history, func(p Pointed) bool { return p.At.After(at) })
			if i < 0 {
				i = len(history)
			}
			if i == 0 {
				continue // not watched by then
			}
			if then := history[i-1]; then.Key != image.Key || then.Deleted {
				c.add("reused-moved-tag", image.Key, image.Name, s.Entry, fmt.Sprintf("made by entry %d; by then the tag pointed at %s (entry %d)", maker.Entry, then.Key.Short(), then.Entry))
			}
		}
	}
	return nil
}

// seed looks for one in what the steps that made a model were given. Metrics tell
// training from packing and copying, which draw nothing.
func (c *gapCollector) seed(model schema.Start) error {
	made, err := c.v.Producers(c.ctx, model)
	if err != nil {
		return err
	}
	for _, s := range made {
		if len(s.Step.Metrics) > 0 && !slices.ContainsFunc(given(s.Step), mentionsSeed) {
			c.add("seed-not-recorded", "", s.Step.Name, s.Entry, "")
		}
	}
	return nil
}

// given is all that a step was told: names of parameters and variables, and its
// command.
func given(s *schema.Step) []string {
	return slices.Concat(slices.Collect(maps.Keys(s.Parameters)), slices.Collect(maps.Keys(s.Environment)), s.Argv)
}

func mentionsSeed(text string) bool {
	text = strings.ToLower(text)
	return strings.Contains(text, "seed") || strings.Contains(text, "random_state") || strings.Contains(text, "randomstate")
}

// blind finds the steps that ran while nobody could look at the source that they
// were seen in. A coverage entry speaks of the time since the one before it of the
// same source.
func (c *gapCollector) blind(steps []StepInfo) error {
	type place struct{ namespace, source string }
	ran := map[place][]StepInfo{}
	var first time.Time
	for _, s := range steps {
		if s.Step.Started.IsZero() || s.Step.Finished.IsZero() {
			continue
		}
		e, err := c.v.Entry(s.Entry)
		if err != nil {
			return err
		}
		at := place{e.Namespace, e.Source}
		ran[at] = append(ran[at], s)
		if first.IsZero() || s.Step.Started.Before(first) {
			first = s.Step.Started
		}
	}
	if len(ran) == 0 {
		return nil
	}
	since := map[place]time.Time{}
	for e, err := range c.v.Entries(c.ctx, 0, Filter{PredicateType: schema.CoverageV1, Since: first}) {
		if err != nil {
			return err
		}
		at := place{e.Namespace, e.Source}
		if !e.Evidence.Trusted() {
			continue
		}
		for _, s := range ran[at] {
			if e.Blind && s.Step.Started.Before(e.At) && s.Step.Finished.After(since[at]) {
				c.add("watcher-blind", "", s.Step.Name, s.Entry, fmt.Sprintf("entry %d: %s", e.Index, e.Summary))
			}
		}
		since[at] = e.At
	}
	return nil
}
