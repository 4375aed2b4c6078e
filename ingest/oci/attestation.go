package oci

import (
	"context"
	"encoding/json"
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
func (w *imageWalk) attested(ctx context.Context, image sum, attached []string) error {
	for _, a := range attached {
		var ref name.Reference = w.repo.Tag(a)
		read := w.envelope
		switch {
		case strings.HasPrefix(a, "sha256:"):
			ref = w.repo.Digest(a)
		case strings.HasSuffix(a, ".sig"):
			read = func(l v1.Layer, d v1.Descriptor) error { return w.signature(l, d, image) }
		case !strings.HasSuffix(a, ".att"):
			continue // a list of packages
		}
		err := w.layersOf(ctx, ref, read)
		if err != nil && lost(ctx, err) {
			return err
		}
		if err != nil {
			w.skip("attestation "+a, err)
		}
	}
	return nil
}

// layersOf reads the layers that an attachment holds.
func (w *imageWalk) layersOf(ctx context.Context, ref name.Reference, read func(v1.Layer, v1.Descriptor) error) error {
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
	described, err := img.Manifest()
	if err != nil {
		return err
	}
	for i, l := range layers {
		if err := read(l, described.Layers[i]); err != nil {
			return err
		}
	}
	return nil
}

// Annotations of a layer that holds what cosign signed.
const (
	cosignSignature   = "dev.cosignproject.cosign/signature"
	cosignCertificate = "dev.sigstore.cosign/certificate"
	cosignChain       = "dev.sigstore.cosign/chain"
	cosignBundle      = "dev.sigstore.cosign/bundle"
	simpleSigning     = "application/vnd.dev.cosign.simplesigning.v1+json"
)

// maxPayload is how many bytes of what was signed are read. It names an image and
// little else.
const maxPayload = 64 << 10

// signature states a signature of the image, if the layer is one. One of another
// image is refused: anybody may put it under the tag.
func (w *imageWalk) signature(l v1.Layer, d v1.Descriptor, image sum) error {
	if d.MediaType != simpleSigning {
		return nil
	}
	body, err := l.Compressed() // as it is stored: such layers are not compressed
	if err != nil {
		return err
	}
	defer body.Close()
	payload, err := io.ReadAll(io.LimitReader(body, maxPayload+1))
	if err != nil {
		return err
	}
	if len(payload) > maxPayload {
		return fmt.Errorf("what was signed is more than %d bytes", maxPayload)
	}
	var signed struct {
		Critical struct {
			Image struct {
				Digest string `json:"docker-manifest-digest"`
			} `json:"image"`
		} `json:"critical"`
	}
	if err := json.Unmarshal(payload, &signed); err != nil {
		return fmt.Errorf("what was signed is not simple signing: %w", err)
	}
	if signed.Critical.Image.Digest != image.String() {
		return fmt.Errorf("it is a signature of another image, %.80q", signed.Critical.Image.Digest)
	}
	s, err := schema.NewStatement(schema.SignatureV1, schema.ImageSignature{
		Payload: payload, Signature: d.Annotations[cosignSignature], Certificate: d.Annotations[cosignCertificate],
		Chain: d.Annotations[cosignChain], Bundle: d.Annotations[cosignBundle],
	}, subjectOf(w.repo, image))
	if err != nil {
		return err
	}
	_, err = w.add(s)
	return err
}

// envelope reads a layer, if it is one that holds envelopes.
func (w *imageWalk) envelope(l v1.Layer, d v1.Descriptor) error {
	if mediaType := string(d.MediaType); mediaType != envelopeType && !strings.HasPrefix(mediaType, bundlePrefix) {
		return nil
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
// and cosign's tags of attestations and signatures, which grow, by their names and
// what they point at.
func (o *observation) attachedSum(ctx context.Context, attached []string) (sum, error) {
	marks := slices.Clone(attached)
	for i, a := range marks {
		if !strings.HasSuffix(a, ".att") && !strings.HasSuffix(a, ".sig") {
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
