package verify

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"fmt"
	"slices"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/retrace-ledger/retrace/keys"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify/sigstore"
)

// Trusted returns what Signers needs of the key or the identity that a trust
// statement names. Its ID is derived, not taken from the statement.
func Trusted(t schema.Trust) (schema.PublicKey, error) {
	if t.Identity == nil {
		return keys.ParsePublic([]byte(t.Key))
	}
	who, err := sigstore.New(*t.Identity)
	if err != nil {
		return schema.PublicKey{}, err
	}
	return schema.PublicKey{ID: who.ID(), Key: who}, nil
}

// Signers returns the IDs of those of keys by which a signature of env
// verifies over its payload (DSSE v1, protocol.md), each once, in the order of
// keys. The key ID in a signature is a hint and decides nothing. An identity
// signed if env is a Sigstore bundle that verifies as its.
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
		if who, ok := k.Key.(*sigstore.Identity); ok {
			if who.Verify(env) == nil {
				ids = append(ids, k.ID)
			}
			continue
		}
		if slices.ContainsFunc(env.Signatures, func(s schema.Signature) bool { return SignedBy(k.Key, pae, s.Sig) }) {
			ids = append(ids, k.ID)
		}
	}
	return ids
}

// CheckIdentity refuses a Sigstore bundle that passes itself off as signed by one
// of the identities among keys: its certificate names one, and it does not
// verify as any's. The error says why. What names nobody among keys passes,
// and proves nothing.
func CheckIdentity(env schema.Envelope, keys []schema.PublicKey) error {
	subject, issuer := Certified(env)
	if subject == "" {
		return nil
	}
	var why error
	for _, k := range keys {
		who, ok := k.Key.(*sigstore.Identity)
		if !ok || !who.Is(subject, issuer) {
			continue
		}
		if err := who.Verify(env); err == nil {
			return nil
		} else if why == nil {
			why = &schema.FieldError{Field: "verificationMaterial", Reason: fmt.Sprintf("the bundle does not verify as signed by %s by %s: %v", subject, issuer, err)}
		}
	}
	return why
}

// Certified is whom the certificate of a Sigstore bundle names, and the login
// service that vouched for them; "" where there is none. Nothing is verified.
func Certified(env schema.Envelope) (subject, issuer string) {
	if env.Certificate == nil {
		return "", ""
	}
	subject, issuer, err := sigstore.Certified(env.Certificate)
	if err != nil {
		return "", ""
	}
	return subject, issuer
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
