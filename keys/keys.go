package keys

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"golang.org/x/mod/sumdb/note"

	"github.com/retrace-ledger/retrace/schema"
)

// Private is a signing key.
type Private struct {
	public crypto.PublicKey
	id     string
	sign   func(msg []byte) ([]byte, error)
	seed   ed25519.PrivateKey // nil if another package holds the key
}

// New is the key whose public half is public and which sign signs with: the
// whole message, for Ed25519 without a prehash, for ECDSA with SHA-256 and in
// ASN.1.
func New(public crypto.PublicKey, sign func(msg []byte) ([]byte, error)) (*Private, error) {
	id, err := ID(public)
	if err != nil {
		return nil, err
	}
	return &Private{public: public, id: id, sign: sign}, nil
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
	p, err := New(key.Public(), func(msg []byte) ([]byte, error) { return ed25519.Sign(key, msg), nil })
	if err != nil {
		return nil, err
	}
	p.seed = key
	return p, nil
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
func (p *Private) Public() crypto.PublicKey { return p.public }

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

// SignPayload returns a DSSE envelope of payload signed by the key, and by
// others after it. Ed25519 is deterministic: the same payload gives the same
// envelope. ECDSA is not.
func (p *Private) SignPayload(payloadType string, payload []byte, others ...*Private) (schema.Envelope, error) {
	var sigs []schema.Signature
	pae := dsse.PAE(payloadType, payload)
	for _, k := range append([]*Private{p}, others...) {
		sig, err := k.sign(pae)
		if err != nil {
			return schema.Envelope{}, fmt.Errorf("signing with the key %s: %w", k.id, err)
		}
		sigs = append(sigs, schema.Signature{KeyID: k.id, Sig: sig})
	}
	return schema.NewEnvelope(payloadType, payload, sigs...)
}

// SignStatement returns a DSSE envelope of the statement's canonical JSON,
// signed by the key.
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
	return &noteSigner{Verifier: v, sign: p.sign}, nil
}

// VKey is the public half in the form of a C2SP verifier key under name. Only
// an Ed25519 key has one (C2SP tlog-checkpoint).
func (p *Private) VKey(name string) (string, error) { return VKey(name, p.public) }

// VKey is an Ed25519 public key in the form of a C2SP verifier key under name.
func VKey(name string, public crypto.PublicKey) (string, error) {
	pub, ok := public.(ed25519.PublicKey)
	if !ok {
		return "", &NotEd25519Error{public}
	}
	vkey, err := note.NewEd25519VerifierKey(name, pub)
	if err == nil {
		_, err = note.NewVerifier(vkey) // it is this that checks the name
	}
	if err != nil {
		return "", fmt.Errorf("%q cannot name a log key: %w", name, err)
	}
	return vkey, nil
}

// ParseVKey decodes the public key in a C2SP verifier key (C2SP signed-note,
// algorithm 0x01).
func ParseVKey(vkey string) (schema.PublicKey, error) {
	v, err := note.NewVerifier(vkey) // checks name, hash and algorithm
	if err != nil {
		return schema.PublicKey{}, err
	}
	_, encoded, _ := strings.Cut(strings.TrimPrefix(vkey, v.Name()+"+"), "+")
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(raw) != 1+ed25519.PublicKeySize {
		return schema.PublicKey{}, fmt.Errorf("%s holds no Ed25519 key", vkey)
	}
	pub := ed25519.PublicKey(raw[1:])
	id, err := ID(pub)
	return schema.PublicKey{ID: id, Key: pub}, err
}

// NotEd25519Error says that a key cannot sign checkpoints.
type NotEd25519Error struct{ Public crypto.PublicKey }

func (e *NotEd25519Error) Error() string {
	return fmt.Sprintf("a log key must be Ed25519, which is what checkpoints are signed with (C2SP tlog-checkpoint), and this is %s", Algorithm(e.Public))
}

// Algorithm names what a public key is of, in words.
func Algorithm(public crypto.PublicKey) string {
	switch k := public.(type) {
	case ed25519.PublicKey:
		return "Ed25519"
	case *ecdsa.PublicKey:
		return "ECDSA " + k.Curve.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA with %d bits", k.N.BitLen())
	}
	return fmt.Sprintf("a %T", public)
}

type noteSigner struct {
	note.Verifier
	sign func(msg []byte) ([]byte, error)
}

func (s *noteSigner) Sign(msg []byte) ([]byte, error) { return s.sign(msg) }

// Create writes the key to a new file as PKCS #8 in PEM, readable by its owner
// only, and syncs it. It never replaces a file. Only a key of Generate,
// FromSeed or Load can be written.
func (p *Private) Create(path string) error {
	text, err := p.Marshal()
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return CreateFile(path, text)
}

// Marshal encodes the private key as PKCS #8 in PEM. Only a key of Generate,
// FromSeed or Load has this text.
func (p *Private) Marshal() ([]byte, error) {
	if p.seed == nil {
		return nil, fmt.Errorf("the private key %s is held by somebody else's code", p.id)
	}
	der, err := x509.MarshalPKCS8PrivateKey(p.seed)
	if err != nil {
		return nil, fmt.Errorf("encoding the key %s: %w", p.id, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// CreateFile writes the text of a private key to a new file, readable by its
// owner only, and syncs it. It never replaces a file.
func CreateFile(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(text); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return f.Close()
}

// maxFile is how large the file of a key may be.
const maxFile = 64 << 10 // bytes

// ReadFile reads the text of a private key. A file that others may read is
// refused.
func ReadFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s is readable by others (mode %04o): run chmod 600 on it, and consider the key disclosed", path, info.Mode().Perm())
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("%s has %d bytes; the file of a key has at most %d", path, info.Size(), maxFile)
	}
	return os.ReadFile(path)
}

// Load reads a key that Create wrote. A file that others may read is refused.
func Load(path string) (*Private, error) {
	text, err := ReadFile(path)
	if err != nil {
		return nil, err
	}
	return Parse(path, text)
}

// Parse decodes what Create wrote to the file path.
func Parse(path string, text []byte) (*Private, error) {
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
