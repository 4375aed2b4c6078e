package graphql

import (
	"context"
	"strconv"

	"github.com/graph-gophers/graphql-go"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
)

// step resolves Step.
type step struct {
	ID   ID
	Run  *string
	Name *string

	in   *answer
	info lineage.StepInfo
}

func (a *answer) newStep(info lineage.StepInfo) *step {
	return &step{ID: opaque("step", strconv.FormatInt(info.Entry, 10)), Run: text(info.Step.Run), Name: text(info.Step.Name), in: a, info: info}
}

func (a *answer) step(ctx context.Context, entry int64) (*step, error) {
	if entry < 0 {
		return nil, nil
	}
	info, err := a.StepInfo(ctx, entry)
	if err != nil {
		return nil, err
	}
	return a.newStep(info), nil
}

func (s *step) BuildType() *string      { return text(s.info.Step.BuildType) }
func (s *step) Builder() *string        { return text(s.info.Step.Builder) }
func (s *step) Started() *graphql.Time  { return instant(s.info.Step.Started) }
func (s *step) Finished() *graphql.Time { return instant(s.info.Step.Finished) }
func (s *step) Argv() *[]string         { return list(s.info.Step.Argv) }
func (s *step) Dir() *string            { return text(s.info.Step.Dir) }
func (s *step) Secrets() *[]string      { return list(s.info.Step.Secrets) }
func (s *step) Platform() *string       { return text(s.info.Step.Platform) }
func (s *step) Parent() *string         { return text(s.info.Step.Parent) }
func (s *step) Evidence() *string       { return text(string(s.info.Evidence)) }
func (s *step) State() string           { return string(schema.Present) }

func (s *step) Exit() *int32 {
	if s.info.Step.Exit == nil {
		return nil
	}
	status := int32(*s.info.Step.Exit)
	return &status
}

func (s *step) Parameters() (*JSON, error)  { return jsonOf(s.info.Step.Parameters) }
func (s *step) Environment() (*JSON, error) { return jsonOf(s.info.Step.Environment) }
func (s *step) Metrics() (*JSON, error)     { return jsonOf(s.info.Step.Metrics) }

func (s *step) Entry(ctx context.Context) (*entry, error) { return s.in.entry(ctx, s.info.Entry) }

func (s *step) Uses(ctx context.Context) (*[]use, error) {
	out := make([]use, len(s.info.Step.Uses))
	for i, u := range s.info.Step.Uses {
		out[i] = use{s.in, u}
	}
	return &out, s.in.spend(ctx, len(out))
}

func (s *step) Generates(ctx context.Context) (*[]output, error) {
	out := make([]output, len(s.info.Step.Generates))
	for i, o := range s.info.Step.Generates {
		out[i] = output{s.in, s.info.Step.Run, o}
	}
	return &out, s.in.spend(ctx, len(out))
}

// use resolves Use.
type use struct {
	in *answer
	u  schema.Use
}

func (u use) Role() *string     { return text(u.u.Role) }
func (u use) Path() *string     { return text(u.u.Path) }
func (u use) Producer() *string { return text(u.u.Producer) }

// Resource is the one that the step used: of several producers, the one named.
func (u use) Resource() (*resource, error) {
	ref := refTo(u.u.Key)
	ref.Start.Run = u.u.Producer
	return u.in.resourceAt(ref)
}

// output resolves Output.
type output struct {
	in  *answer
	run string
	o   schema.Output
}

func (o output) Path() *string { return text(o.o.Path) }

func (o output) Resource() (*resource, error) {
	ref := refTo(o.o.Key)
	ref.Start.Run = o.run
	return o.in.resourceAt(ref)
}
