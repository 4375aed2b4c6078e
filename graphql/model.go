package graphql

import (
	"context"
	"strconv"
	"strings"

	"github.com/graph-gophers/graphql-go"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
)

// model resolves Model: a version, with the fields of its resource.
type model struct {
	*resource
	version string
	name    string
}

// modelAt is the version of a model that ref leads to.
func (a *answer) modelAt(ref lineage.Ref) (*model, error) {
	full, ok := strings.CutPrefix(ref.Name, schema.NameModel+":")
	if !ok {
		return nil, badInput("ref", "%s is not the name of a model", clip(ref.Text))
	}
	r, err := a.resourceAt(ref)
	if err != nil {
		return nil, err
	}
	name, version, _ := strings.Cut(full, "@")
	return &model{r, version, name}, nil
}

func (a *answer) modelOf(m lineage.ModelVersion) (*model, error) {
	full := schema.ModelName(m.Name, m.Version)
	return a.modelAt(lineage.Ref{Text: full, Start: schema.Start{Key: m.Key, Run: m.Run}, Name: full, Entry: m.Entry})
}

// ID tells a version that was moved from what it was before.
func (m *model) ID() ID {
	return opaque("model", m.name+"@"+m.version+"#"+strconv.FormatInt(m.ref.Entry, 10))
}

func (m *model) Name() *string    { return text(m.name) }
func (m *model) Version() *string { return text(m.version) }
func (m *model) Kind() *string    { return m.resource.Kind }
func (m *model) URI() *string     { return m.resource.URI }
func (m *model) Digest() *Digest  { return m.resource.Digest }
func (m *model) State() string    { return m.resource.State }

func (m *model) Resource() *resource { return m.resource }

func (m *model) Step(ctx context.Context) (*step, error) {
	made, err := m.in.Producers(ctx, m.ref.Start)
	if err != nil || len(made) == 0 {
		return nil, err
	}
	return m.in.newStep(made[len(made)-1]), nil
}

func (m *model) Metrics(ctx context.Context) (*JSON, error) {
	metrics, err := m.in.View.Metrics(ctx, m.ref.Start)
	if err != nil {
		return nil, err
	}
	return jsonOf(metrics)
}

func (m *model) Entry(ctx context.Context) (*entry, error) { return m.in.entry(ctx, m.ref.Entry) }

func (m *model) RecordedAt() (*graphql.Time, error) {
	info, err := m.in.View.Entry(m.ref.Entry)
	return instant(info.RecordedAt), err
}

func (m *model) Evidence() (*string, error) {
	info, err := m.in.View.Entry(m.ref.Entry)
	return text(string(info.Evidence)), err
}
