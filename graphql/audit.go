package graphql

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
)

// maxImages is how many images one audit takes.
const maxImages = 1000

// verdict resolves Verdict.
type verdict struct {
	in        *answer
	image     string
	ref       lineage.Ref
	entries   []int64
	Result    string
	Reason    string
	Proven    []string
	NotProven []string
}

func (v *verdict) Image() string { return v.image }

func (v *verdict) Resource() (*resource, error) {
	if v.ref.Start.Key == "" {
		return nil, nil
	}
	return v.in.resourceAt(v.ref)
}

func (v *verdict) Entries(ctx context.Context) ([]*entry, error) {
	out := make([]*entry, len(v.entries))
	for i, index := range v.entries {
		var err error
		if out[i], err = v.in.entry(ctx, index); err != nil {
			return nil, err
		}
	}
	return out, v.in.spend(ctx, len(out))
}

func (q *query) Audit(ctx context.Context, args struct {
	Images []string
	asOf
}) ([]*verdict, error) {
	if len(args.Images) > maxImages {
		return nil, &Error{Code: CodeLimit, Field: "images", Message: fmt.Sprintf("%d images are more than the limit of %d", len(args.Images), maxImages)}
	}
	in, err := q.view(ctx, args.At, args.AsOfSize)
	if err != nil {
		return nil, err
	}
	out := make([]*verdict, len(args.Images))
	for i, image := range args.Images {
		if out[i], err = in.audit(ctx, image); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// audit says what the ledger alone knows of an image. A digest that it never
// saw is a fact about the ledger, so FAIL; of a tag that it never saw it knows
// nothing, so UNKNOWN.
func (a *answer) audit(ctx context.Context, image string) (*verdict, error) {
	v := &verdict{in: a, image: image, Proven: []string{}, NotProven: []string{
		"who signed the image: signatures are in the registry",
		"that this is the image that runs",
		"that nothing was left out of the ledger",
	}}
	bare := strings.TrimPrefix(strings.TrimPrefix(image, "oci://"), "docker://")
	pinned := strings.Contains(bare, "@")
	ref, err := a.Resolve(schema.NameImage + ":" + bare)
	var ambiguous *lineage.AmbiguousError
	switch {
	case errors.Is(err, lineage.ErrNotFound) && pinned:
		v.Result, v.Reason = "FAIL", fmt.Sprintf("no entry of the ledger mentions %s", image)
		return v, nil
	case errors.Is(err, lineage.ErrNotFound):
		v.Result, v.Reason = "UNKNOWN", fmt.Sprintf("the ledger has not seen %s: %v; give the image by digest", image, err)
		return v, nil
	case errors.As(err, &ambiguous):
		v.Result, v.Reason = "UNKNOWN", err.Error()
		return v, nil
	case err != nil:
		return nil, err
	}
	v.ref = ref
	if ref.Name != "" {
		if err := v.tag(ref); err != nil {
			return nil, err
		}
	}
	return v, v.origin(ctx)
}

// tag notes what is known of a tag: what it pointed at when it was last seen.
func (v *verdict) tag(ref lineage.Ref) error {
	info, err := v.in.View.Entry(ref.Entry)
	if err != nil {
		return err
	}
	v.Proven = append(v.Proven, fmt.Sprintf("entry %d (%s) says that %s pointed at %s at %s", ref.Entry, info.Evidence, ref.Name, ref.Start.Key, info.At.UTC().Format(time.RFC3339)))
	v.NotProven = append(v.NotProven, "that the tag still points there")
	return nil
}

// origin decides by what the image was built from.
func (v *verdict) origin(ctx context.Context) error {
	found, err := v.in.View.Lineage(ctx, v.ref, lineage.LineageOptions{})
	if err != nil {
		return err
	}
	if err := v.in.spend(ctx, len(found.Edges)+1); err != nil {
		return err
	}
	v.entries = found.Entries
	v.Result, v.Reason = "UNKNOWN", "it is recorded, but no entry says what it was built from"
	claimed := true
	for _, e := range found.Edges {
		if e.Relation != schema.RelUsed && e.Relation != schema.RelBuiltOf {
			continue
		}
		v.Proven = append(v.Proven, fmt.Sprintf("entry %d (%s) says that %s was made from %s", e.Entry, e.Evidence, e.From, e.To))
		if v.Result != "PASS" {
			v.Result, v.Reason = "PASS", fmt.Sprintf("it is recorded, and so is what it was built from: %s (%s)", e.To, e.Evidence)
		}
		if claimed && e.Evidence != schema.Claimed {
			claimed = false
			v.Reason = fmt.Sprintf("it is recorded, and so is what it was built from: %s (%s)", e.To, e.Evidence)
		}
	}
	if v.Result == "PASS" && claimed {
		v.NotProven = append(v.NotProven, "what it was built from: labels and unsigned documents claim it, and nobody vouches for them")
	}
	return nil
}
