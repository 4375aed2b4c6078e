package oci

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/retrace-ledger/retrace/schema"
)

// Limits of what one tag may bring. What exceeds them is skipped, and told.
const (
	maxStatement   = 2 << 20 // bytes; signed and in base64 it is below schema.MaxEnvelope
	maxGroupBytes  = 4 << 20 // bytes of all statements of one tag
	maxImages      = 512     // manifests below one index
	maxDepth       = 4       // indexes within indexes
	maxAttachments = 1000    // attachments of one image
)

// group is the statements that one tag brings.
type group struct {
	statements []schema.Statement
	envelopes  []schema.Envelope // of attestations that are attached
	bytes      int
}

// add appends a statement and returns its payload.
func (g *group) add(s schema.Statement) ([]byte, error) {
	payload, err := s.Encode()
	if err != nil {
		return nil, err
	}
	if len(payload) > maxStatement {
		return nil, fmt.Errorf("the statement about it is %d bytes; the limit is %d", len(payload), maxStatement)
	}
	if g.bytes+len(payload) > maxGroupBytes {
		return nil, fmt.Errorf("the statements about it are more than %d bytes", maxGroupBytes)
	}
	g.statements = append(g.statements, s)
	g.bytes += len(payload)
	return payload, nil
}

// images states the image or index with the given digest and the images that
// an index holds, those first. m is its manifest if that was read already.
func (o *observation) images(ctx context.Context, digest sum, m manifest) (*group, error) {
	if m.raw == nil {
		var err error
		if m, err = o.manifest(ctx, o.repo.Digest(digest.String())); err != nil {
			return nil, err
		}
	}
	w := &imageWalk{observation: o, group: &group{}, seen: map[string]bool{m.digest.String(): true}}
	if err := w.visit(ctx, m, 0); err != nil {
		return nil, err
	}
	return w.group, nil
}

// imageWalk states an image and what is below it.
type imageWalk struct {
	*observation
	*group
	seen map[string]bool // digests
}

func (w *imageWalk) visit(ctx context.Context, m manifest, depth int) error {
	mediaType, err := m.mediaType()
	if err != nil {
		return err
	}
	image := schema.Image{Repository: w.repo.Name(), MediaType: string(mediaType), Size: int64(len(m.raw))}
	if image.Signatures, err = w.attachments(ctx, m.digest.String()); err != nil {
		return err
	}
	if err := w.attested(ctx, m.digest, image.Signatures); err != nil {
		return err
	}
	if mediaType.IsIndex() {
		err = w.index(ctx, m, depth, &image)
	} else {
		err = w.image(ctx, m, &image)
	}
	if err != nil {
		return err
	}
	s, err := schema.NewStatement(schema.ImageV1, image, subjectOf(w.repo, m.digest))
	if err != nil {
		return err
	}
	_, err = w.add(s)
	return err
}

// index fills in what an index says, and states the images that it holds. One
// that the registry does not have, or cannot be stated, is skipped: an index
// may list platforms that were never copied along.
func (w *imageWalk) index(ctx context.Context, m manifest, depth int, image *schema.Image) error {
	if depth >= maxDepth {
		return fmt.Errorf("index %s is nested more than %d deep", m.digest, maxDepth)
	}
	index, err := v1.ParseIndexManifest(bytes.NewReader(m.raw))
	if err != nil {
		return fmt.Errorf("parsing index %s: %w", m.digest, err)
	}
	image.Labels = index.Annotations
	for _, d := range index.Manifests {
		digest := d.Digest.String()
		image.Manifests = append(image.Manifests, schema.IndexedManifest{
			Digest: digest, MediaType: string(d.MediaType), Platform: platform(d.Platform),
		})
		if w.seen[digest] || !(d.MediaType.IsImage() || d.MediaType.IsIndex()) {
			continue
		}
		if w.seen[digest] = true; len(w.seen) > maxImages+1 {
			return fmt.Errorf("index %s holds more than %d images", m.digest, maxImages)
		}
		if err := w.child(ctx, digest, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (w *imageWalk) child(ctx context.Context, digest string, depth int) error {
	m, err := w.manifest(ctx, w.repo.Digest(digest))
	if err == nil {
		err = w.visit(ctx, m, depth)
	}
	if err != nil && !lost(ctx, err) {
		w.skip("image "+digest, err)
		return nil
	}
	return err
}

// image fills in what an image manifest and its config say. An odd config
// costs what it would have said, not the image.
func (w *imageWalk) image(ctx context.Context, m manifest, image *schema.Image) error {
	parsed, err := v1.ParseManifest(bytes.NewReader(m.raw))
	if err != nil {
		return fmt.Errorf("parsing manifest %s: %w", m.digest, err)
	}
	cfg, err := w.config(m, parsed.Config)
	if err != nil {
		if lost(ctx, err) {
			return err
		}
		w.skip("config of image "+m.digest.String(), err)
	}
	image.Config = parsed.Config.Digest.String()
	image.Platform = platform(&v1.Platform{OS: cfg.OS, Architecture: cfg.Architecture, Variant: cfg.Variant})
	diffIDs := cfg.diffIDs(len(parsed.Layers))
	for i, l := range parsed.Layers {
		image.Layers = append(image.Layers, schema.Blob{Digest: l.Digest.String(), MediaType: string(l.MediaType), Size: l.Size, DiffID: diffIDs[i]})
	}
	image.Labels = maps.Clone(cfg.Config.Labels)
	if image.Labels == nil {
		image.Labels = map[string]string{}
	}
	maps.Copy(image.Labels, parsed.Annotations)
	return nil
}

// platform is OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT.
func platform(p *v1.Platform) string {
	if p == nil || p.OS == "" {
		return ""
	}
	parts := []string{p.OS, p.Architecture, p.Variant}
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), "/")
}

// attachments lists what is attached to the image with the given digest: the
// names of cosign's tags and the digests of referrers, sorted.
func (o *observation) attachments(ctx context.Context, digest string) ([]string, error) {
	if found, ok := o.attached[digest]; ok {
		return found, nil
	}
	tag := strings.Replace(digest, ":", "-", 1)
	var found []string
	for _, suffix := range []string{".att", ".sbom", ".sig"} {
		if o.listed[tag+suffix] {
			found = append(found, tag+suffix)
		}
	}
	refs, err := o.referrers(ctx, o.repo.Digest(digest))
	if err == nil && len(refs) == 0 && o.listed[tag] {
		refs, err = o.fallbackReferrers(ctx, tag)
	}
	if err != nil {
		if lost(ctx, err) {
			return nil, err
		}
		o.skip("referrers of image "+digest, err)
	}
	if len(found)+len(refs) > maxAttachments {
		o.skip("referrers of image "+digest, fmt.Errorf("there are %d; only %d are stated", len(refs), maxAttachments-len(found)))
		refs = refs[:maxAttachments-len(found)]
	}
	found = append(found, refs...)
	slices.Sort(found)
	o.attached[digest] = found
	return found, nil
}

// fallbackReferrers reads the index that clients keep under a tag where the
// registry has no referrers API (OCI distribution 1.1, referrers tag schema).
func (o *observation) fallbackReferrers(ctx context.Context, tag string) ([]string, error) {
	m, err := o.manifest(ctx, o.repo.Tag(tag))
	if err != nil {
		return nil, err
	}
	mediaType, err := m.mediaType()
	if err != nil {
		return nil, err
	}
	if mediaType != types.OCIImageIndex {
		return nil, fmt.Errorf("tag %s is not an index", tag)
	}
	index, err := m.desc.ImageIndex()
	if err != nil {
		return nil, err
	}
	return digestsOf(index)
}
