package lineage

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

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
// about both list what they hold (files; layers, labels and packages); nil where
// they do not. read gives the entries.
func (v *View) Changes(ctx context.Context, read func(context.Context, int64) (schema.Entry, error), left, right schema.Key) ([]Change, error) {
	l, err := v.parts(ctx, read, left)
	if err != nil {
		return nil, err
	}
	r, err := v.parts(ctx, read, right)
	if err != nil {
		return nil, err
	}
	var changes []Change
	for _, list := range slices.Sorted(maps.Keys(l)) {
		if r[list] != nil {
			changes = append(changes, Compare(l[list], r[list])...)
		}
	}
	return changes, nil
}

// parts is what the newest entries that list the parts of k say, by what they
// list: what a folder holds, or what an image is made of and, from an SBOM about
// it, its packages. Claims count where nobody who is vouched for lists the same.
func (v *View) parts(ctx context.Context, read func(context.Context, int64) (schema.Entry, error), k schema.Key) (map[string]map[string]Part, error) {
	about, err := v.About(k)
	if err != nil {
		return nil, err
	}
	slices.Reverse(about)
	slices.SortStableFunc(about, func(a, b EntryInfo) int {
		switch {
		case a.Evidence.Trusted() == b.Evidence.Trusted():
			return 0
		case a.Evidence.Trusted():
			return -1
		}
		return 1
	})
	parts := map[string]map[string]Part{}
	for _, e := range about {
		lists, of := listing(e.PredicateType)
		if e.State != schema.Present || of == nil || parts[lists] != nil {
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
		if found := of(s); found != nil {
			parts[lists] = found
		}
	}
	return parts, nil
}

// listing is what entries of a predicate type list, and how it is read; nil where
// they list nothing.
func listing(predicateType string) (string, func(schema.Statement) map[string]Part) {
	switch {
	case predicateType == schema.SnapshotV1:
		return "files", files
	case predicateType == schema.ImageV1:
		return "layers", layers
	case strings.HasPrefix(predicateType, schema.SPDX), strings.HasPrefix(predicateType, schema.CycloneDX):
		return "packages", packages
	}
	return "", nil
}

func files(s schema.Statement) map[string]Part {
	var p schema.Snapshot
	if schema.DecodePredicate(s, true, &p) != nil || len(p.Files) == 0 && p.Count > 0 {
		return nil
	}
	parts := map[string]Part{}
	for _, f := range p.Files {
		switch f.Type {
		case "file":
			parts[f.Path] = Part{schema.SHA256 + ":" + f.SHA256, f.Size}
		case "link":
			parts[f.Path] = Part{"link to " + f.Target, -1}
		}
	}
	return parts
}

func layers(s schema.Statement) map[string]Part {
	var p schema.Image
	if schema.DecodePredicate(s, true, &p) != nil || len(p.Layers) == 0 {
		return nil
	}
	parts := map[string]Part{}
	for i, l := range p.Layers {
		parts[fmt.Sprintf("layer %d", i+1)] = Part{l.Digest, l.Size}
	}
	for name, value := range p.Labels {
		parts["label "+name] = Part{value, -1}
	}
	return parts
}

// packages has one part for each name, with all versions of it.
func packages(s schema.Statement) map[string]Part {
	list, ok := s.Packages()
	if !ok {
		return nil
	}
	versions := map[string][]string{}
	for _, p := range list {
		versions[p.Name] = append(versions[p.Name], p.Version)
	}
	parts := map[string]Part{}
	for name, all := range versions {
		parts["package "+name] = Part{strings.Join(all, ", "), -1}
	}
	return parts
}
