package verify

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"slices"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/retrace-ledger/retrace/schema"
)

// Signers returns the IDs of those of keys by which a signature of env
// verifies over its payload (DSSE v1, protocol.md), each once, in the order of
// keys. The key ID in a signature is a hint and decides nothing.
func Signers(env schema.Envelope, keys []schema.PublicKey) []string {
	if len(env.Signatures) == 0 || len(keys) == 0 {
		return nil
	}
	pae := dsse.PAE(env.PayloadType, env.Payload)
	var ids []string
	for _, k := range keys {
		if slices.Contains(ids, k.ID) {
			continue
		}
		if slices.ContainsFunc(env.Signatures, func(s schema.Signature) bool { return SignedBy(k.Key, pae, s.Sig) }) {
			ids = append(ids, k.ID)
		}
	}
	return ids
}

// SignedBy verifies one signature over msg. Ed25519 is checked by the standard library;
// ECDSA and RSA with the hashes that in-toto and Sigstore use for them.
func SignedBy(pub crypto.PublicKey, msg, sig []byte) bool {
	if key, ok := pub.(ed25519.PublicKey); ok {
		return len(sig) == ed25519.SignatureSize && ed25519.Verify(key, msg, sig)
	}
	for _, hash := range hashesFor(pub) {
		v, err := signature.LoadVerifier(pub, hash)
		if err == nil && v.VerifySignature(bytes.NewReader(sig), bytes.NewReader(msg)) == nil {
			return true
		}
	}
	return false
}

func hashesFor(pub crypto.PublicKey) []crypto.Hash {
	hashes := []crypto.Hash{crypto.SHA256}
	if key, ok := pub.(*ecdsa.PublicKey); ok {
		switch key.Curve.Params().BitSize {
		case 384:
			hashes = append(hashes, crypto.SHA384)
		case 521:
			hashes = append(hashes, crypto.SHA512)
		}
	}
	return hashes
}
