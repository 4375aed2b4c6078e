package oci

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/schema"
)

// scheme begins the URLs of this kind.
const scheme = "oci"

// Facts between two cursors, where the cursor is long: writing it down after
// each would cost more than the facts. Both leave room for the facts of one
// more tag below the limits of a batch.
const (
	shortCursor = 64      // tags
	groupFacts  = 128     // at least, before the next cursor
	groupBytes  = 1 << 20 // of statements
)

// Source is one repository of a registry.
type Source struct {
	repo name.Repository
	tags []string // to watch; empty for all

	settings settings
}

var _ ingest.Source = (*Source)(nil)

// Parse returns the source that rawURL names: oci://HOST/REPOSITORY, with
// ?tag=TAG for each tag to watch if not all.
func Parse(rawURL string) (*Source, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, fmt.Errorf("parsing source %q: %w", rawURL, errors.Unwrap(err))
	}
	switch {
	case u.Scheme != scheme || u.Opaque != "":
		return nil, fmt.Errorf("source %q is not oci://HOST/REPOSITORY", rawURL)
	case u.User != nil:
		return nil, fmt.Errorf("source %s: credentials do not belong in a source; they are given as a token, or taken from the Docker configuration", u.Redacted())
	case u.Fragment != "":
		return nil, fmt.Errorf("source %q: a fragment means nothing here", rawURL)
	}
	repo, err := parseRepository(u.Host + u.Path)
	if err != nil {
		return nil, fmt.Errorf("source %q: %w", rawURL, err)
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, fmt.Errorf("source %q: %w", rawURL, err)
	}
	s := &Source{repo: repo}
	for key, values := range query {
		if key != "tag" {
			return nil, fmt.Errorf("source %q: unknown parameter %q; there is tag", rawURL, key)
		}
		for _, tag := range values {
			if err := checkTag(tag); err != nil {
				return nil, fmt.Errorf("source %q: %w", rawURL, err)
			}
		}
		s.tags = slices.Compact(slices.Sorted(slices.Values(values)))
	}
	return s, nil
}

// parseRepository takes HOST/REPOSITORY; the host must be there, so that a
// typo is not looked for on Docker Hub.
func parseRepository(hostAndPath string) (name.Repository, error) {
	host, _, ok := strings.Cut(hostAndPath, "/")
	if !ok || host == "" {
		return name.Repository{}, fmt.Errorf("%q is not HOST/REPOSITORY", hostAndPath)
	}
	repo, err := name.NewRepository(hostAndPath)
	if err != nil {
		return name.Repository{}, err
	}
	if !repositoryName.MatchString(repo.RepositoryStr()) {
		return name.Repository{}, fmt.Errorf("%q is not the name of a repository", repo.RepositoryStr())
	}
	if repo.RegistryStr() != host && !isDockerHub(host) {
		return name.Repository{}, fmt.Errorf("%q is not the name of a registry: want HOST:PORT, a name with a dot, or localhost", host)
	}
	return repo, nil
}

func isDockerHub(host string) bool { return host == "docker.io" || host == "index.docker.io" }

// URL is the source in its one canonical form.
func (s *Source) URL() string {
	if len(s.tags) == 0 {
		return repositoryURL(s.repo)
	}
	return repositoryURL(s.repo) + "?" + url.Values{"tag": s.tags}.Encode()
}

func repositoryURL(repo name.Repository) string { return scheme + "://" + repo.Name() }

// repositoryName and tagName are what the distribution spec allows as names
// (OCI distribution 1.1, pulling manifests).
var (
	repositoryName = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagName        = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

func checkTag(tag string) error {
	if !tagName.MatchString(tag) {
		return fmt.Errorf("%.128q is not a tag", tag)
	}
	return nil
}

// attachmentTag matches the tags under which cosign and the referrers' fallback
// of OCI 1.1 keep what is attached to an image.
var attachmentTag = regexp.MustCompile(`^sha256-[0-9a-f]{64}(\.(sig|att|sbom))?$`)

// Observe implements ingest.Source.
func (s *Source) Observe(ctx context.Context, cursor string) iter.Seq2[ingest.Event, error] {
	return func(yield func(ingest.Event, error) bool) {
		o, err := s.start(ctx, cursor)
		if err == nil {
			err = o.run(ctx, yield)
		}
		if errors.Is(err, errStopped) {
			return
		}
		if err != nil {
			yield(ingest.Event{}, err)
		}
	}
}

// errStopped ends an observation whose caller wants no more.
var errStopped = errors.New("stopped by the caller")

// observation is one look at a repository.
type observation struct {
	*client
	source   *Source
	state    cursor
	stated   map[imageID]int // images that some tag of state points at
	tags     []string        // to look at, sorted
	listed   map[string]bool // every tag that the registry lists
	attached map[string][]string
	total    int

	skipped []ingest.Event // not yet pending
	pending []ingest.Event // of the last tag with news; its cursor is not decided yet
	facts   int            // since the last cursor, pending included
	bytes   int            // of them
}

// imageID is an image with what is attached to it: what an image statement is
// about.
type imageID struct{ digest, attached sum }

func (s *Source) start(ctx context.Context, cursor string) (*observation, error) {
	state, err := parseCursor(cursor)
	if err != nil {
		return nil, err
	}
	c, err := newClient(ctx, s.repo, s.settings)
	if err != nil {
		return nil, err
	}
	tags, err := c.list(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("listing tags: %w", err)
	}
	o := &observation{
		client: c, source: s, state: state, stated: map[imageID]int{},
		listed: map[string]bool{}, attached: map[string][]string{},
	}
	for _, t := range state {
		o.stated[t.image()]++
	}
	for _, t := range tags {
		o.listed[t] = true
	}
	o.choose(tags)
	if cursor == "" {
		o.total = 2 * len(o.tags) // an image and a tag each
	}
	return o, nil
}

func (t tagState) image() imageID { return imageID{t.digest, t.attached} }

// choose decides which tags to look at: those listed that are watched, and
// those that were there before.
func (o *observation) choose(listed []string) {
	look := map[string]bool{}
	for _, tag := range listed {
		switch {
		case attachmentTag.MatchString(tag):
		case len(o.source.tags) > 0 && !slices.Contains(o.source.tags, tag):
		case checkTag(tag) != nil:
			o.skip("tag", checkTag(tag))
		default:
			look[tag] = true
		}
	}
	for tag, t := range o.state {
		if t.digest.set() {
			look[tag] = true
		}
	}
	o.tags = slices.Sorted(maps.Keys(look))
}

// skip leaves out an object, whose name may end in its digest.
func (o *observation) skip(object string, reason error) {
	skip := &ingest.Skip{Object: object, Reason: reason}
	if k, err := schema.ParseKey(object[strings.LastIndexByte(object, ' ')+1:]); err == nil {
		skip.Digest = k
	}
	o.skipped = append(o.skipped, ingest.Event{Skipped: skip, Total: o.total})
}

func (o *observation) run(ctx context.Context, yield func(ingest.Event, error) bool) error {
	for _, tag := range o.tags {
		next, facts, err := o.look(ctx, tag)
		if ctx.Err() != nil {
			return ctx.Err() // nothing more, not even what could still be handed over
		}
		if err != nil {
			return errors.Join(o.give(true, yield), err)
		}
		if len(facts.statements)+len(facts.envelopes)+len(o.skipped) == 0 {
			continue
		}
		if err := o.hand(tag, next, facts, yield); err != nil {
			return err
		}
	}
	return o.end(yield)
}

// look returns the news of one tag, and the tag's state once they are
// recorded.
func (o *observation) look(ctx context.Context, tag string) (tagState, *group, error) {
	was := o.state[tag]
	if !o.listed[tag] {
		return o.deleted(tag, was)
	}
	ref := o.repo.Tag(tag)
	var m manifest
	if !o.unmoved(ctx, ref, was.digest.String()) {
		var err error
		if m, err = o.listedManifest(ctx, ref); err != nil {
			if lost(ctx, err) {
				return was, nil, fmt.Errorf("tag %s: %w", tag, err)
			}
			o.skip("tag "+tag, err)
			return was, &group{}, nil
		}
	}
	now := was
	if m.raw != nil {
		now.digest = m.digest
	}
	attached, err := o.attachments(ctx, now.digest.String())
	if err != nil {
		return was, nil, fmt.Errorf("tag %s: %w", tag, err)
	}
	if now.attached, err = o.attachedSum(ctx, attached); err != nil {
		return was, nil, fmt.Errorf("tag %s: %w", tag, err)
	}
	if now == was {
		return was, &group{}, nil
	}
	return o.changed(ctx, tag, was, now, m)
}

// listedManifest is manifest for a tag that the registry lists. One that it does
// not find a moment later is looked for twice: it may be about to be set.
func (o *observation) listedManifest(ctx context.Context, ref name.Tag) (manifest, error) {
	m, err := o.manifest(ctx, ref)
	var answered *transport.Error
	if !errors.As(err, &answered) || answered.StatusCode != http.StatusNotFound {
		return m, err
	}
	select {
	case <-ctx.Done():
		return m, ctx.Err()
	case <-time.After(time.Second / 2):
	}
	return o.manifest(ctx, ref)
}

// changed states the image that a tag points at, if no other tag's news did,
// and the tag, if it moved.
func (o *observation) changed(ctx context.Context, tag string, was, now tagState, m manifest) (tagState, *group, error) {
	facts := &group{}
	if o.stated[now.image()] == 0 {
		var err error
		if facts, err = o.images(ctx, now.digest, m); err != nil {
			if lost(ctx, err) {
				return was, nil, fmt.Errorf("tag %s: %w", tag, err)
			}
			// What the tag points at is known all the same.
			o.skip("image "+now.digest.String(), err)
			facts = &group{}
		}
	}
	if now.digest != was.digest {
		previous, err := facts.addTag(o.repo, tag, was, now.digest)
		if err != nil {
			return was, nil, fmt.Errorf("tag %s: %w", tag, err)
		}
		now.previous = previous
	}
	return now, facts, nil
}

func (o *observation) deleted(tag string, was tagState) (tagState, *group, error) {
	facts := &group{}
	previous, err := facts.addTag(o.repo, tag, was, sum{})
	if err != nil {
		return was, nil, fmt.Errorf("tag %s: %w", tag, err)
	}
	return tagState{previous: previous}, facts, nil
}

// hand gives what is pending to the caller, with a cursor if it is time for
// one, and makes the news of tag pending.
func (o *observation) hand(tag string, next tagState, news *group, yield func(ingest.Event, error) bool) error {
	due := len(o.state) <= shortCursor || o.facts >= groupFacts || o.bytes >= groupBytes
	if err := o.give(due, yield); err != nil {
		return err
	}
	o.pending = append(o.pending, o.skipped...)
	o.skipped = nil
	for _, s := range news.statements {
		o.pending = append(o.pending, ingest.Event{Statement: s, Total: o.total})
	}
	for _, e := range news.envelopes {
		o.pending = append(o.pending, ingest.Event{Envelope: &e, Total: o.total})
	}
	o.facts += len(news.statements) + len(news.envelopes)
	o.bytes += news.bytes
	if next == o.state[tag] {
		return nil
	}
	if was := o.state[tag]; was.previous.set() {
		o.stated[was.image()]--
	}
	o.state[tag] = next
	o.stated[next.image()]++
	return nil
}

// end gives what is left to the caller, with what was listed in all.
func (o *observation) end(yield func(ingest.Event, error) bool) error {
	o.pending = append(o.pending, o.skipped...)
	if len(o.pending) == 0 {
		o.pending = append(o.pending, ingest.Event{Total: o.total})
	}
	o.pending[len(o.pending)-1].Listing = o.listing()
	return o.give(o.facts > 0, yield)
}

// listing digests the watched tags and where they point: a line
// "TAG DIGEST\n" each, sorted by tag, with the digest that was stated last.
func (o *observation) listing() *ingest.Listing {
	var lines strings.Builder
	count := 0
	for _, tag := range o.tags {
		if o.listed[tag] {
			count++
			fmt.Fprintf(&lines, "%s %s\n", tag, o.state[tag].digest)
		}
	}
	return &ingest.Listing{Count: count, Digest: schema.BytesKey([]byte(lines.String()))}
}

// give gives what is pending to the caller, the last of it with a cursor if
// that is wanted.
func (o *observation) give(withCursor bool, yield func(ingest.Event, error) bool) error {
	if len(o.pending) == 0 {
		return nil
	}
	if withCursor {
		c, err := o.state.encode()
		if err != nil {
			return err
		}
		o.pending[len(o.pending)-1].Cursor = c
		o.facts, o.bytes = 0, 0
	}
	for _, e := range o.pending {
		if !yield(e, nil) {
			return errStopped
		}
	}
	o.pending = o.pending[:0]
	return nil
}

// addTag states that tag points at now, or that it was deleted if now is
// unset. It returns the digest of the statement.
func (g *group) addTag(repo name.Repository, tag string, was tagState, now sum) (sum, error) {
	p := schema.Tag{Repository: repo.Name(), Tag: tag, Old: was.digest.String()}
	if was.previous.set() {
		p.Previous = fmt.Sprintf("%x", was.previous[:])
	}
	subject := now
	if !now.set() {
		subject, p.Old, p.Deleted = was.digest, "", true
	}
	s, err := schema.NewStatement(schema.TagV1, p, subjectOf(repo, subject))
	if err != nil {
		return sum{}, err
	}
	payload, err := g.add(s)
	if err != nil {
		return sum{}, err
	}
	return sha256.Sum256(payload), nil
}

func subjectOf(repo name.Repository, digest sum) schema.Descriptor {
	return schema.Descriptor{
		Name:   repo.Name(),
		URI:    repositoryURL(repo),
		Digest: schema.DigestSet{schema.SHA256: fmt.Sprintf("%x", digest[:])},
	}
}
