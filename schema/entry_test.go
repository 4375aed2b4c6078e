package schema

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func readVectors(t *testing.T, file string, v any) {
	t.Helper()
	raw, err := os.ReadFile("testdata/vectors/" + file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, v); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

// leafVector was computed by another implementation (Python), from
// docs/formats.md. Vectors are never edited: ledgers rest on them.
type leafVector struct {
	Salt, Header, Envelope, Body, Commitment, LeafHash string
}

func TestLeafVectors(t *testing.T) {
	var vectors []leafVector
	readVectors(t, "leaf.json", &vectors)
	if len(vectors) < 3 {
		t.Fatalf("%d vectors", len(vectors))
	}
	for _, v := range vectors {
		want, err := base64.StdEncoding.DecodeString(v.Body)
		if err != nil {
			t.Fatal(err)
		}
		b, err := ParseBody(want)
		if err != nil {
			t.Errorf("ParseBody(%s): %v", v.Body, err)
			continue
		}
		if got := hex.EncodeToString(b.Salt[:]); got != v.Salt {
			t.Errorf("salt = %s, want %s", got, v.Salt)
		}
		if string(b.Envelope) != v.Envelope {
			t.Errorf("envelope = %s, want %s", b.Envelope, v.Envelope)
		}
		got, err := b.Encode()
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("Encode = %q, %v, want %q", got, err, want)
		}
		c := Commitment(want)
		if hex.EncodeToString(c[:]) != v.Commitment {
			t.Errorf("Commitment = %x, want %s", c, v.Commitment)
		}
		if leaf := sha256.Sum256(append([]byte{0}, c[:]...)); hex.EncodeToString(leaf[:]) != v.LeafHash {
			t.Errorf("leaf hash = %x, want %s", leaf, v.LeafHash)
		}
	}
}

func exampleBody(t testing.TB) Body {
	t.Helper()
	env, err := NewEnvelope(PayloadType, []byte(`{}`), Signature{KeyID: "k", Sig: []byte{1}})
	if err != nil {
		t.Fatal(err)
	}
	return Body{
		Salt:     [SaltSize]byte{1, 2, 3},
		Header:   Header{RecordedAt: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC), Namespace: "default", Source: "run"},
		Envelope: env.Raw,
	}
}

// TestBodyHasOneEncoding flips every bit of a body: each change is refused or
// commits to something else, and whatever is accepted encodes to itself.
func TestBodyHasOneEncoding(t *testing.T) {
	b := exampleBody(t)
	raw, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	want := Commitment(raw)
	for i := range raw {
		for bit := range 8 {
			flipped := bytes.Clone(raw)
			flipped[i] ^= 1 << bit
			if Commitment(flipped) == want {
				t.Errorf("byte %d bit %d does not change the commitment", i, bit)
			}
			checkOneEncoding(t, flipped)
		}
	}
	for n := range raw {
		checkOneEncoding(t, raw[:n])
	}
}

func checkOneEncoding(t *testing.T, raw []byte) {
	t.Helper()
	b, err := ParseBody(raw)
	if err != nil {
		return
	}
	again, err := b.Encode()
	if err != nil || !bytes.Equal(again, raw) {
		t.Errorf("ParseBody takes %q, which encodes to %q (%v)", raw, again, err)
	}
}

func TestHeaderHasOneEncoding(t *testing.T) {
	const good = `{"namespace":"default","recordedAt":"2026-01-02T03:04:05Z"}`
	encode := func(header string) []byte {
		raw := append(make([]byte, SaltSize), 0, 0, byte(len(header)>>8), byte(len(header)))
		return append(append(raw, header...), "envelope"...)
	}
	if _, err := ParseBody(encode(good)); err != nil {
		t.Fatalf("ParseBody(%s): %v", good, err)
	}
	for header, want := range map[string]string{
		`{"recordedAt":"2026-01-02T03:04:05Z","namespace":"default"}`:                     "header: is not canonical JSON (RFC 8785) with times in UTC",
		`{"namespace":"default","recordedAt":"2026-01-02T03:04:05.0Z"}`:                   "header: is not canonical JSON (RFC 8785) with times in UTC",
		`{"namespace":"default","recordedAt":"2026-01-02T04:04:05+01:00"}`:                "header: is not canonical JSON (RFC 8785) with times in UTC",
		`{"namespace":"default","recordedAt":"2026-01-02T03:04:05.0000001Z"}`:             "header.recordedAt: 2026-01-02T03:04:05.0000001Z is finer than a microsecond",
		`{"namespace":"default","recordedAt":"2026-01-02T03:04:05Z","source":""}`:         "header: is not canonical JSON (RFC 8785) with times in UTC",
		`{"namespace":"default","recordedAt":"2026-01-02T03:04:05Z","who":"x"}`:           "header.who: unknown field",
		`{"namespace":"default","namespace":"other","recordedAt":"2026-01-02T03:04:05Z"}`: `header.namespace: not valid JSON at byte 23: duplicate object member name`,
		`{"recordedAt":"2026-01-02T03:04:05Z"}`:                                           "header: is not canonical JSON (RFC 8785) with times in UTC",
		`{"namespace":"default","recordedAt":"2026-01-02T03:04:05Z"} `:                    "header: is not canonical JSON (RFC 8785) with times in UTC",
		`{"namespace":"default","recordedAt":"2026-01-02T03:04:05Z"`:                      "header: not valid JSON at byte 58: unexpected EOF",
		`{"namespace":"\u0064efault","recordedAt":"2026-01-02T03:04:05Z"}`:                "header: is not canonical JSON (RFC 8785) with times in UTC",
		`{"namespace":"` + "\xff" + `","recordedAt":"2026-01-02T03:04:05Z"}`:              "header.namespace: not valid JSON at byte 14: invalid UTF-8",
		`{"namespace":1,"recordedAt":"2026-01-02T03:04:05Z"}`:                             "header.namespace: a JSON number is not allowed here",
	} {
		_, err := ParseBody(encode(header))
		if err == nil || err.Error() != want {
			t.Errorf("ParseBody with header %s\n got: %v\nwant: %s", header, err, want)
		}
	}
}

func TestEncodeRefusesFineTimes(t *testing.T) {
	b := exampleBody(t)
	b.Header.RecordedAt = b.Header.RecordedAt.Add(1)
	if _, err := b.Encode(); err == nil || err.Error() != "header.recordedAt: 2026-01-02T03:04:05.000006001Z is finer than a microsecond" {
		t.Errorf("Encode with nanoseconds: %v", err)
	}
	b.Header.RecordedAt = time.Date(2026, 1, 2, 4, 4, 5, 0, time.FixedZone("CET", 3600))
	raw, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := ParseBody(raw)
	if err != nil || !back.Header.RecordedAt.Equal(b.Header.RecordedAt) {
		t.Errorf("a time in another zone comes back as %v, %v", back.Header.RecordedAt, err)
	}
}

func TestEntry(t *testing.T) {
	b := exampleBody(t)
	raw, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	e, err := ParseEntry(7, raw)
	if err != nil {
		t.Fatal(err)
	}
	want := Entry{Index: 7, Commitment: Commitment(raw), State: Present, Header: b.Header, Body: raw}
	want.Envelope, err = ParseEnvelope(b.Envelope)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, e); diff != "" {
		t.Errorf("ParseEntry (-want +got):\n%s", diff)
	}
	if _, err := ParseEntry(7, raw[:40]); err == nil || err.Error() != "entry 7: body: header length 81 exceeds the 4 bytes present (limit 4096)" {
		t.Errorf("ParseEntry of half a body: %v", err)
	}
}

func FuzzParseBody(f *testing.F) {
	b := exampleBody(f)
	raw, err := b.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add(raw[:SaltSize+4])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) { checkOneEncoding(t, raw) })
}
