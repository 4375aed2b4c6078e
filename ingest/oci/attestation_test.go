package oci

import (
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/retrace-ledger/retrace/keys"
	"github.com/retrace-ledger/retrace/schema"
)

// signedProvenance is a provenance of an image, signed by somebody.
func signedProvenance(t *testing.T, digest, builder string) []byte {
	t.Helper()
	p := schema.Provenance{
		BuildDefinition: schema.BuildDefinition{BuildType: "https://example.com/build/v1", ExternalParameters: []byte(`{}`)},
		RunDetails:      schema.RunDetails{Builder: schema.Builder{ID: builder}},
	}
	st, err := schema.NewStatement(schema.ProvenanceV1, p, schema.Descriptor{Name: "image", Digest: schema.DigestSet{schema.SHA256: digest[len("sha256:"):]}})
	if err != nil {
		t.Fatal(err)
	}
	key, err := keys.FromSeed(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	env, err := key.SignStatement(st)
	if err != nil {
		t.Fatal(err)
	}
	return env.Raw
}

// TestAttestations records what is attested of an image byte for byte: under
// cosign's tag, also what is added there later, and as a referrer. What is no
// attestation is left out.
func TestAttestations(t *testing.T) {
	w := newWorld(t)
	img := image(t, "a", nil)
	digest := w.push("v1", img)
	attach := func(tag string, layers ...[]byte) {
		t.Helper()
		att := empty.Image
		for _, raw := range layers {
			var err error
			if att, err = mutate.AppendLayers(att, static.NewLayer(raw, types.MediaType(envelopeType))); err != nil {
				t.Fatal(err)
			}
		}
		if err := remote.Write(w.repo.Tag(tag), att); err != nil {
			t.Fatal(err)
		}
	}
	read := func(cursor string) (envelopes []string, skipped int, next string) {
		t.Helper()
		got := w.mustRead(cursor)
		for _, e := range got.events {
			if e.Envelope != nil {
				envelopes = append(envelopes, string(e.Envelope.Raw))
			}
			if e.Skipped != nil {
				skipped++
			}
			if e.Cursor != "" {
				cursor = e.Cursor
			}
		}
		return envelopes, skipped, cursor
	}
	tag := "sha256-" + digest[len("sha256:"):] + ".att"
	first, second := signedProvenance(t, digest, "https://example.com/first"), signedProvenance(t, digest, "https://example.com/second")
	attach(tag, first)
	envelopes, skipped, cursor := read("")
	if len(envelopes) != 1 || envelopes[0] != string(first) || skipped != 0 {
		t.Fatalf("%d attestations, %d skipped; want the one that is there, byte for byte", len(envelopes), skipped)
	}
	if envelopes, _, _ := read(cursor); len(envelopes) != 0 {
		t.Errorf("read again, %d attestations", len(envelopes))
	}
	attach(tag, first, second)
	if envelopes, _, cursor = read(cursor); len(envelopes) != 2 || envelopes[1] != string(second) {
		t.Errorf("after one was added: %d attestations", len(envelopes))
	}
	attach(tag, []byte(`{"payload":`))
	if envelopes, skipped, _ = read(cursor); len(envelopes) != 0 || skipped != 1 {
		t.Errorf("of what is none: %d attestations, %d skipped", len(envelopes), skipped)
	}
}
