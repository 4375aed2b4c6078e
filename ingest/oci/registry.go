package oci

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/schema"
)

// Limits of what is read from a registry, in bytes or counts.
const (
	maxManifest = 4 << 20 // bytes; what the distribution spec asks registries to take at least
	maxConfig   = 4 << 20 // bytes of an image's config
	maxAnswer   = 8 << 20 // bytes of any other answer that is not a blob, such as a page of tags
	maxListed   = 500_000 // tags in a listing
)

// client reads one repository. It tries everything once: retrying is for
// whoever runs the source.
type client struct {
	repo        name.Repository
	puller      *remote.Puller
	noReferrers bool // the registry has no referrers API
}

// options are how every part of this package talks to a registry.
func options(ctx context.Context, who remote.Option) []remote.Option {
	return []remote.Option{
		remote.WithContext(ctx),
		who,
		remote.WithTransport(bounded{remote.DefaultTransport}),
		remote.WithUserAgent("retrace"),
		remote.WithRetryBackoff(remote.Backoff{Steps: 1}),
		remote.WithReferrersTagFallback(false),
		// Without a page size of ours, registries that cannot say where the
		// next page is give everything at once.
		remote.WithPageSize(0),
	}
}

func newClient(ctx context.Context, repo name.Repository, s settings) (*client, error) {
	who, err := s.credentials()
	if err != nil {
		return nil, fmt.Errorf("reaching %s: %w", repo, err)
	}
	puller, err := remote.NewPuller(options(ctx, who)...)
	if err != nil {
		return nil, fmt.Errorf("reaching %s: %w", repo, err)
	}
	return &client{repo: repo, puller: puller}, nil
}

// list returns the names of all tags.
func (c *client) list(ctx context.Context) ([]string, error) {
	lister, err := c.puller.Lister(ctx, c.repo)
	if err != nil {
		return nil, err
	}
	var tags []string
	for lister.HasNext() {
		page, err := lister.Next(ctx)
		if err != nil {
			return nil, err
		}
		if tags = append(tags, page.Tags...); len(tags) > maxListed {
			return nil, fmt.Errorf("the repository lists more than %d tags", maxListed)
		}
	}
	return tags, nil
}

// manifest is a manifest or index with the digest of its bytes.
type manifest struct {
	raw    []byte
	digest sum
	desc   *remote.Descriptor
}

// unmoved reports whether the registry says, without sending the manifest,
// that ref has the given digest.
func (c *client) unmoved(ctx context.Context, ref name.Reference, digest string) bool {
	if digest == "" {
		return false
	}
	desc, err := c.puller.Head(ctx, ref)
	return err == nil && desc.Digest.String() == digest
}

// manifest reads a manifest. The digest is computed from its bytes, whatever
// the registry says it is.
func (c *client) manifest(ctx context.Context, ref name.Reference) (manifest, error) {
	desc, err := c.puller.Get(ctx, ref)
	if err != nil {
		return manifest{}, err
	}
	if desc.MediaType == types.DockerManifestSchema1 || desc.MediaType == types.DockerManifestSchema1Signed {
		return manifest{}, errors.New("it is a schema 1 manifest, whose digest is not that of its bytes")
	}
	m := manifest{raw: desc.Manifest, digest: sha256.Sum256(desc.Manifest), desc: desc}
	if d, ok := ref.(name.Digest); ok && d.DigestStr() != m.digest.String() {
		return manifest{}, fmt.Errorf("%s has the digest %s", ref, m.digest)
	}
	return m, nil
}

// mediaType is what the manifest is, as its own field says or else as it was
// served. Bytes that could be taken for both a manifest and an index, or that
// were served as something they deny, are refused: two readers would see two
// different images under one digest (CVE-2021-41190).
func (m manifest) mediaType() (types.MediaType, error) {
	var probe struct {
		MediaType string          `json:"mediaType"`
		Config    json.RawMessage `json:"config"`
		Layers    json.RawMessage `json:"layers"`
		Manifests json.RawMessage `json:"manifests"`
	}
	if err := json.Unmarshal(m.raw, &probe); err != nil {
		return "", fmt.Errorf("manifest %s is not valid JSON: %w", m.digest, err)
	}
	served, _, _ := strings.Cut(string(m.desc.MediaType), ";")
	is := types.MediaType(probe.MediaType)
	if is == "" {
		is = types.MediaType(strings.TrimSpace(served))
	}
	known := func(t types.MediaType) bool { return t.IsImage() || t.IsIndex() }
	switch {
	case !known(is):
		return "", fmt.Errorf("manifest %s is of media type %q, neither image nor index", m.digest, is)
	case known(types.MediaType(served)) && is != types.MediaType(served):
		return "", fmt.Errorf("manifest %s says it is %s and was served as %s", m.digest, is, served)
	case probe.Manifests != nil && (probe.Config != nil || probe.Layers != nil):
		return "", fmt.Errorf("manifest %s is both image and index", m.digest)
	}
	return is, nil
}

// config is what an image's config says about where it runs and came from.
type config struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant"`
	Config       struct {
		Labels map[string]string `json:"Labels"`
	} `json:"config"`
	RootFS struct {
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
}

// diffIDs are the digests of the n layers unpacked, or n empty ones where the
// configuration does not say those of all.
func (c *config) diffIDs(n int) []string {
	odd := func(id string) bool {
		_, err := schema.ParseKey(id)
		return err != nil
	}
	if len(c.RootFS.DiffIDs) != n || slices.ContainsFunc(c.RootFS.DiffIDs, odd) {
		return make([]string, n)
	}
	return c.RootFS.DiffIDs
}

// config reads the config of an image manifest. Artifacts whose config is
// something else than a container's have none.
func (c *client) config(m manifest, desc v1.Descriptor) (config, error) {
	var cfg config
	if desc.MediaType != types.OCIConfigJSON && desc.MediaType != types.DockerConfigJSON {
		return cfg, nil
	}
	if desc.Size > maxConfig {
		return cfg, fmt.Errorf("config %s is %d bytes; the limit is %d", desc.Digest, desc.Size, maxConfig)
	}
	img, err := m.desc.Image()
	if err != nil {
		return cfg, err
	}
	raw, err := img.RawConfigFile()
	if err != nil {
		return cfg, fmt.Errorf("config %s: %w", desc.Digest, err)
	}
	if err := json.Unmarshal(raw, &cfg); err != nil {
		return config{}, fmt.Errorf("config %s is not valid JSON: %w", desc.Digest, err)
	}
	return cfg, nil
}

// referrers returns the digests of what refers to d (OCI distribution 1.1,
// listing referrers), sorted; nothing where the registry has no such API.
func (c *client) referrers(ctx context.Context, d name.Digest) ([]string, error) {
	if c.noReferrers {
		return nil, nil
	}
	index, err := remote.Referrers(d, remote.WithContext(ctx), remote.Reuse(c.puller))
	if err != nil {
		if lost(ctx, err) && !unsupported(err) {
			return nil, fmt.Errorf("reading the referrers of %s: %w", d.DigestStr(), err)
		}
		c.noReferrers = true
		return nil, nil
	}
	return digestsOf(index)
}

func digestsOf(index v1.ImageIndex) ([]string, error) {
	m, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	var digests []string
	for _, d := range m.Manifests {
		digests = append(digests, d.Digest.String())
	}
	slices.Sort(digests)
	return slices.Compact(digests), nil
}

// Registry answers what references point at, by asking their registries.
type Registry struct{}

// Resolve returns the digest of the manifest that ref (HOST/REPOSITORY:TAG or
// HOST/REPOSITORY@DIGEST) points at, computed from its bytes. The registry
// having no such manifest is found false; not being able to tell is an error.
func (Registry) Resolve(ctx context.Context, ref string) (digest schema.Key, found bool, err error) {
	parsed, err := name.ParseReference(ref)
	if err != nil {
		return "", false, fmt.Errorf("parsing image reference %q: %w", ref, err)
	}
	c, err := newClient(ctx, parsed.Context(), settings{})
	if err != nil {
		return "", false, err
	}
	m, err := c.manifest(ctx, parsed)
	switch {
	case missing(err):
		return "", false, nil
	case err != nil:
		return "", false, fmt.Errorf("resolving %s: %w", ref, err)
	}
	return schema.Key(m.digest.String()), true, nil
}

// bounded limits the size of answers and marks what goes wrong while one is
// read, so that a connection that broke is not taken for content that is odd.
type bounded struct{ next http.RoundTripper }

func (t bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusTooManyRequests {
		if wait := retryAfter(resp.Header.Get("Retry-After"), time.Now()); wait > 0 {
			return nil, errors.Join(&ingest.BusyError{Wait: wait, Err: fmt.Errorf("%s answers %s", req.URL.Host, resp.Status)}, resp.Body.Close())
		}
	}
	most := int64(maxAnswer)
	switch asked(req) {
	case "blobs":
		return resp, nil // of the size that a manifest states, or the reader says so
	case "manifests":
		most = maxManifest
	}
	resp.Body = &boundedBody{ReadCloser: resp.Body, url: req.URL, left: most, max: most}
	return resp, nil
}

// retryAfter is how long a server asks to wait (RFC 9110, section 10.2.3), 0 if
// it does not say.
func retryAfter(header string, now time.Time) time.Duration {
	if n, err := strconv.Atoi(header); err == nil {
		return time.Duration(min(max(n, 0), 24*60*60)) * time.Second
	}
	if at, err := http.ParseTime(header); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}

// asked is the part of the distribution API that the first request of a chain
// of redirects was for.
func asked(req *http.Request) string {
	for req.Response != nil && req.Response.Request != nil {
		req = req.Response.Request
	}
	return path.Base(path.Dir(req.URL.Path))
}

type boundedBody struct {
	io.ReadCloser
	url       *url.URL
	left, max int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return n, fmt.Errorf("%s is larger than the limit of %d bytes", b.url.Path, b.max)
	}
	if err != nil && err != io.EOF {
		err = &brokenError{err}
	}
	return n, err
}

// brokenError is a connection that broke in the middle of an answer.
type brokenError struct{ err error }

func (e *brokenError) Error() string { return "reading the answer: " + e.err.Error() }
func (e *brokenError) Unwrap() error { return e.err }

// lost reports whether err means that the registry could not be asked, as
// opposed to its having answered that there is no such thing or with
// something odd.
func lost(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return true
	}
	var answered *transport.Error
	if errors.As(err, &answered) {
		return !slices.Contains([]int{
			http.StatusNotFound, http.StatusGone, http.StatusBadRequest, http.StatusNotAcceptable,
			http.StatusUnsupportedMediaType, http.StatusUnavailableForLegalReasons,
		}, answered.StatusCode)
	}
	var broken *brokenError
	var unreachable *url.Error
	return errors.As(err, &broken) || errors.As(err, &unreachable) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)
}

// unsupported reports whether the registry answered that it has no such API,
// in one of the ways that they do.
func unsupported(err error) bool {
	var answered *transport.Error
	return errors.As(err, &answered) && slices.Contains([]int{
		http.StatusForbidden, http.StatusMethodNotAllowed, http.StatusNotImplemented,
	}, answered.StatusCode)
}

// missing reports whether the registry answered that there is no such thing.
func missing(err error) bool {
	var answered *transport.Error
	return errors.As(err, &answered) && answered.StatusCode == http.StatusNotFound
}
