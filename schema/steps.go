package schema

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// This file turns provenance into steps.

// use notes a dependency of a step.
func (b *factBuilder) use(d Descriptor, kind string) {
	d = commitDigest(d)
	key := b.describe(d, kind)
	if key == "" {
		return
	}
	role := d.annotation(AnnotationRole)
	if role == "" {
		role = RoleInput
	}
	path := d.annotation(AnnotationPath)
	b.f.Step.Uses = append(b.f.Step.Uses, Use{Key: key, Role: role, Path: path, Name: d.Name, Producer: d.annotation(AnnotationProducer), Exec: d.annotation(AnnotationExec) == "true"})
}

// generate notes the subjects of a step as its outputs, but for the subject
// that is the run itself.
func (b *factBuilder) generate(s Statement) {
	for _, d := range s.Subject {
		if run, ok := strings.CutPrefix(d.Name, runPrefix); ok && run == b.f.Step.Run {
			b.f.Step.Subject = b.describe(d, "run")
			continue
		}
		b.f.Step.Generates = append(b.f.Step.Generates, Output{Key: b.describe(d, ""), Path: outputPath(d), Name: d.Name})
	}
}

// outputPath is where a step wrote a subject: its annotation, else its name.
func outputPath(d Descriptor) string {
	if path := d.annotation(AnnotationPath); path != "" {
		return path
	}
	return d.Name
}

// checkRunPaths refuses a recorded run whose paths would lead a restoration
// out of the working root by way of "..": paths are clean and relative to the
// root, or absolute, which is recorded and never laid out.
func checkRunPaths(s Statement, p *Provenance, rp RunParameters) error {
	const external = "predicate.buildDefinition.externalParameters."
	if err := checkRootPath(rp.Dir); err != nil {
		return under(external+"dir", err)
	}
	for i, path := range rp.Inputs {
		if err := checkRootPath(path); err != nil {
			return under(external+"inputs."+strconv.Itoa(i), err)
		}
	}
	for i, path := range rp.Outputs {
		if err := checkRootPath(path); err != nil {
			return under(external+"outputs."+strconv.Itoa(i), err)
		}
	}
	for i, d := range p.BuildDefinition.ResolvedDependencies {
		path := d.annotation(AnnotationPath)
		if path == "" {
			continue // not in the root: a commit, an image
		}
		if err := checkRootPath(path); err != nil {
			return under("predicate.buildDefinition.resolvedDependencies."+strconv.Itoa(i)+".annotations.path", err)
		}
	}
	for i, d := range s.Subject[1:] {
		if err := checkRootPath(outputPath(d)); err != nil {
			return under("subject."+strconv.Itoa(i+1)+".annotations.path", err)
		}
	}
	return nil
}

// checkRootPath takes ".", a clean relative path or a clean absolute one.
func checkRootPath(p string) error {
	if p == "." || p == "/" {
		return nil
	}
	return CheckPath(strings.TrimPrefix(p, "/"))
}

func (b *factBuilder) provenance(s Statement) error {
	return predicate(s, false, func(p *Provenance) error {
		step := &Step{
			Run: p.RunDetails.Metadata.InvocationID, Name: p.BuildDefinition.BuildType,
			BuildType: p.BuildDefinition.BuildType, Builder: p.RunDetails.Builder.ID,
			Started: p.RunDetails.Metadata.StartedOn, Finished: p.RunDetails.Metadata.FinishedOn,
		}
		b.f.Step = step
		b.f.At = step.Finished
		var err error
		switch step.BuildType {
		case RunBuildType:
			err = b.run(s, p)
		case StepBuildType:
			err = b.watchedStep(s, p)
		default:
			step.Parameters = flatten(p.BuildDefinition.ExternalParameters)
		}
		if err != nil {
			return err
		}
		for _, d := range p.BuildDefinition.ResolvedDependencies {
			b.use(d, "")
		}
		if err := b.externals(p); err != nil {
			return err
		}
		b.generate(s)
		b.f.Summary = step.Name
		return nil
	})
}

// run reads what `retrace run` recorded beyond SLSA's own fields, strictly.
func (b *factBuilder) run(s Statement, p *Provenance) error {
	step := b.f.Step
	var rp RunParameters
	if err := under("predicate.buildDefinition.externalParameters", decodeStrict(p.BuildDefinition.ExternalParameters, &rp)); err != nil {
		return err
	}
	if len(rp.Argv) == 0 {
		return fieldErrorf("predicate.buildDefinition.externalParameters.argv", "missing or empty")
	}
	if step.Run == "" {
		return fieldErrorf("predicate.runDetails.metadata.invocationId", "missing; a recorded run has an ID")
	}
	if first := s.Subject[0].Name; first != runPrefix+step.Run {
		return fieldErrorf("subject.0.name", "%q is not the run itself, %q", clip(first), runPrefix+step.Run)
	}
	if err := checkRunPaths(s, p, rp); err != nil {
		return err
	}
	if err := checkPredicateDigest(s); err != nil {
		return err
	}
	step.Argv, step.Dir, step.Parameters, step.Environment = rp.Argv, rp.Dir, rp.Parameters, rp.Environment
	step.Secrets, step.Platform, step.Parent, step.Outputs = rp.Secrets, rp.Platform, rp.Parent, rp.Outputs
	step.Name = strings.Join(rp.Argv, " ")
	return b.byproducts(p)
}

// watchedStep reads what a watcher recorded beyond SLSA's own fields, strictly.
// What the step wrote and nobody digested are byproducts with the role
// "output": a subject has to have a digest.
func (b *factBuilder) watchedStep(s Statement, p *Provenance) error {
	step := b.f.Step
	const external = "predicate.buildDefinition.externalParameters"
	var sp StepParameters
	if err := under(external, decodeStrict(p.BuildDefinition.ExternalParameters, &sp)); err != nil {
		return err
	}
	switch {
	case sp.Engine == "":
		return fieldErrorf(external+".engine", "missing")
	case sp.Status == "":
		return fieldErrorf(external+".status", "missing")
	case step.Run == "":
		return fieldErrorf("predicate.runDetails.metadata.invocationId", "missing; a step that was seen has an ID")
	case s.Subject[0].Name != runPrefix+step.Run:
		return fieldErrorf("subject.0.name", "%q is not the run itself, %q", clip(s.Subject[0].Name), runPrefix+step.Run)
	}
	if sp.Replaces != "" {
		if k, err := ParseKey(string(sp.Replaces)); err != nil || k.Algorithm() != SHA256 {
			return fieldErrorf(external+".replaces", "%q is not the key of a run, sha256 and 64 hex digits", clip(string(sp.Replaces)))
		}
		step.Replaces = sp.Replaces
	}
	for i, k := range sp.AttestedBy {
		if _, err := ParseKey(string(k)); err != nil || k.Algorithm() != SHA256 {
			return fieldErrorf(external+".attestedBy."+strconv.Itoa(i), "%q is not the digest of a predicate, sha256 and 64 hex digits", clip(string(k)))
		}
	}
	step.AttestedBy = sp.AttestedBy
	if err := checkPredicateDigest(s); err != nil {
		return err
	}
	step.Argv, step.Parameters, step.Environment = sp.Argv, sp.Parameters, sp.Environment
	step.Secrets, step.Platform, step.Parent = sp.Secrets, sp.Platform, sp.Parent
	step.Name = strings.Trim(sp.Pipeline+"/"+sp.Task, "/")
	if step.Name == "" {
		step.Name = sp.Engine + " " + step.Run
	}
	for _, d := range p.BuildDefinition.ResolvedDependencies {
		b.places(d)
	}
	for i, d := range p.RunDetails.Byproducts {
		if d.annotation(AnnotationRole) != RoleOutput {
			continue
		}
		if d.URI == "" || len(d.Digest) > 0 {
			return fieldErrorf("predicate.runDetails.byproducts."+strconv.Itoa(i), "an output here has a location and no digest; one with a digest is a subject")
		}
		step.Generates = append(step.Generates, Output{Key: b.describe(d, ""), Path: outputPath(d), Name: d.Name})
		b.places(d)
	}
	return b.byproducts(p)
}

// places relates a version to the location where it is, and that to its other
// names: a table to the folder that holds it.
func (b *factBuilder) places(d Descriptor) {
	location := d.annotation(AnnotationLocation)
	if location == "" {
		return
	}
	at := b.add(Resource{Key: URIKey(location), Kind: d.annotation(AnnotationKind), Name: d.Name, URI: location, Size: -1})
	b.relate(d.Key(), at, RelLocated, true)
	names, _ := d.Annotations[AnnotationAliases].([]any)
	for _, n := range names {
		name, ok := n.(string)
		if !ok || name == "" {
			continue
		}
		other := b.add(Resource{Key: URIKey(name), Kind: d.annotation(AnnotationKind), URI: name, Size: -1})
		b.relate(at, other, RelAlias, true)
		b.relate(other, at, RelAlias, true)
	}
}

// checkPredicateDigest holds the first subject, where it is the run or the state
// that the predicate describes, to the predicate.
func checkPredicateDigest(s Statement) error {
	canonical := slices.Clone(s.Predicate)
	if err := canonical.Canonicalize(); err != nil {
		return fieldErrorf("predicate", "%v", err)
	}
	if want := BytesKey(canonical).Hex(); s.Subject[0].Digest[SHA256] != want {
		return fieldErrorf("subject.0.digest.sha256", "is not the digest of the predicate, %s", want)
	}
	return nil
}

// byproducts reads what a step left beside its outputs.
func (b *factBuilder) byproducts(p *Provenance) error {
	step := b.f.Step
	for i, d := range p.RunDetails.Byproducts {
		field := "predicate.runDetails.byproducts." + strconv.Itoa(i) + ".content"
		var err error
		switch d.Name {
		case ByproductExit:
			err = decodeStrict(d.Content, &step.Exit)
		case ByproductMetrics:
			err = decodeStrict(d.Content, &step.Metrics)
		case ByproductGaps:
			err = decodeStrict(d.Content, &step.Gaps)
		default:
			continue
		}
		if err != nil {
			return under(field, err)
		}
	}
	return nil
}

// flatten turns a JSON object of parameters into dotted names and values, to
// be shown and compared. Strings stand as they are, all else as JSON.
func flatten(v jsontext.Value) map[string]string {
	var m map[string]any
	if len(v) == 0 || json.Unmarshal(v, &m) != nil {
		return nil
	}
	out := map[string]string{}
	var walk func(prefix string, v any)
	walk = func(prefix string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, e := range v {
				walk(prefix+"."+k, e)
			}
		case string:
			out[prefix[1:]] = v
		default:
			raw, _ := json.Marshal(v) // cannot fail: v was just decoded from JSON
			out[prefix[1:]] = string(raw)
		}
	}
	for k, e := range m {
		walk("."+k, e)
	}
	return out
}
