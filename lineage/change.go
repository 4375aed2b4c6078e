package lineage

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/retrace-ledger/retrace/schema"
)

// Part is what a folder, an image or a commit has at one place.
type Part struct {
	Value string // digest of a file or layer, target of a link, value of a label
	Size  int64  // bytes; -1 where that is not known
}

// Change is a place at which two of them differ.
type Change struct {
	Path      string `json:"path"`           // of a file, or "layer N", "label NAME"
	Left      string `json:"left,omitempty"` // empty where only the right side has it
	Right     string `json:"right,omitempty"`
	LeftSize  int64  `json:"leftSize"` // bytes; -1 where it is not there, or not known
	RightSize int64  `json:"rightSize"`
}

// Compare lists the places at which two differ, in order.
func Compare(left, right map[string]Part) []Change {
	var changes []Change
	all := maps.Clone(left)
	maps.Copy(all, right)
	for _, path := range slices.Sorted(maps.Keys(all)) {
		l, inLeft := left[path]
		r, inRight := right[path]
		if inLeft && inRight && l.Value == r.Value {
			continue
		}
		c := Change{Path: path, Left: l.Value, Right: r.Value, LeftSize: l.Size, RightSize: r.Size}
		if !inLeft {
			c.LeftSize = -1
		}
		if !inRight {
			c.RightSize = -1
		}
		changes = append(changes, c)
	}
	return changes
}

// Changes says in what two folders, or two images, differ, as far as the entries
// about both list what they hold; nil where they do not. read gives the entries.
func (v *View) Changes(ctx context.Context, read func(context.Context, int64) (schema.Entry, error), left, right schema.Key) ([]Change, error) {
	l, err := v.parts(ctx, read, left)
	if err != nil || l == nil {
		return nil, err
	}
	r, err := v.parts(ctx, read, right)
	if err != nil || r == nil {
		return nil, err
	}
	return Compare(l, r), nil
}

// parts is what the newest entry that lists the parts of k says; nil if none does.
func (v *View) parts(ctx context.Context, read func(context.Context, int64) (schema.Entry, error), k schema.Key) (map[string]Part, error) {
	about, err := v.About(k)
	if err != nil {
		return nil, err
	}
	for _, e := range slices.Backward(about) {
		if e.State != schema.Present || e.PredicateType != schema.SnapshotV1 && e.PredicateType != schema.ImageV1 {
			continue
		}
		entry, err := read(ctx, e.Index)
		if err != nil {
			return nil, err
		}
		s, err := entry.Envelope.Statement()
		if err != nil {
			continue // an entry that cannot be read states nothing
		}
		if parts := partsOf(s); parts != nil {
			return parts, nil
		}
	}
	return nil, nil
}

func partsOf(s schema.Statement) map[string]Part {
	parts := map[string]Part{}
	switch s.PredicateType {
	case schema.SnapshotV1:
		var p schema.Snapshot
		if schema.DecodePredicate(s, true, &p) != nil || len(p.Files) == 0 && p.Count > 0 {
			return nil
		}
		for _, f := range p.Files {
			switch f.Type {
			case "file":
				parts[f.Path] = Part{schema.SHA256 + ":" + f.SHA256, f.Size}
			case "link":
				parts[f.Path] = Part{"link to " + f.Target, -1}
			}
		}
	case schema.ImageV1:
		var p schema.Image
		if schema.DecodePredicate(s, true, &p) != nil || len(p.Layers) == 0 {
			return nil
		}
		for i, l := range p.Layers {
			parts[fmt.Sprintf("layer %d", i+1)] = Part{l.Digest, l.Size}
		}
		for name, value := range p.Labels {
			parts["label "+name] = Part{value, -1}
		}
	}
	return parts
}
