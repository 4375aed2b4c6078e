package cosign

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/cosign/v2/pkg/oci"
	ocilayout "github.com/sigstore/cosign/v2/pkg/oci/layout"
	ociremote "github.com/sigstore/cosign/v2/pkg/oci/remote"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/options"

	"github.com/retrace-ledger/retrace/keys"
	"github.com/retrace-ledger/retrace/schema"
)

// maxPayload is how many bytes the payload of a signature may have. Real ones
// have a few hundred.
const maxPayload = 1 << 20

// Key is a public key that images are signed with.
type Key struct {
	id        string
	verifiers []signature.Verifier
}

// ParseKey decodes a public key in PEM, as `cosign generate-key-pair` writes
// it to cosign.pub.
func ParseKey(pem []byte) (*Key, error) {
	pub, err := cryptoutils.UnmarshalPEMToPublicKey(pem)
	if err != nil {
		return nil, fmt.Errorf("parsing a cosign public key: %w", err)
	}
	id, err := keys.ID(pub)
	if err != nil {
		return nil, err
	}
	v, err := signature.LoadVerifier(pub, crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("parsing a cosign public key: %w", err)
	}
	k := &Key{id: id, verifiers: []signature.Verifier{v}}
	if edKey, ok := pub.(ed25519.PublicKey); ok {
		// cosign signs with the prehashed variant, older versions with the pure
		// one; a signature by one never verifies as the other.
		v, err := signature.LoadVerifierWithOpts(edKey, options.WithED25519ph())
		if err != nil {
			return nil, fmt.Errorf("parsing a cosign public key: %w", err)
		}
		k.verifiers = append(k.verifiers, v)
	}
	return k, nil
}

// ID is the key's SSH SHA256 fingerprint, as everywhere in retrace.
func (k *Key) ID() string { return k.id }

// Reason says why an image is not signed by a key.
type Reason string

// The reasons.
const (
	NoSignatures Reason = "no signatures"                    // there are none at all
	OtherKey     Reason = "no signature by this key"         // there are some, by others, broken, or in a bundle of another image
	OtherImage   Reason = "the signature is for another one" // by this key, and it claims another digest
)

// Result is what a check found.
type Result struct {
	Signed bool
	Reason Reason // why not; empty if Signed
	// Found is how many signatures there are, by whomever.
	Found int
	// Claims are the digests that signatures by this key claim: the image's
	// own, if Signed.
	Claims []string
}

// String is the result as a sentence for people.
func (r Result) String() string {
	switch {
	case r.Signed:
		return "signed, and the signature claims this digest"
	case r.Reason == OtherImage:
		return fmt.Sprintf("a signature by this key was found, but it is for %s: it was copied from there", strings.Join(r.Claims, ", "))
	case r.Reason == OtherKey:
		return fmt.Sprintf("none of %d signatures is by this key and of this image", r.Found)
	}
	return string(r.Reason)
}

// CheckImage checks the signatures of the image ref, HOST/REPOSITORY@DIGEST,
// that its registry holds: those under cosign's tag, then Sigstore bundles. An
// error means that it could not tell.
func (k *Key) CheckImage(ctx context.Context, ref string) (Result, error) {
	digest, err := name.NewDigest(ref)
	if err != nil {
		return Result{}, fmt.Errorf("parsing image reference %q: %w", ref, err)
	}
	opts := registryOptions(ctx)
	tag, err := ociremote.SignatureTag(digest, opts...)
	if err != nil {
		return Result{}, fmt.Errorf("naming the signatures of %s: %w", ref, err)
	}
	signatures, err := ociremote.Signatures(tag, opts...)
	if err != nil {
		return Result{}, fmt.Errorf("reading the signatures of %s: %w", ref, err)
	}
	r, err := k.check(ctx, signatures, digest.DigestStr())
	if err != nil {
		return Result{}, fmt.Errorf("checking the signatures of %s: %w", ref, err)
	}
	if r.Signed {
		return r, nil
	}
	signed, found, err := k.checkBundles(ctx, digest)
	if err != nil {
		return Result{}, fmt.Errorf("checking the bundles of %s: %w", ref, err)
	}
	switch r.Found += found; {
	case signed:
		return Result{Signed: true, Found: r.Found, Claims: []string{digest.DigestStr()}}, nil
	case found > 0 && r.Reason == NoSignatures:
		r.Reason = OtherKey
	}
	return r, nil
}

// Signed is CheckImage for an auditor: whether image, which repository
// (HOST/REPOSITORY) holds, is signed by the key, and in words why, or why not.
func (k *Key) Signed(ctx context.Context, repository string, image schema.Key) (signed bool, why string, err error) {
	r, err := k.CheckImage(ctx, repository+"@"+string(image))
	return r.Signed, r.String(), err
}

// CheckLayout checks the signatures of the image in the OCI layout in dir, as
// `cosign save` lays it out. It reads the image's digest from the layout's
// index and does not hash the image itself.
func (k *Key) CheckLayout(ctx context.Context, dir string) (Result, error) {
	digest, err := layoutDigest(dir)
	if err != nil {
		return Result{}, fmt.Errorf("reading the image layout %s: %w", dir, err)
	}
	entity, err := ocilayout.SignedImageIndex(dir)
	if err != nil {
		return Result{}, fmt.Errorf("reading the image layout %s: %w", dir, err)
	}
	signatures, err := entity.Signatures()
	if err != nil {
		return Result{}, fmt.Errorf("reading the signatures in %s: %w", dir, err)
	}
	if signatures == nil {
		return Result{Reason: NoSignatures}, nil
	}
	r, err := k.check(ctx, signatures, digest)
	if err != nil {
		return Result{}, fmt.Errorf("checking the signatures in %s: %w", dir, err)
	}
	return r, nil
}

// layoutDigest is the digest of the one image of a layout that is neither its
// signatures nor its attestations.
func layoutDigest(dir string) (string, error) {
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return "", err
	}
	m, err := index.IndexManifest()
	if err != nil {
		return "", err
	}
	var images []string
	for _, d := range m.Manifests {
		switch d.Annotations["kind"] {
		case "dev.cosignproject.cosign/sigs", "dev.cosignproject.cosign/atts":
		default:
			images = append(images, d.Digest.String())
		}
	}
	if len(images) != 1 {
		return "", fmt.Errorf("its index names %d images, not one", len(images))
	}
	return images[0], nil
}

// check looks for a signature by the key that claims digest. One that is good
// settles it; short of that, one that could not be read leaves it open.
func (k *Key) check(ctx context.Context, signatures oci.Signatures, digest string) (Result, error) {
	image, err := v1.NewHash(digest)
	if err != nil {
		return Result{}, err
	}
	all, err := signatures.Get()
	if err != nil {
		return Result{}, err
	}
	r := Result{Found: len(all)}
	var unread error
	for _, s := range all {
		sig, err := read(s)
		if err != nil {
			unread = errors.Join(unread, err)
			continue
		}
		claim, byKey := k.claim(ctx, sig)
		if !byKey {
			continue
		}
		if k.verify(ctx, sig, image) {
			return Result{Signed: true, Found: len(all), Claims: []string{digest}}, nil
		}
		r.Claims = append(r.Claims, claim)
	}
	if unread == nil && ctx.Err() != nil {
		unread = ctx.Err()
	}
	switch {
	case unread != nil:
		return Result{}, unread
	case len(r.Claims) > 0:
		r.Reason = OtherImage
	case len(all) > 0:
		r.Reason = OtherKey
	default:
		r.Reason = NoSignatures
	}
	return r, nil
}

// read fetches a signature and leaves out the certificate and the log entry
// that may come with it: the key is given, and whether a certificate has
// expired says nothing about it.
//
// Reading comes before checking because cosign's own loop takes a signature
// that it could not read for one that does not match.
func read(s oci.Signature) (oci.Signature, error) {
	digest, err := s.Digest()
	if err != nil {
		return nil, err
	}
	size, err := s.Size()
	if err != nil {
		return nil, fmt.Errorf("reading signature %s: %w", digest, err)
	}
	if size > maxPayload {
		return nil, fmt.Errorf("signature %s is %d bytes; the limit is %d", digest, size, maxPayload)
	}
	payload, err := s.Payload()
	if err != nil {
		return nil, fmt.Errorf("reading signature %s: %w", digest, err)
	}
	text, err := s.Base64Signature()
	if err != nil {
		text = "" // a layer that is no signature, and verifies by no key
	}
	return static.NewSignature(payload, text)
}

// verify says whether sig is by the key and claims image.
func (k *Key) verify(ctx context.Context, sig oci.Signature, image v1.Hash) bool {
	return k.verifyClaim(ctx, sig, image, cosign.SimpleClaimVerifier)
}

// claim says whether sig is by the key, and which digest it claims.
func (k *Key) claim(ctx context.Context, sig oci.Signature) (digest string, byKey bool) {
	anything := func(oci.Signature, v1.Hash, map[string]any) error { return nil }
	if !k.verifyClaim(ctx, sig, v1.Hash{}, anything) {
		return "", false
	}
	return claimed(sig), true
}

func (k *Key) verifyClaim(ctx context.Context, sig oci.Signature, image v1.Hash, claims func(oci.Signature, v1.Hash, map[string]any) error) bool {
	for _, v := range k.verifiers {
		_, err := cosign.VerifyImageSignature(ctx, sig, image, &cosign.CheckOpts{
			SigVerifier:   v,
			ClaimVerifier: claims,
			IgnoreTlog:    true,
			IgnoreSCT:     true,
			Offline:       true,
		})
		if err == nil {
			return true
		}
	}
	return false
}

// registryOptions are how this package talks to a registry: with the
// credentials of the Docker configuration, and once.
func registryOptions(ctx context.Context) []ociremote.Option {
	return []ociremote.Option{ociremote.WithRemoteOptions(
		remote.WithContext(ctx),
		remote.WithAuthFromKeychain(authn.DefaultKeychain),
		remote.WithUserAgent("retrace"),
		remote.WithRetryBackoff(remote.Backoff{Steps: 1}),
	)}
}
