package keys

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"golang.org/x/mod/sumdb/note"

	"github.com/retrace-ledger/retrace/schema"
)

// logKey is the key of the C2SP vectors: the seed 00…1f.
func logKey(t testing.TB) *Private {
	t.Helper()
	seed, err := hex.DecodeString("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f")
	if err != nil {
		t.Fatal(err)
	}
	key, err := FromSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// Vectors that x/mod, transparency-dev/formats and torchwood agree on.
const (
	vectorVKey = "retrace.example/log1+460c398b+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4"
	vectorNote = "retrace.example/log1\n3\nOF2jDzkXKCyJOd/4UZV+UZqxhGsTUaFMCts7EWMnQqo=\n" +
		"\n— retrace.example/log1 Rgw5i/xf5JKt/xS43maWSdESYPBW/CTlTT2apexSmyWesVjimJFn1cp6C4N6Hc2c3NqrmzQMCihbK8q0h6q/vWzEIwM=\n"
)

func TestNoteVectors(t *testing.T) {
	key := logKey(t)
	vkey, err := key.VKey("retrace.example/log1")
	if err != nil || vkey != vectorVKey {
		t.Errorf("VKey = %s, %v, want %s", vkey, err, vectorVKey)
	}
	signer, err := key.NoteSigner("retrace.example/log1")
	if err != nil {
		t.Fatal(err)
	}
	text, _, _ := strings.Cut(vectorNote, "\n\n")
	signed, err := note.Sign(&note.Note{Text: text + "\n"}, signer)
	if err != nil || string(signed) != vectorNote {
		t.Errorf("signed checkpoint = %q, %v, want %q", signed, err, vectorNote)
	}
	if _, err := key.VKey("two words"); err == nil || !strings.Contains(err.Error(), `"two words" cannot name a log key`) {
		t.Errorf("VKey of a name with a space: %v", err)
	}
	if _, err := key.NoteSigner("a+b"); err == nil {
		t.Error("NoteSigner takes a name with a plus sign")
	}
}

func TestSignPayloadVector(t *testing.T) {
	env, err := logKey(t).SignPayload("http://example.com/HelloWorld", []byte("hello world"))
	if err != nil {
		t.Fatal(err)
	}
	const want = "FDBuhhGZHrQaLnHA+xYDozNBKtORTT3EFhGJXczChh8PCqB471sDESzy2zguMGQOk8D+Ij2hb/eoUkqxc/qgCg=="
	if got := base64.StdEncoding.EncodeToString(env.Signatures[0].Sig); got != want {
		t.Errorf("signature = %s, want %s", got, want)
	}
}

func TestSignStatement(t *testing.T) {
	key, err := Generate()
	if err != nil {
		t.Fatal(err)
	}
	s, err := schema.NewStatement("https://example.com/p/v1", map[string]int{"b": 2, "a": 1}, schema.Descriptor{Digest: schema.DigestSet{"sha256": strings.Repeat("ab", 32)}})
	if err != nil {
		t.Fatal(err)
	}
	one, err := key.SignStatement(s)
	if err != nil {
		t.Fatal(err)
	}
	two, err := key.SignStatement(s)
	if err != nil || !bytes.Equal(one.Raw, two.Raw) {
		t.Errorf("signing twice gives %s and %s (%v)", one.Raw, two.Raw, err)
	}
	if one.Signatures[0].KeyID != key.ID() {
		t.Errorf("key ID = %s, want %s", one.Signatures[0].KeyID, key.ID())
	}
	if !ed25519.Verify(key.Public().(ed25519.PublicKey), dsse.PAE(one.PayloadType, one.Payload), one.Signatures[0].Sig) {
		t.Error("the signature does not verify")
	}
	if want := `{"_type":"https://in-toto.io/Statement/v1","predicate":{"a":1,"b":2},`; !strings.HasPrefix(string(one.Payload), want) {
		t.Errorf("payload %s is not canonical", one.Payload)
	}
}

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.key")
	key := logKey(t)
	if err := key.Create(path); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of a key file = %v, %v, want 0600", info.Mode().Perm(), err)
	}
	back, err := Load(path)
	if err != nil || back.ID() != key.ID() || !back.Public().(ed25519.PublicKey).Equal(key.Public()) {
		t.Errorf("Load = %v, %v, want %s", back, err, key.ID())
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	other, err := Generate()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Create(path); !os.IsExist(err) {
		t.Errorf("Create over a key: %v", err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("Create changed the key that was there (%v)", err)
	}
}

func TestLoadRefuses(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ecDER, err := x509.MarshalPKCS8PrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	block := func(typ string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der}))
	}
	for _, tt := range []struct {
		content string
		mode    os.FileMode
		want    string
	}{
		{"", 0o600, "PATH is not a private key: want a PEM block of type PRIVATE KEY"},
		{block("PUBLIC KEY", []byte{1}), 0o600, "PATH is not a private key: want a PEM block of type PRIVATE KEY"},
		{block("PRIVATE KEY", ecDER), 0o600, "PATH holds a *ecdsa.PrivateKey; retrace signs with Ed25519"},
		{block("PRIVATE KEY", []byte{1}), 0o600, "parsing PATH: "},
		{block("PRIVATE KEY", ecDER), 0o640, "PATH is readable by others (mode 0640): run chmod 600 on it, and consider the key disclosed"},
		{block("PRIVATE KEY", ecDER), 0o604, "PATH is readable by others (mode 0604): run chmod 600 on it, and consider the key disclosed"},
	} {
		path := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, tt.mode); err != nil {
			t.Fatal(err)
		}
		_, err := Load(path)
		if err == nil || !strings.HasPrefix(strings.ReplaceAll(err.Error(), path, "PATH"), tt.want) {
			t.Errorf("Load of %.20q: %v, want %s", tt.content, err, tt.want)
		}
	}
	if _, err := Load(filepath.Join(t.TempDir(), "absent")); !os.IsNotExist(err) {
		t.Errorf("Load of no file: %v", err)
	}
}

func TestParsePublic(t *testing.T) {
	key := logKey(t)
	text, err := key.PublicPEM()
	if err != nil {
		t.Fatal(err)
	}
	pub, err := ParsePublic([]byte(text))
	if err != nil || pub.ID != key.ID() || !key.Public().(ed25519.PublicKey).Equal(pub.Key) {
		t.Errorf("ParsePublic = %v, %v, want %s", pub, err, key.ID())
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, err = MarshalPublic(ec.Public())
	if err != nil {
		t.Fatal(err)
	}
	if pub, err := ParsePublic([]byte(text)); err != nil || !ec.PublicKey.Equal(pub.Key) || !strings.HasPrefix(pub.ID, "SHA256:") {
		t.Errorf("ParsePublic of an ECDSA key = %v, %v", pub, err)
	}
	for _, bad := range []string{"", "ssh-ed25519 AAAA", vectorVKey, strings.Replace(text, "PUBLIC", "PRIVATE", 2)} {
		if _, err := ParsePublic([]byte(bad)); err == nil || err.Error() != "not a public key: want a PEM block of type PUBLIC KEY" {
			t.Errorf("ParsePublic(%.20q): %v", bad, err)
		}
	}
	if _, err := FromSeed(make([]byte, 31)); err == nil || err.Error() != "an Ed25519 seed has 32 bytes, not 31" {
		t.Errorf("FromSeed of 31 bytes: %v", err)
	}
}

// FuzzParsePublic: no input panics, and what parses is written back the same.
func FuzzParsePublic(f *testing.F) {
	text, err := logKey(f).PublicPEM()
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(text))
	f.Add([]byte("-----BEGIN PUBLIC KEY-----\nMCow\n-----END PUBLIC KEY-----\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		pub, err := ParsePublic(raw)
		if err != nil {
			return
		}
		text, err := MarshalPublic(pub.Key)
		if err != nil {
			t.Fatalf("a key that parsed is not written: %v", err)
		}
		again, err := ParsePublic([]byte(text))
		if err != nil || again.ID != pub.ID {
			t.Errorf("parsed %s, written, parsed %s (%v)", pub.ID, again.ID, err)
		}
	})
}
