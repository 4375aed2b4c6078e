package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"runtime"
	"slices"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/schema"
)

// Finish looks at inputs and outputs after the command and builds the
// statements.
//
// An output that is missing, or holds what it held before, was not generated:
// of the latter the step counts as a user. An input that differs and is no
// output is the gap input-changed.
func (p *Prepared) Finish(ctx context.Context, e Ended) (Result, error) {
	r := Result{Run: p.Run, Exit: e.Exit, Outputs: map[string]schema.Key{}}
	if err := p.compareInputs(ctx); err != nil {
		return r, err
	}
	made, used, err := p.keepOutputs(ctx)
	if err != nil {
		return r, err
	}
	metrics, err := p.readMetrics()
	if err != nil {
		return r, err
	}
	p.findProducers(used)
	step, err := p.step(e, made, used, metrics)
	if err != nil {
		return r, err
	}
	folders, err := p.folders(slices.Concat(p.inputs, made))
	if err != nil {
		return r, err
	}
	r.Statements = append(slices.Concat(p.extra, folders), step)
	r.Gaps, r.Metrics = p.gaps, metrics
	for _, t := range made {
		r.Outputs[t.name] = t.key
	}
	r.Naming, r.NotNamed = p.naming(e, made, metrics)
	return r, nil
}

// compareInputs finds the inputs that something wrote while the command ran.
func (p *Prepared) compareInputs(ctx context.Context) error {
	for _, t := range p.inputs {
		if p.isOutput(t) {
			continue
		}
		before := t.key
		if len(t.inner) > 0 {
			before = t.settled
		}
		after, _, err := p.store.Digest(ctx, t.path, t.inner...)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			p.gap("input-changed", "%s is gone", t.name)
		case err != nil:
			p.gap("input-changed", "%s cannot be read again: %v", t.name, err)
		case after != before:
			p.gap("input-changed", "%s was %s and is %s", t.name, before.Short(), after.Short())
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// findProducers asks which runs made what this one used.
func (p *Prepared) findProducers(used []*target) {
	if p.opts.Producer == nil {
		return
	}
	for _, t := range slices.Concat(p.inputs, used) {
		t.producer = p.opts.Producer(t.key, t.name)
	}
}

func (p *Prepared) isOutput(t *target) bool {
	for _, out := range p.outputs {
		if out.name == t.name {
			return true
		}
	}
	return false
}

// keepOutputs keeps what the outputs hold after the command. It returns those
// that the command made, and those that are as they were before.
func (p *Prepared) keepOutputs(ctx context.Context) (made, used []*target, err error) {
	for _, t := range p.outputs {
		err := p.keep(ctx, t)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			err = p.leave(ctx, t, err)
		}
		switch {
		case ctx.Err() != nil:
			return nil, nil, ctx.Err()
		case errors.Is(err, fs.ErrNotExist):
			p.gap("output-missing", "%s", t.name)
		case err != nil:
			p.gap("output-not-recorded", "%s: %v", t.name, err)
		case t.key == t.before:
			p.gap("output-unchanged", "%s", t.name)
			if !p.declaredInput(t) {
				used = append(used, t)
			}
		default:
			made = append(made, t)
		}
	}
	return made, used, nil
}

// leave records an output by its digest alone where it could not be kept, for
// instance because the disk is full: the command may have run for days. The
// resource then says that its bytes are on this host only.
func (p *Prepared) leave(ctx context.Context, t *target, why error) error {
	key, files, err := p.store.Digest(ctx, t.path)
	if err != nil {
		return why
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	t.hold(key, files)
	t.host = host
	p.gap("content-not-kept", "%s: %v", t.name, why)
	return nil
}

func (p *Prepared) declaredInput(t *target) bool {
	for _, in := range p.inputs {
		if in.name == t.name {
			return true
		}
	}
	return false
}

// maxMetrics is how large a metrics file may be, in bytes.
const maxMetrics = 256 << 10

// readMetrics reads the metrics file. One that is missing, untouched or not
// what it should be is a gap and no error: the command has run.
func (p *Prepared) readMetrics() (map[string]any, error) {
	if p.metrics == nil {
		return nil, nil
	}
	f, err := os.Open(p.metrics.path)
	if errors.Is(err, fs.ErrNotExist) {
		p.gap("metrics-not-recorded", "%s was not written", p.metrics.name)
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the metrics: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading the metrics: %w", err)
	}
	if b := p.metrics.stat; b != nil && os.SameFile(b, info) && b.ModTime().Equal(info.ModTime()) && b.Size() == info.Size() {
		p.gap("metrics-not-recorded", "%s was there before and was not written", p.metrics.name)
		return nil, nil
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxMetrics+1))
	if err != nil {
		return nil, fmt.Errorf("reading the metrics: %w", err)
	}
	m, err := parseMetrics(raw)
	if err != nil {
		p.gap("metrics-not-recorded", "%s: %v", p.metrics.name, err)
		return nil, nil
	}
	return m, nil
}

// parseMetrics reads a JSON object of numbers and strings.
func parseMetrics(raw []byte) (map[string]any, error) {
	if len(raw) > maxMetrics {
		return nil, fmt.Errorf("is larger than %d bytes", maxMetrics)
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("is not a JSON object: %w", err)
	}
	if m == nil {
		return nil, errors.New("is not a JSON object")
	}
	for name, v := range m {
		switch v := v.(type) {
		case float64:
			if math.IsInf(v, 0) || math.IsNaN(v) {
				return nil, fmt.Errorf("%q is not a finite number", name)
			}
		case string:
			if what := ingest.SecretValue(v); what != "" {
				return nil, fmt.Errorf("%q holds what looks like %s", name, what)
			}
		default:
			return nil, fmt.Errorf("%q is neither a number nor a string", name)
		}
	}
	return m, nil
}

// step builds the provenance statement.
func (p *Prepared) step(e Ended, made, used []*target, metrics map[string]any) (schema.Statement, error) {
	deps := slices.Clone(p.deps)
	for _, t := range slices.Concat(p.inputs, used) {
		d := t.descriptor(schema.RoleInput)
		if t.producer != "" {
			d.Annotations[schema.AnnotationProducer] = t.producer
		}
		deps = append(deps, d)
	}
	params, err := schema.Canonical(p.parameters())
	if err != nil {
		return schema.Statement{}, err
	}
	byproducts, err := p.byproducts(e, metrics)
	if err != nil {
		return schema.Statement{}, err
	}
	prov := schema.Provenance{
		BuildDefinition: schema.BuildDefinition{
			BuildType: schema.RunBuildType, ExternalParameters: params, ResolvedDependencies: deps,
		},
		RunDetails: schema.RunDetails{
			Builder:    schema.Builder{ID: schema.RunBuilder},
			Metadata:   schema.Metadata{InvocationID: p.Run, StartedOn: e.Started, FinishedOn: e.Finished},
			Byproducts: byproducts,
		},
	}
	if p.opts.Version != "" {
		prov.RunDetails.Builder.Version = map[string]string{"retrace": p.opts.Version}
	}
	run, err := schema.RunSubject(p.Run, prov)
	if err != nil {
		return schema.Statement{}, err
	}
	subjects := []schema.Descriptor{run}
	for _, t := range made {
		subjects = append(subjects, t.descriptor(""))
	}
	return schema.NewStatement(schema.ProvenanceV1, prov, subjects...)
}

func (p *Prepared) parameters() schema.RunParameters {
	rp := schema.RunParameters{
		Argv: p.opts.Argv, Dir: ".", Parameters: p.opts.Params, Environment: recorded(p.env),
		Secrets: p.opts.Secrets, Platform: runtime.GOOS + "/" + runtime.GOARCH, Parent: parent(p.env),
	}
	if dir, ok := below(p.root, p.dir); ok {
		rp.Dir = dir
	}
	for _, t := range p.inputs {
		rp.Inputs = append(rp.Inputs, t.name)
	}
	for _, t := range p.outputs {
		rp.Outputs = append(rp.Outputs, t.name)
	}
	return rp
}

// byproducts are exit status, metrics and gaps, carried inline.
func (p *Prepared) byproducts(e Ended, metrics map[string]any) ([]schema.Descriptor, error) {
	var out []schema.Descriptor
	add := func(name string, v any) error {
		raw, err := schema.Canonical(v)
		if err != nil {
			return err
		}
		out = append(out, schema.Descriptor{Name: name, MediaType: "application/json", Content: raw})
		return nil
	}
	if err := add(schema.ByproductExit, e.Exit); err != nil {
		return nil, err
	}
	if metrics != nil {
		if err := add(schema.ByproductMetrics, metrics); err != nil {
			return nil, err
		}
	}
	if len(p.gaps) > 0 {
		if err := add(schema.ByproductGaps, p.gaps); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// How many bytes of file lists go with one folder and with one run, so that
// each statement fits into an envelope and all of them into one batch. Base64
// adds a third to both.
const (
	maxList   = 5 << 19
	maxListed = 4 << 20
)

// folders describes each folder among targets once, so that a file in it is
// known to be part of it. The source is the run and the path: it says nothing
// about what the path holds at another time.
func (p *Prepared) folders(targets []*target) ([]schema.Statement, error) {
	var out []schema.Statement
	seen := map[schema.Key]bool{}
	listed := 0
	for _, t := range targets {
		if !t.folder() || seen[t.key] || t.host != "" {
			continue
		}
		seen[t.key] = true
		source := "run:" + p.Run + "/" + t.name
		s := schema.Snapshot{Source: source, Store: inStore, Count: len(t.files), Bytes: t.size()}
		if len(t.files) <= schema.MaxSnapshotFiles {
			s.Files = t.files
		}
		raw, err := schema.Canonical(&s)
		if err != nil {
			return nil, fmt.Errorf("describing the folder %s: %w", t.name, err)
		}
		if len(raw) > maxList || listed+len(raw) > maxListed {
			s.Files = nil
		} else {
			listed += len(raw)
		}
		st, err := schema.NewStatement(schema.SnapshotV1, &s, schema.Descriptor{Name: t.name, Digest: digestSet(t.key)})
		if err != nil {
			return nil, fmt.Errorf("describing the folder %s: %w", t.name, err)
		}
		out = append(out, st)
	}
	return out, nil
}

// naming is the model version to name, or why there is none.
func (p *Prepared) naming(e Ended, made []*target, metrics map[string]any) (*Naming, string) {
	m := p.opts.Model
	if m == nil {
		return nil, ""
	}
	want := p.outputs[0]
	if m.Path != "" {
		name := p.target(m.Path).name
		for _, t := range p.outputs {
			if t.name == name {
				want = t
			}
		}
	}
	if e.Exit != 0 {
		return nil, fmt.Sprintf("the command failed with exit status %d", e.Exit)
	}
	for _, t := range made {
		if t == want {
			return &Naming{Model: *m, Key: t.key, Run: p.Run, Path: t.name, Metrics: metrics}, ""
		}
	}
	if want.key == "" {
		return nil, want.name + " was not written, or could not be read"
	}
	return nil, want.name + " is what it was before: the run did not make it"
}
