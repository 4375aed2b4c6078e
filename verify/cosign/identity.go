package cosign

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	ociremote "github.com/sigstore/cosign/v2/pkg/oci/remote"
	"github.com/sigstore/sigstore-go/pkg/root"

	"github.com/retrace-ledger/retrace/schema"
)

// Identity is somebody who signs images with certificates, as whoever a login
// service says that they are (Sigstore's "keyless" signing).
type Identity struct {
	subject, issuer string
	root            *root.TrustedRoot
}

// NewIdentity is the subject of certificates (an e-mail address, or the URI of a
// workflow) that issuer, the URL of a login service, vouches for. trustedRoot is a
// Sigstore trusted root in JSON: the authorities and logs that are believed, and
// nothing else is asked. It has to name a transparency log: certificates live for
// minutes, and the log says whether one was valid when it signed. Timestamp
// authorities could too, but cosign 2.6.5 ends the process at a timestamp by an
// authority that is not in the root (VerifyRFC3161Timestamp, index out of range, in a
// goroutine of its own), so that anybody who can push a signature could: their
// timestamps are not looked at.
func NewIdentity(subject, issuer string, trustedRoot []byte) (*Identity, error) {
	if subject == "" || issuer == "" {
		return nil, errors.New("an identity is a subject and the issuer that vouches for it")
	}
	r, err := root.NewTrustedRootFromJSON(trustedRoot)
	if err != nil {
		return nil, fmt.Errorf("reading the trusted root: %w", err)
	}
	switch {
	case len(r.FulcioCertificateAuthorities()) == 0:
		return nil, errors.New("the trusted root names no certificate authority")
	case len(r.RekorLogs()) == 0:
		return nil, errors.New("the trusted root names no transparency log, so that nobody could tell whether a certificate was valid when it signed")
	}
	return &Identity{subject, issuer, r}, nil
}

// ID names the identity.
func (i *Identity) ID() string { return i.subject + ", by " + i.issuer }

// options are how cosign checks: by what the trusted root has, and offline.
func (i *Identity) options(ctx context.Context) *cosign.CheckOpts {
	return &cosign.CheckOpts{
		Identities:         []cosign.Identity{{Subject: i.subject, Issuer: i.issuer}},
		TrustedMaterial:    i.root,
		ClaimVerifier:      cosign.SimpleClaimVerifier,
		RegistryClientOpts: registryOptions(ctx),
		IgnoreSCT:          len(i.root.CTLogs()) == 0,
		Offline:            true,
	}
}

// Signed says whether the image in repository (HOST/REPOSITORY) is signed by the
// identity, and in words why, or why not. An error means that it could not tell.
func (i *Identity) Signed(ctx context.Context, repository string, image schema.Key) (signed bool, why string, err error) {
	ref := repository + "@" + string(image)
	digest, err := name.NewDigest(ref)
	if err != nil {
		return false, "", fmt.Errorf("parsing image reference %q: %w", ref, err)
	}
	found, err := i.count(ctx, digest)
	if err != nil {
		return false, "", fmt.Errorf("reading the signatures of %s: %w", ref, err)
	}
	if found == 0 {
		return false, string(NoSignatures), nil
	}
	_, _, signatures := cosign.VerifyImageSignatures(ctx, digest, i.options(ctx))
	if signatures == nil {
		return true, "signed, and the signature claims this digest", nil
	}
	bundled, bundles := i.bundles(ctx, digest)
	switch {
	case bundled:
		return true, "signed, and the signature claims this digest", nil
	case ctx.Err() != nil:
		return false, "", ctx.Err()
	}
	return false, fmt.Sprintf("none of %d signatures is by this identity and of this image: %v", found, errors.Join(signatures, bundles)), nil
}

// bundles looks for a signature among Sigstore bundles.
func (i *Identity) bundles(ctx context.Context, digest name.Digest) (bool, error) {
	if n, err := countBundles(ctx, digest); err != nil || n == 0 {
		return false, err
	}
	opts := i.options(ctx)
	opts.NewBundleFormat, opts.ClaimVerifier = true, cosign.IntotoSubjectClaimVerifier
	verified, _, err := cosign.VerifyImageAttestations(ctx, digest, opts)
	for _, sig := range verified {
		if isSignature(sig) {
			return true, nil
		}
	}
	return false, err
}

// count is how many signatures there are, by whomever. Each is read before cosign
// looks at them, which takes one that cannot be read for one that does not match.
func (i *Identity) count(ctx context.Context, digest name.Digest) (int, error) {
	opts := registryOptions(ctx)
	tag, err := ociremote.SignatureTag(digest, opts...)
	if err != nil {
		return 0, err
	}
	signatures, err := ociremote.Signatures(tag, opts...)
	if err != nil {
		return 0, err
	}
	all, err := signatures.Get()
	if err != nil {
		return 0, err
	}
	for _, s := range all {
		if _, err := read(s); err != nil {
			return 0, err
		}
	}
	bundles, err := countBundles(ctx, digest)
	return len(all) + bundles, err
}
