package schema

import (
	"bytes"
	"crypto"
	"encoding/base64"
	"encoding/hex"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// PayloadType is the DSSE payload type of an in-toto statement.
const PayloadType = "application/vnd.in-toto+json"

// Envelope is a parsed DSSE envelope (DSSE v1, envelope.md), or a Sigstore
// bundle that carries one. Raw is what was received and what the ledger keeps;
// the other fields were decoded from it.
type Envelope struct {
	Raw         []byte
	PayloadType string
	Payload     []byte // decoded; the exact bytes that the signatures cover
	Signatures  []Signature
	Certificate []byte // DER, of a Sigstore bundle that carries one; not verified here
}

// Signature is one signature of an envelope. KeyID is an unauthenticated hint.
type Signature struct {
	KeyID string
	Sig   []byte
}

type envelopeJSON struct {
	PayloadType string          `json:"payloadType"`
	Payload     string          `json:"payload"`
	Signatures  []signatureJSON `json:"signatures"`
}

type signatureJSON struct {
	KeyID string `json:"keyid"`
	Sig   string `json:"sig"`
}

// bundleJSON is the part of a Sigstore bundle that retrace reads
// (sigstore/protobuf-specs, sigstore_bundle.proto).
type bundleJSON struct {
	MediaType            string         `json:"mediaType"`
	DSSE                 *envelopeJSON  `json:"dsseEnvelope"`
	MessageSignature     jsontext.Value `json:"messageSignature"`
	VerificationMaterial struct {
		Certificate *struct {
			RawBytes []byte `json:"rawBytes"`
		} `json:"certificate"`
		X509CertificateChain *struct {
			Certificates []struct {
				RawBytes []byte `json:"rawBytes"`
			} `json:"certificates"`
		} `json:"x509CertificateChain"`
	} `json:"verificationMaterial"`
}

// NewEnvelope returns a DSSE envelope around payload with the given
// signatures. An envelope without signatures is allowed and vouched for by
// nobody: what it states is graded as claimed.
func NewEnvelope(payloadType string, payload []byte, sigs ...Signature) (Envelope, error) {
	env := envelopeJSON{
		PayloadType: payloadType,
		Payload:     base64.StdEncoding.EncodeToString(payload),
		Signatures:  []signatureJSON{},
	}
	for _, s := range sigs {
		env.Signatures = append(env.Signatures, signatureJSON{s.KeyID, base64.StdEncoding.EncodeToString(s.Sig)})
	}
	raw, err := json.Marshal(env)
	if err != nil {
		return Envelope{}, err
	}
	return ParseEnvelope(raw)
}

// ParseEnvelope decodes a DSSE envelope or a Sigstore bundle around one. It
// checks form and limits, not signatures. Both base64 alphabets are accepted,
// as DSSE asks. The result keeps raw.
func ParseEnvelope(raw []byte) (Envelope, error) {
	if len(raw) > MaxEnvelope {
		return Envelope{}, fieldErrorf("", "envelope is %d bytes; the limit is %d", len(raw), MaxEnvelope)
	}
	env, certificate, err := decodeEnvelope(raw)
	if err != nil {
		return Envelope{}, err
	}
	e := Envelope{Raw: raw, Certificate: certificate}
	if env.PayloadType == "" {
		return Envelope{}, fieldErrorf("payloadType", "missing; want %q", PayloadType)
	}
	if env.Payload == "" {
		return Envelope{}, fieldErrorf("payload", "missing")
	}
	e.PayloadType = env.PayloadType
	if e.Payload, err = decodeBase64(env.Payload); err != nil {
		return Envelope{}, fieldErrorf("payload", "%v", err)
	}
	if env.Signatures == nil {
		return Envelope{}, fieldErrorf("signatures", "missing")
	}
	if len(env.Signatures) > 64 {
		return Envelope{}, fieldErrorf("signatures", "has %d; the limit is 64", len(env.Signatures))
	}
	for i, s := range env.Signatures {
		field := "signatures." + strconv.Itoa(i) + ".sig"
		if s.Sig == "" {
			return Envelope{}, fieldErrorf(field, "missing")
		}
		sig, err := decodeBase64(s.Sig)
		if err != nil {
			return Envelope{}, fieldErrorf(field, "%v", err)
		}
		e.Signatures = append(e.Signatures, Signature{KeyID: s.KeyID, Sig: sig})
	}
	return e, nil
}

// decodeEnvelope decodes an envelope, or the one in a Sigstore bundle with the
// bundle's certificate.
func decodeEnvelope(raw []byte) (env envelopeJSON, certificate []byte, err error) {
	// Most are bare envelopes, which are decoded once. What has any member of a
	// bundle, or does not decode, is looked at again, as one and as the other.
	var bare struct {
		envelopeJSON
		MediaType            jsontext.Value `json:"mediaType"`
		DSSE                 jsontext.Value `json:"dsseEnvelope"`
		MessageSignature     jsontext.Value `json:"messageSignature"`
		VerificationMaterial jsontext.Value `json:"verificationMaterial"`
	}
	if decode(raw, &bare) == nil && bare.MediaType == nil && bare.DSSE == nil && bare.MessageSignature == nil && bare.VerificationMaterial == nil {
		return bare.envelopeJSON, nil, nil
	}
	var probe bundleJSON
	if err := decode(raw, &probe); err != nil {
		return env, nil, err
	}
	if !isSigstore(probe.MediaType) {
		err := decode(raw, &env)
		return env, nil, err
	}
	if probe.DSSE == nil {
		return env, nil, &BareSignatureError{probe.signed()}
	}
	return *probe.DSSE, probe.leafCertificate(), nil
}

// BareSignatureError says that a Sigstore bundle signs bytes and no statement.
type BareSignatureError struct {
	Digest Key // of the bytes; "" where the bundle does not say
}

func (e *BareSignatureError) Error() string { return e.Unwrap().Error() }

// Unwrap is the same as a *FieldError.
func (e *BareSignatureError) Unwrap() error {
	what := "bytes"
	if e.Digest != "" {
		what = "the bytes " + string(e.Digest)
	}
	return fieldErrorf("dsseEnvelope", "missing; the bundle signs %s with a bare message signature, which states nothing about them; sign a statement", what)
}

// signed is the digest of the bytes that a bare message signature signs.
func (b *bundleJSON) signed() Key {
	var m struct {
		MessageDigest struct {
			Algorithm string `json:"algorithm"`
			Digest    []byte `json:"digest"`
		} `json:"messageDigest"`
	}
	if decode(b.MessageSignature, &m) != nil {
		return ""
	}
	alg, ok := map[string]string{"SHA2_256": SHA256, "SHA2_384": SHA384, "SHA2_512": SHA512}[m.MessageDigest.Algorithm]
	if k := alg + ":" + hex.EncodeToString(m.MessageDigest.Digest); ok && checkDigest(alg, Key(k).Hex()) == nil {
		return Key(k)
	}
	return ""
}

func (b *bundleJSON) leafCertificate() []byte {
	m := b.VerificationMaterial
	switch {
	case m.Certificate != nil:
		return m.Certificate.RawBytes
	case m.X509CertificateChain != nil && len(m.X509CertificateChain.Certificates) > 0:
		return m.X509CertificateChain.Certificates[0].RawBytes
	}
	return nil
}

// decodeBase64 takes standard and URL-safe base64, padded or not, but never
// with non-zero trailing bits.
func decodeBase64(s string) ([]byte, error) {
	enc := base64.StdEncoding
	if strings.ContainsAny(s, "-_") {
		enc = base64.URLEncoding
	}
	if !strings.HasSuffix(s, "=") {
		enc = enc.WithPadding(base64.NoPadding)
	}
	return enc.Strict().DecodeString(s)
}

// Statement decodes the statement in the envelope.
func (e Envelope) Statement() (Statement, error) {
	if e.PayloadType != PayloadType && !isInTotoType(e.PayloadType) {
		return Statement{}, fieldErrorf("payloadType", "%q is not an in-toto statement; want %q", clip(e.PayloadType), PayloadType)
	}
	return ParseStatement(e.Payload)
}

// isInTotoType reports whether t is application/vnd.in-toto.PREDICATE+json.
func isInTotoType(t string) bool {
	return strings.HasPrefix(t, "application/vnd.in-toto.") && strings.HasSuffix(t, "+json")
}

// Identity is what makes two envelopes the same fact within a namespace: the
// payload where every signature is by the ledger's own observer, the whole
// envelope otherwise (DESIGN 12.2).
func (e Envelope) Identity(observer string) []byte {
	own := len(e.Signatures) > 0 && observer != ""
	for _, s := range e.Signatures {
		own = own && s.KeyID == observer
	}
	if own {
		return bytes.Join([][]byte{[]byte("payload"), []byte(e.PayloadType), e.Payload}, []byte{0})
	}
	return bytes.Join([][]byte{[]byte("envelope"), e.Raw}, []byte{0})
}

// PublicKey is a key that signs envelopes, with the ID that its signatures
// carry.
type PublicKey struct {
	ID  string // "SHA256:…", the SSH fingerprint of the key
	Key crypto.PublicKey
}
