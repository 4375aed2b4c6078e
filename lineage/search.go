package lineage

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strings"

	"github.com/retrace-ledger/retrace/schema"
)

// IsStep says whether entries of a predicate type state steps.
func IsStep(predicateType string) bool {
	switch predicateType {
	case schema.ProvenanceV1, schema.ProvenanceV02, schema.ProvenanceV01, schema.LinkV03:
		return true
	}
	return false
}

// Steps yields the steps that filter takes, in its order, from the entry at
// index from on; with a name, those alone that are called so. What several
// entries state of one run is one step (schema.Standing).
func (v *View) Steps(ctx context.Context, from int64, name string, filter Filter) iter.Seq2[StepInfo, error] {
	return func(yield func(StepInfo, error) bool) {
		for e, err := range v.Entries(ctx, from, filter) {
			if err != nil {
				yield(StepInfo{}, err)
				return
			}
			if !IsStep(e.PredicateType) {
				continue
			}
			s, err := v.StepInfo(ctx, e.Index)
			if errors.Is(err, ErrNotFound) || err == nil && name != "" && s.Step.Name != name {
				continue // unreadable, or another
			}
			if err == nil {
				var stands bool
				if stands, err = v.stands(ctx, s); err == nil && !stands {
					continue
				}
			}
			if !yield(s, err) || err != nil {
				return
			}
		}
	}
}

// stands says whether a step counts among all that is stated of its run.
func (v *View) stands(ctx context.Context, s StepInfo) (bool, error) {
	if s.Step.Run == "" {
		return true, nil
	}
	if len(s.Step.AttestedBy) > 0 { // by a statement that does not name the run
		for _, o := range s.Step.Generates {
			made, err := schema.Producers(ctx, v, schema.Start{Key: o.Key}, v.size)
			if err != nil {
				return false, err
			}
			if !slices.Contains(made, s.Entry) {
				return false, nil
			}
		}
	}
	entries, err := v.RunEntries(s.Step.Run)
	if err != nil || len(entries) < 2 {
		return true, err
	}
	entries, err = schema.Standing(ctx, v, entries)
	return slices.Contains(entries, s.Entry), err
}

// Search yields the entries that filter takes and that hold a text, whatever its
// case: in their summary, which names what they are about and quotes messages, or
// in the name, the command or the parameters of a step. It reads every entry that
// filter takes.
func (v *View) Search(ctx context.Context, from int64, text string, filter Filter) iter.Seq2[EntryInfo, error] {
	return func(yield func(EntryInfo, error) bool) {
		for e, err := range v.Entries(ctx, from, filter) {
			found := false
			if err == nil {
				found, err = v.Holds(ctx, e, text)
			}
			if err != nil {
				yield(EntryInfo{}, err)
				return
			}
			if found && !yield(e, nil) {
				return
			}
		}
	}
}

// Holds says whether an entry holds a text as Search looks for it.
func (v *View) Holds(ctx context.Context, e EntryInfo, text string) (bool, error) {
	text = strings.ToLower(text)
	has := func(s string) bool { return strings.Contains(strings.ToLower(s), text) }
	if has(e.Summary) || has(e.Run) {
		return true, nil
	}
	if !IsStep(e.PredicateType) {
		return false, nil
	}
	s, err := v.Step(ctx, e.Index)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if has(s.Name) || has(strings.Join(s.Argv, " ")) {
		return true, nil
	}
	for name, value := range s.Parameters {
		if has(name + "=" + value) {
			return true, nil
		}
	}
	return false, nil
}
