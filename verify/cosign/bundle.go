package cosign

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/cosign/v2/pkg/oci"
	ociremote "github.com/sigstore/cosign/v2/pkg/oci/remote"
	"github.com/sigstore/cosign/v2/pkg/types"
	"github.com/sigstore/sigstore-go/pkg/root"

	"github.com/retrace-ledger/retrace/schema"
)

// checkBundles looks for a signature among the Sigstore bundles that refer to
// the image, where cosign 3 puts them: a statement about the image of the type
// that stands for a signature. found is how many there are, by whomever.
func (k *Key) checkBundles(ctx context.Context, image name.Digest) (signed bool, found int, err error) {
	found, err = countBundles(ctx, image)
	if err != nil || found == 0 {
		return false, 0, err
	}
	for _, v := range k.verifiers {
		verified, _, err := cosign.VerifyImageAttestations(ctx, image, &cosign.CheckOpts{
			SigVerifier:        v,
			ClaimVerifier:      cosign.IntotoSubjectClaimVerifier,
			RegistryClientOpts: registryOptions(ctx),
			NewBundleFormat:    true,
			TrustedMaterial:    &root.BaseTrustedMaterial{}, // none: the key is given
			IgnoreTlog:         true,
			IgnoreSCT:          true,
			Offline:            true,
		})
		var none *cosign.ErrNoMatchingAttestations
		if err != nil && !errors.As(err, &none) {
			return false, found, err
		}
		for _, sig := range verified {
			if isSignature(sig) {
				return true, found, nil
			}
		}
	}
	return false, found, nil
}

// isSignature says whether a verified statement is a signature, and not an
// attestation of something else.
func isSignature(verified oci.Signature) bool {
	raw, err := verified.Payload()
	if err != nil {
		return false
	}
	var envelope struct {
		Payload []byte `json:"payload"`
	}
	return json.Unmarshal(raw, &envelope) == nil && predicateType(envelope.Payload) == types.CosignSignPredicateType
}

// predicateType is that of a statement, or "".
func predicateType(payload []byte) string {
	s, err := schema.ParseStatement(payload)
	if err != nil {
		return ""
	}
	return s.PredicateType
}

// countBundles counts the bundles that state a signature. It reads each one
// before cosign does, because cosign passes over those that it cannot read: a
// registry that fails would make a signed image an unsigned one.
func countBundles(ctx context.Context, image name.Digest) (int, error) {
	opts := registryOptions(ctx)
	index, err := ociremote.Referrers(image, "", opts...)
	if err != nil {
		if hasNoReferrers(err) {
			return 0, nil
		}
		return 0, fmt.Errorf("reading what refers to the image: %w", err)
	}
	found := 0
	for _, d := range index.Manifests {
		bundle, err := ociremote.Bundle(image.Context().Digest(d.Digest.String()), opts...)
		if err != nil {
			if unreadable(ctx, err) {
				return 0, fmt.Errorf("reading bundle %s: %w", d.Digest, err)
			}
			continue // something else than a bundle
		}
		if predicateType(bundle.GetDsseEnvelope().GetPayload()) == types.CosignSignPredicateType {
			found++
		}
	}
	return found, nil
}

// hasNoReferrers reports whether the registry answered that it has no
// referrers API.
func hasNoReferrers(err error) bool {
	var answered *transport.Error
	return errors.As(err, &answered) &&
		(answered.StatusCode == http.StatusMethodNotAllowed || answered.StatusCode == http.StatusNotImplemented)
}

// unreadable reports whether err means that something could not be read, as
// opposed to its being no bundle.
func unreadable(ctx context.Context, err error) bool {
	var answered *transport.Error
	var unreachable *url.Error
	return ctx.Err() != nil || errors.As(err, &answered) || errors.As(err, &unreachable) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)
}
