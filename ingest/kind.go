package ingest

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/retrace-ledger/retrace/schema"
)

// A Kind is all there is to know of one kind of source, as ingest/all lists
// it. Its Name is also the kind of the resources that its Fetcher brings back
// (schema.Resource.Kind).
type Kind struct {
	Name string // such as "git"
	// Schemes are those of the URLs that Open takes, without "://".
	Schemes []string
	// Open returns the source at place and its canonical name: a URL without
	// credentials, equal for every spelling of the same source, that entries
	// carry and cursors are kept under. It does not read the source, and
	// refuses a URL with a part, or a setting, that it would ignore.
	Open func(ctx context.Context, place Place, env Env) (Source, string, error)
	// FindsModels says that sources of this kind name models (Env.Naming).
	FindsModels bool
	// NewFetcher is nil for a kind whose resources have no content.
	NewFetcher func(env Env) Fetcher
}

// Env is what kinds need of the program around them.
type Env struct {
	// Content is where bytes are kept. Nil where none are: a kind that cannot
	// do without says so when it is opened.
	Content Content
	// Cache is a folder for copies that can be made again, such as mirrors of
	// remote repositories. Empty for none: kinds that need one use a temporary
	// folder for each read.
	Cache string
	// Entries is what has been recorded, for kinds that look up what recorded
	// steps left behind. Nil where it is not at hand.
	Entries Entries
	// Places are the configured sources: a fetcher finds there how to reach what
	// it fetches.
	Places []Place
	// Naming names the models that a source finds.
	Naming Naming
}

// Entries are the entries of a ledger. *ledger.Ledger has them, and a method
// Wait(ctx, size) that returns when there are so many; others need not.
type Entries interface {
	// Entries yields the entries from an index on, in order, up to the size at
	// the time of the call.
	Entries(ctx context.Context, from int64) iter.Seq2[schema.Entry, error]
}

// KindOf returns the kind that takes rawURL.
func KindOf(kinds []Kind, rawURL string) (Kind, error) {
	scheme, _, ok := strings.Cut(rawURL, "://")
	var known []string
	for _, k := range kinds {
		if ok && slices.Contains(k.Schemes, scheme) {
			return k, nil
		}
		known = append(known, k.Schemes...)
	}
	slices.Sort(known)
	want := strings.Join(known, "://, ") + "://"
	if !ok {
		return Kind{}, fmt.Errorf("%q is not the URL of a source: it begins with none of %s", rawURL, want)
	}
	return Kind{}, fmt.Errorf("no kind of source takes %s:// URLs; known are %s", scheme, want)
}

// KindNamed returns the kind called name.
func KindNamed(kinds []Kind, name string) (Kind, bool) {
	i := slices.IndexFunc(kinds, func(k Kind) bool { return k.Name == name })
	if i < 0 {
		return Kind{}, false
	}
	return kinds[i], true
}
