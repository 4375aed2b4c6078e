package schema

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
)

// TestDSSEVectors holds envelopes to signatures made by another
// implementation from the seed 00…1f.
func TestDSSEVectors(t *testing.T) {
	seed, err := hex.DecodeString("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f")
	if err != nil {
		t.Fatal(err)
	}
	key := ed25519.NewKeyFromSeed(seed)
	const statement = `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"m","digest":{"sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}}],"predicateType":"https://example.com/p/v1","predicate":{}}`
	for _, tt := range []struct{ payloadType, payload, sig string }{
		{"http://example.com/HelloWorld", "hello world", "FDBuhhGZHrQaLnHA+xYDozNBKtORTT3EFhGJXczChh8PCqB471sDESzy2zguMGQOk8D+Ij2hb/eoUkqxc/qgCg=="},
		{PayloadType, statement, "Q2gjYVuCxhExSyiFCL9CK4MgvTc9q0X/3p0XsFn6c48bmJ0y9lBOnAG8zQTLTDYRYreW5LpOChJENrFxfJHMBw=="},
	} {
		sig := ed25519.Sign(key, dsse.PAE(tt.payloadType, []byte(tt.payload)))
		if got := base64.StdEncoding.EncodeToString(sig); got != tt.sig {
			t.Errorf("signature of %q = %s, want %s", tt.payload, got, tt.sig)
		}
		env, err := NewEnvelope(tt.payloadType, []byte(tt.payload), Signature{KeyID: "k", Sig: sig})
		if err != nil {
			t.Fatal(err)
		}
		if string(env.Payload) != tt.payload || env.PayloadType != tt.payloadType {
			t.Errorf("payload = %q of type %q", env.Payload, env.PayloadType)
		}
		if !ed25519.Verify(key.Public().(ed25519.PublicKey), dsse.PAE(env.PayloadType, env.Payload), env.Signatures[0].Sig) {
			t.Errorf("the signature of %q does not verify", tt.payload)
		}
	}
}

// encodings of the bytes fb ff fe, which need both alphabets' odd characters.
func TestBothBase64Alphabets(t *testing.T) {
	for _, payload := range []string{"+//+", "-__-", "+//+AA==", "-__-AA==", "-__-AA", "+//+AA"} {
		raw := []byte(`{"payloadType":"t","payload":"` + payload + `","signatures":[{"sig":"` + payload + `"}]}`)
		env, err := ParseEnvelope(raw)
		if err != nil {
			t.Errorf("payload %s: %v", payload, err)
			continue
		}
		if want := []byte{0xfb, 0xff, 0xfe}; !bytes.Equal(env.Payload[:3], want) || !bytes.Equal(env.Signatures[0].Sig[:3], want) {
			t.Errorf("payload %s = %x, signature %x", payload, env.Payload, env.Signatures[0].Sig)
		}
	}
}

// TestParseEnvelopeBesideABundle has bare envelopes with members of a bundle,
// and a bundle with members of a bare envelope.
func TestParseEnvelopeBesideABundle(t *testing.T) {
	const bundle = `"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json"`
	for raw, want := range map[string]string{
		`{"payloadType":"t","payload":"AA==","signatures":[],"mediaType":"x"}`:                                                               "t",
		`{"payloadType":"t","payload":"AA==","signatures":[],"mediaType":null}`:                                                              "t",
		`{"payloadType":"t","payload":"AA==","signatures":[],"messageSignature":{}}`:                                                         "t",
		`{"payloadType":"t","payload":"AA==","signatures":[],"dsseEnvelope":{"payloadType":"u","payload":"AQ==","signatures":[]}}`:           "t",
		`{"payloadType":"t","payload":7,` + bundle + `,"dsseEnvelope":{"payloadType":"u","payload":"AQ==","signatures":[]}}`:                 "u",
		`{"payloadType":"t","payload":"AA==","signatures":[],"verificationMaterial":7}`:                                                      "verificationMaterial: a JSON number is not allowed here",
		`{"payloadType":"t","payload":"AA==","signatures":[],"mediaType":"x","unknown":{"payload":"AQ=="}}`:                                  "t",
		`{"payloadType":"t","payload":7,"signatures":[],"mediaType":"x"}`:                                                                    "payload: a JSON number is not allowed here",
		`{"payloadType":"t","payload":"AA==","signatures":[],` + bundle + `}`:                                                                "dsseEnvelope: missing; the bundle signs bytes with a bare message signature, which states nothing about them; sign a statement",
		`{` + bundle + `,"dsseEnvelope":{"payloadType":"u","payload":"AQ==","signatures":[]},"messageSignature":{"signature":"AA=="}}`:       "u",
		`{` + bundle + `,"dsseEnvelope":{"payloadType":"u","payload":"AQ==","signatures":[]},"payloadType":"t","payload":"","signatures":7}`: "u",
	} {
		env, err := ParseEnvelope([]byte(raw))
		got := env.PayloadType
		if err != nil {
			got = message(err)
		}
		if got != want {
			t.Errorf("ParseEnvelope(%s)\n got: %s\nwant: %s", raw, got, want)
		}
	}
}

func TestParseEnvelopeRefuses(t *testing.T) {
	sigs := func(n int) string { return strings.TrimSuffix(strings.Repeat(`{"sig":"AA=="},`, n), ",") }
	for raw, want := range map[string]string{
		``:                                     "not valid JSON at byte 0: unexpected EOF",
		`{}`:                                   `payloadType: missing; want "application/vnd.in-toto+json"`,
		`[]`:                                   "a JSON array is not allowed here",
		`{"payloadType":"t"}`:                  "payload: missing",
		`{"payloadType":"t","payload":"AA=="}`: "signatures: missing",
		`{"payloadType":"t","payload":"A","signatures":[]}`:                                   "payload: illegal base64 data at input byte 0",
		`{"payloadType":"t","payload":"AB==","signatures":[]}`:                                "payload: illegal base64 data at input byte 2",
		`{"payloadType":"t","payload":"+_==","signatures":[]}`:                                "payload: illegal base64 data at input byte 0",
		`{"payloadType":"t","payload":"AA==","signatures":[{"sig":"AA=="},{"keyid":"k"}]}`:    "signatures.1.sig: missing",
		`{"payloadType":"t","payload":"AA==","signatures":[{"sig":"%"}]}`:                     "signatures.0.sig: illegal base64 data at input byte 0",
		`{"payloadType":"t","payload":"AA==","signatures":{}}`:                                "signatures: a JSON object is not allowed here",
		`{"payloadType":"t","payload":7,"signatures":[]}`:                                     "payload: a JSON number is not allowed here",
		`{"payloadType":"t","payload":"AA==","payload":"AQ==","signatures":[]}`:               "payload: not valid JSON at byte 36: duplicate object member name",
		`{"payloadType":"t","payload":"AA==","signatures":[]`:                                 "not valid JSON at byte 51: unexpected EOF",
		`{"payloadType":"t","payload":"AA==","signatures":[]} x`:                              "not valid JSON at byte 53: invalid character 'x' after top-level value",
		`{"payloadType":"t","payload":"AA==","signatures":[` + sigs(65) + `]}`:                "signatures: has 65; the limit is 64",
		`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","messageSignature":{}}`: "dsseEnvelope: missing; the bundle signs bytes with a bare message signature, which states nothing about them; sign a statement",
	} {
		if _, err := ParseEnvelope([]byte(raw)); message(err) != want {
			t.Errorf("ParseEnvelope(%s)\n got: %v\nwant: %s", raw, err, want)
		}
	}
	if _, err := ParseEnvelope(make([]byte, MaxEnvelope+1)); message(err) != "envelope is 4194305 bytes; the limit is 4194304" {
		t.Errorf("ParseEnvelope of too much: %v", err)
	}
}

func TestEnvelopeIdentity(t *testing.T) {
	env := func(payload string, keyids ...string) Envelope {
		var sigs []Signature
		for i, id := range keyids {
			sigs = append(sigs, Signature{KeyID: id, Sig: []byte{byte(i + 1)}})
		}
		e, err := NewEnvelope(PayloadType, []byte(payload), sigs...)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	again := env("a", "observer")
	again.Raw = append([]byte(" "), again.Raw...)
	for _, tt := range []struct {
		what string
		a, b Envelope
		same bool
	}{
		{"the observer's payload in two envelopes", env("a", "observer"), again, true},
		{"two payloads of the observer", env("a", "observer"), env("b", "observer"), false},
		{"the observer and somebody else", env("a", "observer"), env("a", "observer", "other"), false},
		{"nobody and the observer", env("a"), env("a", "observer"), false},
		{"one envelope of somebody else", env("a", "other"), env("a", "other"), true},
		{"one payload of two others", env("a", "other"), env("a", "third"), false},
		{"one payload without a signature", env("a"), env("a"), true},
	} {
		if got := bytes.Equal(tt.a.Identity("observer"), tt.b.Identity("observer")); got != tt.same {
			t.Errorf("%s: same fact = %v, want %v", tt.what, got, tt.same)
		}
	}
	if bytes.Equal(env("a", "").Identity(""), again.Identity("")) {
		t.Error("without an observer, envelopes that differ are one fact")
	}
}

// FuzzParseEnvelope: what parses is kept byte for byte, and encoding what was
// decoded gives the same payload and signatures.
func FuzzParseEnvelope(f *testing.F) {
	f.Add([]byte(`{"payloadType":"application/vnd.in-toto+json","payload":"e30=","signatures":[{"keyid":"k","sig":"AA=="}]}`))
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","dsseEnvelope":{"payloadType":"t","payload":"-__-","signatures":[]},"verificationMaterial":{"certificate":{"rawBytes":"AA=="}}}`))
	for _, file := range corpusSeeds("slsa") {
		if raw, err := os.ReadFile(file); err == nil {
			f.Add(raw)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := ParseEnvelope(raw)
		if err != nil {
			return
		}
		if !bytes.Equal(e.Raw, raw) {
			t.Error("the envelope was not kept byte for byte")
		}
		if len(raw) > MaxEnvelope/2 {
			return
		}
		again, err := NewEnvelope(e.PayloadType, e.Payload, e.Signatures...)
		if err != nil {
			t.Fatalf("encoding what was decoded: %v", err)
		}
		if diff := cmp.Diff([]any{e.PayloadType, e.Payload, e.Signatures}, []any{again.PayloadType, again.Payload, again.Signatures}); diff != "" {
			t.Errorf("decoded, encoded, decoded:\n%s", diff)
		}
		_, _ = e.Statement()
	})
}
