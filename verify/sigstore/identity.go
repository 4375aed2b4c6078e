package sigstore

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"

	"github.com/retrace-ledger/retrace/schema"
)

// Identity checks who signed with a certificate. It never changes, and may be
// used from many goroutines.
type Identity struct {
	id       string
	subject  string
	issuer   string
	verifier *verify.Verifier
	policy   verify.PolicyOption
}

// New reads the trusted root of an identity. The root has to name a certificate
// authority, and a transparency log or a timestamp authority: certificates live
// for minutes, and somebody has to say that one was valid when it signed.
//
// What the root names is asked of every bundle: where it has transparency logs,
// the signature has to be in one; where it has logs of certificates, the
// certificate has to be in one.
func New(who schema.Identity) (*Identity, error) {
	if len(who.TrustedRoot) > schema.MaxTrustedRoot {
		return nil, fmt.Errorf("the trusted root has %d bytes; the limit is %d", len(who.TrustedRoot), schema.MaxTrustedRoot)
	}
	r, err := root.NewTrustedRootFromJSON([]byte(who.TrustedRoot))
	if err != nil {
		return nil, fmt.Errorf("reading the trusted root: %w", err)
	}
	options := []verify.VerifierOption{verify.WithObserverTimestamps(1)}
	switch {
	case len(r.FulcioCertificateAuthorities()) == 0:
		return nil, errors.New("the trusted root names no certificate authority")
	case len(r.RekorLogs()) > 0:
		options = append(options, verify.WithTransparencyLog(1))
	case len(r.TimestampingAuthorities()) == 0:
		return nil, errors.New("the trusted root names neither a transparency log nor a timestamp authority, so that nobody could tell whether a certificate was valid when it signed")
	}
	if len(r.CTLogs()) > 0 {
		options = append(options, verify.WithSignedCertificateTimestamps(1))
	}
	v, err := verify.NewVerifier(r, options...)
	if err != nil {
		return nil, fmt.Errorf("reading the trusted root: %w", err)
	}
	matcher, err := verify.NewShortCertificateIdentity(who.Issuer, "", who.Subject, "")
	if err != nil {
		return nil, fmt.Errorf("an identity is a subject and the issuer that vouches for it: %w", err)
	}
	return &Identity{who.ID(), who.Subject, who.Issuer, v, verify.WithCertificateIdentity(matcher)}, nil
}

// ID names the identity, as schema.Identity does.
func (i *Identity) ID() string { return i.id }

// Is says whether certificates that name the identity name subject and issuer.
func (i *Identity) Is(subject, issuer string) bool { return subject == i.subject && issuer == i.issuer }

// Verify is nil if env is a Sigstore bundle that the identity signed, and says
// why not otherwise. What the bundle's statement says of whom is not its
// concern.
func (i *Identity) Verify(env schema.Envelope) error {
	if env.Certificate == nil {
		return errors.New("it is not a Sigstore bundle with a certificate")
	}
	// Most bundles that are looked at are by somebody else: parsing the
	// certificate is cheap, and tells.
	subject, issuer, err := Certified(env.Certificate)
	if err != nil {
		return err
	}
	if !i.Is(subject, issuer) {
		return fmt.Errorf("its certificate is of %s by %s, not of %s by %s", subject, issuer, i.subject, i.issuer)
	}
	b, err := i.verify(env.Raw)
	if err != nil {
		return err
	}
	// The library has read the bundle with another parser than ours: what it
	// verified has to be what we record.
	signed, err := b.Envelope()
	if err != nil {
		return err
	}
	payload, err := signed.DecodeB64Payload()
	if err != nil {
		return err
	}
	if !bytes.Equal(payload, env.Payload) || signed.PayloadType != env.PayloadType {
		return errors.New("it can be read in two ways, and what is signed is not what was read")
	}
	return nil
}

// VerifyBare is Verify for a bundle over a bare message signature: whether the
// identity signed the bytes whose digest the bundle states.
func (i *Identity) VerifyBare(raw []byte) error {
	_, err := i.verify(raw)
	return err
}

func (i *Identity) verify(raw []byte) (b *bundle.Bundle, err error) {
	// What is parsed here is anybody's, by much code that is not ours.
	defer func() {
		if p := recover(); p != nil {
			b, err = nil, fmt.Errorf("reading the bundle: %v", p)
		}
	}()
	b = new(bundle.Bundle)
	if err := b.UnmarshalJSON(raw); err != nil {
		return nil, fmt.Errorf("reading the bundle: %w", err)
	}
	artifact := verify.WithoutArtifactUnsafe() // a statement names its subjects itself
	if m := b.GetMessageSignature(); m != nil {
		artifact = verify.WithArtifactDigest("sha256", m.GetMessageDigest().GetDigest())
	}
	if _, err := i.verifier.Verify(b, verify.NewPolicy(artifact, i.policy)); err != nil {
		return nil, errors.New(strings.TrimPrefix(strings.Join(strings.Fields(err.Error()), " "), "failed to "))
	}
	return b, nil
}

// Certified is whom a certificate (DER) names, and the login service that
// vouched for them. Nothing is verified.
func Certified(der []byte) (subject, issuer string, err error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return "", "", fmt.Errorf("reading the certificate: %w", err)
	}
	s, err := certificate.SummarizeCertificate(cert)
	if err != nil {
		return "", "", fmt.Errorf("reading the certificate: %w", err)
	}
	return s.SubjectAlternativeName, s.Issuer, nil
}
