package cosign

import (
	"bytes"
	"crypto"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/options"

	"github.com/retrace-ledger/retrace/keys"
)

// ErrPassword says that a key file does not open with the password.
var ErrPassword = errors.New("the password does not open it, or the file is damaged")

// IsPrivateKey says whether text is a private key as `cosign
// generate-key-pair` and `cosign import-key-pair` write it.
func IsPrivateKey(text []byte) bool {
	block, _ := pem.Decode(text)
	return block != nil && (block.Type == cosign.SigstorePrivateKeyPemType || block.Type == cosign.CosignPrivateKeyPemType)
}

// LoadPrivate decrypts a private key as cosign writes it. It signs as DSSE and
// C2SP signed notes want: Ed25519 without the prehash that cosign itself uses
// for images, ECDSA with SHA-256.
func LoadPrivate(text, password []byte) (*keys.Private, error) {
	signer, err := cosign.LoadPrivateKey(text, password, &[]signature.LoadOption{options.WithHash(crypto.SHA256)})
	if err != nil {
		return nil, fmt.Errorf("%w (%w)", ErrPassword, err)
	}
	public, err := signer.PublicKey()
	if err != nil {
		return nil, err
	}
	return keys.New(public, func(msg []byte) ([]byte, error) { return signer.SignMessage(bytes.NewReader(msg)) })
}
