package graphql

import (
	"context"
	"iter"
	"slices"
	"strings"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
)

// conditions are what the index has no order for: every item of a list is
// looked at for them.
type conditions[T any] []func(context.Context, T) (bool, error)

// spend counts what looking at a whole ledger costs, if there is anything to
// look for.
func (c conditions[T]) spend(ctx context.Context, a *answer) error {
	if len(c) == 0 {
		return nil
	}
	return a.spend(ctx, int(a.View.Size()))
}

// hold yields the items for which all conditions hold.
func (c conditions[T]) hold(ctx context.Context, items iter.Seq2[T, error]) iter.Seq2[T, error] {
	if len(c) == 0 {
		return items
	}
	return func(yield func(T, error) bool) {
		for item, err := range items {
			ok := err != nil
			if err == nil {
				ok, err = c.all(ctx, item)
			}
			if (ok || err != nil) && !yield(item, err) {
				return
			}
		}
	}
}

func (c conditions[T]) all(ctx context.Context, item T) (bool, error) {
	for _, holds := range c {
		if ok, err := holds(ctx, item); err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}

// entryWhere is the input EntryWhere.
type entryWhere struct {
	Source   *string
	Evidence *string
	Signer   *string
	Text     *string
}

func (w *entryWhere) conditions(in *answer) (c conditions[lineage.EntryInfo]) {
	if w == nil {
		return nil
	}
	plain := func(holds func(lineage.EntryInfo) bool) {
		c = append(c, func(_ context.Context, e lineage.EntryInfo) (bool, error) { return holds(e), nil })
	}
	if w.Source != nil {
		plain(func(e lineage.EntryInfo) bool { return e.Source == *w.Source })
	}
	if w.Evidence != nil {
		plain(func(e lineage.EntryInfo) bool { return string(e.Evidence) == *w.Evidence })
	}
	if w.Signer != nil {
		plain(func(e lineage.EntryInfo) bool { return slices.Contains(e.Signers, *w.Signer) })
	}
	if w.Text != nil {
		c = append(c, func(ctx context.Context, e lineage.EntryInfo) (bool, error) { return in.View.Holds(ctx, e, *w.Text) })
	}
	return c
}

// parameterWhere is the input ParameterWhere, metricWhere MetricWhere.
type (
	parameterWhere struct{ Name, Equals string }
	metricWhere    struct {
		Name     string
		Min, Max *float64
	}
)

// holds says whether a metric is a number that is neither too small nor too large.
func (w metricWhere) holds(metrics map[string]any) bool {
	value, ok := metrics[w.Name].(float64)
	return ok && (w.Min == nil || value >= *w.Min) && (w.Max == nil || value <= *w.Max)
}

// runWhere are the conditions on the step that a model or an answer is about.
type runWhere struct {
	Evidence   *string
	Parameters *[]parameterWhere
	Metrics    *[]metricWhere
}

func (w runWhere) check() error {
	for _, m := range given(w.Metrics) {
		if m.Min == nil && m.Max == nil {
			return badInput("where.metrics", "%s is given neither min nor max", clip(m.Name))
		}
	}
	return nil
}

func given[T any](list *[]T) []T {
	if list == nil {
		return nil
	}
	return *list
}

// has says whether a step was given all the parameters asked for.
func (w runWhere) has(s *schema.Step) bool {
	return !slices.ContainsFunc(given(w.Parameters), func(p parameterWhere) bool {
		value, ok := s.Parameters[p.Name]
		return !ok || value != p.Equals
	})
}

// within says whether all the metrics asked for are as asked.
func (w runWhere) within(metrics map[string]any) bool {
	return !slices.ContainsFunc(given(w.Metrics), func(m metricWhere) bool { return !m.holds(metrics) })
}

// modelWhere is the input ModelWhere.
type modelWhere struct{ runWhere }

func (w *modelWhere) conditions(in *answer) (c conditions[lineage.ModelVersion], err error) {
	if w == nil {
		return nil, nil
	}
	if w.Evidence != nil {
		c = append(c, func(_ context.Context, m lineage.ModelVersion) (bool, error) {
			return string(m.Evidence) == *w.Evidence, nil
		})
	}
	start := func(m lineage.ModelVersion) schema.Start { return schema.Start{Key: m.Key, Run: m.Run} }
	if w.Parameters != nil {
		c = append(c, func(ctx context.Context, m lineage.ModelVersion) (bool, error) {
			made, err := in.View.Producers(ctx, start(m))
			return slices.ContainsFunc(made, func(s lineage.StepInfo) bool { return w.has(s.Step) }), err
		})
	}
	if w.Metrics != nil {
		c = append(c, func(ctx context.Context, m lineage.ModelVersion) (bool, error) {
			metrics, err := in.View.Metrics(ctx, start(m))
			return err == nil && w.within(metrics), err
		})
	}
	return c, w.check()
}

// stepWhere is the input StepWhere.
type stepWhere struct {
	runWhere
	BuildType *string
	Failed    *bool
}

func (w *stepWhere) conditions() (conditions[lineage.StepInfo], error) {
	if w == nil {
		return nil, nil
	}
	holds := func(_ context.Context, s lineage.StepInfo) (bool, error) {
		failed := s.Step.Exit != nil && *s.Step.Exit != 0
		return (w.Evidence == nil || string(s.Evidence) == *w.Evidence) &&
			(w.BuildType == nil || s.Step.BuildType == *w.BuildType) &&
			(w.Failed == nil || failed == *w.Failed) &&
			w.has(s.Step) && w.within(s.Step.Metrics), nil
	}
	return conditions[lineage.StepInfo]{holds}, w.check()
}

// resourceWhere is the input ResourceWhere.
type resourceWhere struct{ Name, URI *string }

func (w *resourceWhere) conditions() conditions[schema.Resource] {
	if w == nil {
		return nil
	}
	return conditions[schema.Resource]{func(_ context.Context, r schema.Resource) (bool, error) {
		return (w.Name == nil || strings.Contains(strings.ToLower(r.Name), strings.ToLower(*w.Name))) &&
			(w.URI == nil || strings.HasPrefix(r.URI, *w.URI)), nil
	}}
}
