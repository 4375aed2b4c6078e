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
		if step.BuildType == RunBuildType {
			if err := b.run(s, p); err != nil {
				return err
			}
		} else {
			step.Parameters = flatten(p.BuildDefinition.ExternalParameters)
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
	first := s.Subject[0]
	if first.Name != runPrefix+step.Run {
		return fieldErrorf("subject.0.name", "%q is not the run itself, %q", clip(first.Name), runPrefix+step.Run)
	}
	if err := checkRunPaths(s, p, rp); err != nil {
		return err
	}
	canonical := slices.Clone(s.Predicate)
	if err := canonical.Canonicalize(); err != nil {
		return fieldErrorf("predicate", "%v", err)
	}
	if want := BytesKey(canonical).Hex(); first.Digest[SHA256] != want {
		return fieldErrorf("subject.0.digest.sha256", "is not the digest of the predicate, %s", want)
	}
	step.Argv, step.Dir, step.Parameters, step.Environment = rp.Argv, rp.Dir, rp.Parameters, rp.Environment
	step.Secrets, step.Platform, step.Parent, step.Outputs = rp.Secrets, rp.Platform, rp.Parent, rp.Outputs
	step.Name = strings.Join(rp.Argv, " ")
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
