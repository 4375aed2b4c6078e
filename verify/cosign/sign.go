package cosign

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/cosign/v2/pkg/oci"
	"github.com/sigstore/cosign/v2/pkg/oci/mutate"
	ociremote "github.com/sigstore/cosign/v2/pkg/oci/remote"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	"github.com/sigstore/sigstore/pkg/signature/payload"
)

// GenerateKey makes a key pair as `cosign generate-key-pair` does: private is
// cosign.key, encrypted with password, and public is cosign.pub.
func GenerateKey(password []byte) (private, public []byte, err error) {
	pair, err := cosign.GenerateKeyPair(func(bool) ([]byte, error) { return password, nil })
	if err != nil {
		return nil, nil, fmt.Errorf("generating a cosign key pair: %w", err)
	}
	return pair.PrivateBytes, pair.PublicBytes, nil
}

// Sign signs the image ref, HOST/REPOSITORY@DIGEST, as `cosign sign --key`
// does, and pushes the signature beside it. It tells no transparency log.
func Sign(ctx context.Context, ref string, private, password []byte) error {
	digest, err := name.NewDigest(ref)
	if err != nil {
		return fmt.Errorf("parsing image reference %q: %w", ref, err)
	}
	sig, err := sign(digest, private, password)
	if err != nil {
		return fmt.Errorf("signing %s: %w", ref, err)
	}
	opts := registryOptions(ctx)
	entity, err := ociremote.SignedEntity(digest, opts...)
	if err != nil {
		return fmt.Errorf("reading %s: %w", ref, err)
	}
	entity, err = mutate.AttachSignatureToEntity(entity, sig)
	if err != nil {
		return fmt.Errorf("attaching a signature to %s: %w", ref, err)
	}
	if err := ociremote.WriteSignatures(digest.Repository, entity, opts...); err != nil {
		return fmt.Errorf("pushing the signature of %s: %w", ref, err)
	}
	return nil
}

func sign(digest name.Digest, private, password []byte) (oci.Signature, error) {
	signer, err := cosign.LoadPrivateKey(private, password, nil)
	if err != nil {
		return nil, fmt.Errorf("loading the private key: %w", err)
	}
	claim, err := json.Marshal(payload.Cosign{Image: digest})
	if err != nil {
		return nil, err
	}
	raw, err := signer.SignMessage(bytes.NewReader(claim))
	if err != nil {
		return nil, err
	}
	return static.NewSignature(claim, base64.StdEncoding.EncodeToString(raw))
}

// claimed is the digest that a signature's payload claims; empty if it claims
// none.
func claimed(sig oci.Signature) string {
	raw, err := sig.Payload()
	if err != nil {
		return ""
	}
	var p payload.SimpleContainerImage
	if json.Unmarshal(raw, &p) != nil {
		return ""
	}
	return p.Critical.Image.DockerManifestDigest
}
