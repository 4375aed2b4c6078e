package keys

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"golang.org/x/mod/sumdb/note"

	"github.com/retrace-ledger/retrace/schema"
)

// Private is an Ed25519 signing key.
type Private struct {
	key ed25519.PrivateKey
	id  string
}

// Generate makes a new key.
func Generate() (*Private, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generating an Ed25519 key: %w", err)
	}
	return newPrivate(key)
}

// FromSeed returns the key of a 32-byte seed (RFC 8032). For test vectors.
func FromSeed(seed []byte) (*Private, error) {
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("an Ed25519 seed has %d bytes, not %d", ed25519.SeedSize, len(seed))
	}
	return newPrivate(ed25519.NewKeyFromSeed(seed))
}

func newPrivate(key ed25519.PrivateKey) (*Private, error) {
	id, err := ID(key.Public())
	if err != nil {
		return nil, err
	}
	return &Private{key: key, id: id}, nil
}

// ID is the key ID of a public key: its SSH SHA256 fingerprint, which is what
// DSSE libraries and Sigstore compare.
func ID(pub crypto.PublicKey) (string, error) {
	id, err := dsse.SHA256KeyID(pub)
	if err != nil {
		return "", fmt.Errorf("computing the ID of a %T: %w", pub, err)
	}
	return id, nil
}

// ID is the key ID of the key's public half.
func (p *Private) ID() string { return p.id }

// Public is the key's public half.
func (p *Private) Public() ed25519.PublicKey { return p.key.Public().(ed25519.PublicKey) }

// PublicPEM is the public half as SPKI in PEM.
func (p *Private) PublicPEM() (string, error) { return MarshalPublic(p.Public()) }

// MarshalPublic encodes a public key as SPKI in PEM.
func MarshalPublic(pub crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", fmt.Errorf("encoding a %T: %w", pub, err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), nil
}

// ParsePublic decodes SPKI in PEM. Ed25519, ECDSA and RSA keys are taken.
func ParsePublic(text []byte) (schema.PublicKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" {
		return schema.PublicKey{}, errors.New("not a public key: want a PEM block of type PUBLIC KEY")
	}
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return schema.PublicKey{}, fmt.Errorf("parsing a public key: %w", err)
	}
	id, err := ID(pub)
	if err != nil {
		return schema.PublicKey{}, err
	}
	return schema.PublicKey{ID: id, Key: pub}, nil
}

// SignPayload returns a DSSE envelope of payload signed by the key. Ed25519 is
// deterministic: the same payload gives the same envelope.
func (p *Private) SignPayload(payloadType string, payload []byte) (schema.Envelope, error) {
	sig := ed25519.Sign(p.key, dsse.PAE(payloadType, payload))
	return schema.NewEnvelope(payloadType, payload, schema.Signature{KeyID: p.id, Sig: sig})
}

// SignStatement returns a DSSE envelope of the statement's canonical JSON.
func (p *Private) SignStatement(s schema.Statement) (schema.Envelope, error) {
	payload, err := s.Encode()
	if err != nil {
		return schema.Envelope{}, err
	}
	return p.SignPayload(schema.PayloadType, payload)
}

// NoteSigner returns the key as a signer of C2SP signed notes under name.
func (p *Private) NoteSigner(name string) (note.Signer, error) {
	vkey, err := p.VKey(name)
	if err != nil {
		return nil, err
	}
	v, err := note.NewVerifier(vkey)
	if err != nil {
		return nil, fmt.Errorf("reading the verifier key %s: %w", vkey, err)
	}
	return &noteSigner{Verifier: v, key: p.key}, nil
}

// VKey is the public half in the form of a C2SP verifier key under name.
func (p *Private) VKey(name string) (string, error) {
	vkey, err := note.NewEd25519VerifierKey(name, p.Public())
	if err == nil {
		_, err = note.NewVerifier(vkey) // it is this that checks the name
	}
	if err != nil {
		return "", fmt.Errorf("%q cannot name a log key: %w", name, err)
	}
	return vkey, nil
}

type noteSigner struct {
	note.Verifier
	key ed25519.PrivateKey
}

func (s *noteSigner) Sign(msg []byte) ([]byte, error) { return ed25519.Sign(s.key, msg), nil }

// Create writes the key to a new file as PKCS #8 in PEM, readable by its owner
// only, and syncs it. It never replaces a file.
func (p *Private) Create(path string) error {
	der, err := x509.MarshalPKCS8PrivateKey(p.key)
	if err != nil {
		return fmt.Errorf("encoding a key for %s: %w", path, err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := pem.Encode(f, &pem.Block{Type: "PRIVATE KEY", Bytes: der}); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return f.Close()
}

// Load reads a key that Create wrote. A file that others may read is refused.
func Load(path string) (*Private, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s is readable by others (mode %04o): run chmod 600 on it, and consider the key disclosed", path, info.Mode().Perm())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("%s is not a private key: want a PEM block of type PRIVATE KEY", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parsing %s: %w", path, err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s holds a %T; retrace signs with Ed25519", path, parsed)
	}
	return newPrivate(key)
}
