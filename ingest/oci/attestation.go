package oci

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/retrace-ledger/retrace/schema"
)

// Media types of layers that hold what somebody attests of an image: those of
// cosign's .att tags, and Sigstore bundles.
const (
	envelopeType = "application/vnd.dsse.envelope.v1+json"
	bundlePrefix = "application/vnd.dev.sigstore.bundle"
)

// maxEnvelopes is how many attestations of one image are read.
const maxEnvelopes = 256

// attested adds the envelopes among what is attached to an image, as they stand
// there: whoever signed them speaks, and not this watcher. What is none is
// skipped.
func (w *imageWalk) attested(ctx context.Context, attached []string) error {
	for _, a := range attached {
		var ref name.Reference = w.repo.Tag(a)
		switch {
		case strings.HasPrefix(a, "sha256:"):
			ref = w.repo.Digest(a)
		case !strings.HasSuffix(a, ".att"):
			continue // a signature of the image alone, or a list of packages
		}
		err := w.envelopesOf(ctx, ref)
		if err != nil && lost(ctx, err) {
			return err
		}
		if err != nil {
			w.skip("attestation "+a, err)
		}
	}
	return nil
}

// envelopesOf reads the envelopes that an attachment holds.
func (w *imageWalk) envelopesOf(ctx context.Context, ref name.Reference) error {
	m, err := w.manifest(ctx, ref)
	if err != nil {
		return err
	}
	if mediaType, err := m.mediaType(); err != nil || !mediaType.IsImage() {
		return err // an index of something else
	}
	img, err := m.desc.Image()
	if err != nil {
		return err
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		if err := w.envelope(l); err != nil {
			return err
		}
	}
	return nil
}

// envelope reads a layer, if it is one that holds envelopes.
func (w *imageWalk) envelope(l v1.Layer) error {
	mediaType, err := l.MediaType()
	if err != nil || string(mediaType) != envelopeType && !strings.HasPrefix(string(mediaType), bundlePrefix) {
		return err
	}
	size, err := l.Size()
	if err != nil {
		return err
	}
	if size > schema.MaxEnvelope || len(w.envelopes) >= maxEnvelopes || w.group.bytes+int(size) > maxGroupBytes {
		return fmt.Errorf("there is more than is read of one image: %d attestations, %d bytes", maxEnvelopes, maxGroupBytes)
	}
	body, err := l.Compressed() // as it is stored: such layers are not compressed
	if err != nil {
		return err
	}
	defer body.Close()
	raw, err := io.ReadAll(io.LimitReader(body, schema.MaxEnvelope+1))
	if err != nil {
		return err
	}
	docs, err := schema.ParseDocument(raw)
	if err != nil {
		return err
	}
	for _, d := range docs {
		w.envelopes = append(w.envelopes, d.Envelope)
		w.group.bytes += len(d.Envelope.Raw)
	}
	return nil
}

// attachedSum identifies what is attached to an image: referrers by their digest,
// and cosign's tag of attestations, which grows, by its name and what it points
// at.
func (o *observation) attachedSum(ctx context.Context, attached []string) (sum, error) {
	marks := slices.Clone(attached)
	for i, a := range marks {
		if !strings.HasSuffix(a, ".att") {
			continue
		}
		desc, err := o.puller.Head(ctx, o.repo.Tag(a))
		if err != nil && lost(ctx, err) {
			return sum{}, err
		}
		if err == nil {
			marks[i] += "@" + desc.Digest.String()
		}
	}
	return attachedSum(marks), nil
}
