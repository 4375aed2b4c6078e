package schema

import (
	"crypto/x509"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// This file holds Sigstore bundles that somebody hands in to what the format
// asks of them (sigstore/protobuf-specs, sigstore_bundle.proto). What the ledger
// holds already is read without: see ParseEnvelope.

const bundleType = "application/vnd.dev.sigstore.bundle"

// bundleVersions are the media types of bundles, as they are written in the
// wild.
var bundleVersions = map[string]string{
	bundleType + "+json;version=0.1": "0.1",
	bundleType + "+json;version=0.2": "0.2",
	bundleType + "+json;version=0.3": "0.3",
	bundleType + ".v0.1+json":        "0.1",
	bundleType + ".v0.2+json":        "0.2",
	bundleType + ".v0.3+json":        "0.3",
}

// isSigstore says whether a media type is that of a bundle, of any version.
func isSigstore(mediaType string) bool { return strings.HasPrefix(mediaType, bundleType) }

type certificateJSON struct {
	RawBytes []byte `json:"rawBytes"`
}

// checkBundle is nil for a DSSE envelope, and for a bundle around one that has
// all that its version asks for. A chain of certificates is taken in version 0.3
// too, which has no place for one: the reference of OpenSSF Model Signing writes
// it so.
func checkBundle(raw []byte) error {
	var b struct {
		MediaType string `json:"mediaType"`
		DSSE      *struct {
			Signatures []jsontext.Value `json:"signatures"`
		} `json:"dsseEnvelope"`
		MessageSignature jsontext.Value `json:"messageSignature"`
		Material         *struct {
			PublicKey *struct {
				Hint string `json:"hint"`
			} `json:"publicKey"`
			Certificate *certificateJSON `json:"certificate"`
			Chain       *struct {
				Certificates []certificateJSON `json:"certificates"`
			} `json:"x509CertificateChain"`
			Entries []struct {
				Promise *struct {
					Timestamp []byte `json:"signedEntryTimestamp"`
				} `json:"inclusionPromise"`
				Proof *struct {
					RootHash   []byte `json:"rootHash"`
					Checkpoint *struct {
						Envelope string `json:"envelope"`
					} `json:"checkpoint"`
				} `json:"inclusionProof"`
			} `json:"tlogEntries"`
		} `json:"verificationMaterial"`
	}
	if err := decode(raw, &b); err != nil {
		return err
	}
	if b.DSSE == nil && !isSigstore(b.MediaType) {
		return nil
	}
	version, ok := bundleVersions[strings.ReplaceAll(b.MediaType, " ", "")]
	switch {
	case b.MediaType == "":
		return fieldErrorf("mediaType", "missing; want %q", bundleType+".v0.3+json")
	case !ok:
		return fieldErrorf("mediaType", "%q is not a version of Sigstore bundles that is read: 0.1, 0.2 or 0.3", clip(b.MediaType))
	case b.DSSE != nil && b.MessageSignature != nil:
		return fieldErrorf("messageSignature", "stands beside a dsseEnvelope; a bundle has one of them")
	case b.DSSE == nil:
		return nil // ParseEnvelope says what it is instead
	case len(b.DSSE.Signatures) != 1:
		return fieldErrorf("dsseEnvelope.signatures", "has %d; in a bundle there is exactly one", len(b.DSSE.Signatures))
	case b.Material == nil:
		return fieldErrorf("verificationMaterial", "missing")
	}
	const field = "verificationMaterial"
	m, given := b.Material, 0
	for _, is := range []bool{m.PublicKey != nil, m.Certificate != nil, m.Chain != nil} {
		if is {
			given++
		}
	}
	switch {
	case given != 1:
		return fieldErrorf(field, "has %d of publicKey, certificate and x509CertificateChain; want one", given)
	case m.Chain != nil && len(m.Chain.Certificates) == 0:
		return fieldErrorf(field+".x509CertificateChain.certificates", "missing or empty")
	case m.Chain != nil:
		for i, c := range m.Chain.Certificates {
			if err := c.check(); err != nil {
				return under(field+".x509CertificateChain.certificates."+strconv.Itoa(i), err)
			}
		}
	case m.Certificate != nil:
		if err := m.Certificate.check(); err != nil {
			return under(field+".certificate", err)
		}
	}
	for i, e := range m.Entries {
		field := field + ".tlogEntries." + strconv.Itoa(i)
		switch {
		case version == "0.1" && (e.Promise == nil || len(e.Promise.Timestamp) == 0):
			return fieldErrorf(field+".inclusionPromise", "missing; version 0.1 asks for it")
		case version != "0.1" && e.Proof == nil:
			return fieldErrorf(field+".inclusionProof", "missing; version %s asks for it", version)
		case version != "0.1" && (e.Proof.Checkpoint == nil || e.Proof.Checkpoint.Envelope == ""):
			return fieldErrorf(field+".inclusionProof.checkpoint", "missing; version %s asks for it", version)
		}
	}
	return nil
}

func (c certificateJSON) check() error {
	if len(c.RawBytes) == 0 {
		return fieldErrorf("rawBytes", "missing")
	}
	if _, err := x509.ParseCertificate(c.RawBytes); err != nil {
		return fieldErrorf("rawBytes", "is not an X.509 certificate in DER: %v", err)
	}
	return nil
}
