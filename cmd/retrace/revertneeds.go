package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/all"
	"github.com/retrace-ledger/retrace/ingest/git"
	"github.com/retrace-ledger/retrace/ingest/oci"
	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
)

// checkedNeed is something that a state needs, and whether it is there.
type checkedNeed struct {
	git.Need
	Found   string `json:"found,omitempty"`   // where, or as what
	Problem string `json:"problem,omitempty"` // why the state would not come back; empty if it is there
}

// prober is a fetcher that can say whether the bytes of a resource are where it is
// said to be, without reading them.
type prober interface {
	Has(ctx context.Context, r schema.Resource) (bool, error)
}

// checkNeed looks for what a state needs. v is the view of when it was live.
func (b *book) checkNeed(ctx context.Context, v *lineage.View, n git.Need) checkedNeed {
	c := checkedNeed{Need: n}
	var err error
	switch n.Kind {
	case git.NeedsImage:
		c.Found, err = checkImage(ctx, v, n.Name)
	case git.NeedsModel:
		c.Found, err = b.checkModel(ctx, v, n.Name)
	case git.NeedsCommit:
		c.Found, err = b.checkCommit(ctx, v, n.Name)
	}
	if err != nil {
		c.Problem = err.Error()
	}
	return c
}

// checkImage asks the registry for an image. One by tag has to be what the ledger
// saw it be, if it did.
func checkImage(ctx context.Context, v *lineage.View, ref string) (string, error) {
	digest, found, err := oci.Registry{}.Resolve(ctx, ref)
	switch {
	case err != nil:
		return "", fmt.Errorf("it could not be asked for: %w", err)
	case !found:
		return "", errors.New("its registry does not have it")
	case strings.Contains(ref, "@"):
		return "in its registry", nil
	}
	was, err := v.Resolve(schema.NameImage + ":" + ref)
	switch {
	case errors.Is(err, lineage.ErrNotFound):
		return "by tag; what it pointed at then was not recorded", nil
	case err != nil:
		return "", err
	case was.Start.Key != digest:
		return "", fmt.Errorf("the tag pointed at %s then (entry %d), and at %s now", was.Start.Key.Short(), was.Entry, digest.Short())
	}
	return fmt.Sprintf("by tag, which points where it did (entry %d)", was.Entry), nil
}

// checkModel looks for the bytes of a model that a state serves from a place.
func (b *book) checkModel(ctx context.Context, v *lineage.View, uri string) (string, error) {
	if image, ok := strings.CutPrefix(uri, "oci://"); ok {
		return checkImage(ctx, v, image)
	}
	ref, err := v.Resolve(strings.TrimRight(uri, "/"))
	if err != nil {
		return "", fmt.Errorf("what was there is not recorded: %w", err)
	}
	r, err := v.Resource(ref.Start.Key)
	if err != nil {
		return "", err
	}
	if b.store != nil && r.Key.Digested() {
		if kept, err := b.store.Has(ctx, r.Key); err == nil && kept {
			return "kept in the content store as " + r.Key.Short(), nil
		}
	}
	there, err := b.probe(ctx, r)
	switch {
	case err != nil:
		return "", fmt.Errorf("%s could not be looked for: %w", r.Key.Short(), err)
	case !there:
		return "", fmt.Errorf("%s is not where it was, and was not kept", r.Key.Short())
	}
	return "where it was, " + r.Key.Short(), nil
}

// probe asks the place that a resource came from.
func (b *book) probe(ctx context.Context, r schema.Resource) (bool, error) {
	for _, k := range all.Kinds() {
		if k.Name != r.Kind || k.NewFetcher == nil {
			continue
		}
		if p, ok := k.NewFetcher(b.env()).(prober); ok {
			return p.Has(ctx, r)
		}
	}
	return false, fmt.Errorf("nobody can say whether a %s is still at %s", r.Kind, r.URI)
}

// heldNow is held, of what is kept elsewhere too: whoever has it is asked.
func (b *book) heldNow(ctx context.Context, r schema.Resource) (bool, error) {
	held, err := b.held(ctx, r)
	if err != nil || !held || b.store == nil {
		return held, err
	}
	if kept, err := b.store.Has(ctx, r.Key); err == nil && kept {
		return true, nil
	}
	if repository, ok := strings.CutPrefix(r.URI, "oci://"); ok {
		repository, _, _ = strings.Cut(repository, "@")
		if i := strings.LastIndexByte(repository, ':'); i > strings.LastIndexByte(repository, '/') {
			repository = repository[:i]
		}
		_, found, err := oci.Registry{}.Resolve(ctx, repository+"@"+string(r.Key))
		return found, err
	}
	return b.probe(ctx, r)
}

// checkCommit fetches the commit of a submodule.
func (b *book) checkCommit(ctx context.Context, v *lineage.View, commit string) (string, error) {
	k := schema.Key(schema.GitCommit + ":" + commit)
	r, err := v.Resource(k)
	if err != nil {
		return "", fmt.Errorf("which repository it is of was not recorded: %w", err)
	}
	if _, err := git.NewFetcher(b.env()).Files(ctx, r); err != nil {
		return "", fmt.Errorf("it cannot be fetched: %w", err)
	}
	return "in " + r.URI, nil
}

// fixed are places that do not change.
func fixed(places []ingest.Place) func() []ingest.Place {
	return func() []ingest.Place { return places }
}
