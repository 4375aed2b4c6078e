package oci

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"

	"github.com/retrace-ledger/retrace/schema"
)

// TestSimpleSignatures records what cosign signed of an image and keeps under its
// tag .sig, also what is added there later; a signature of another image is left
// out.
func TestSimpleSignatures(t *testing.T) {
	w := newWorld(t)
	digest := w.push("v1", image(t, "a", nil))
	tag := "sha256-" + digest[len("sha256:"):] + ".sig"
	payload := func(of string) string {
		return fmt.Sprintf(`{"critical":{"identity":{"docker-reference":""},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`, of)
	}
	sign := func(payloads ...string) {
		t.Helper()
		img := empty.Image
		for i, p := range payloads {
			var err error
			img, err = mutate.Append(img, mutate.Addendum{Layer: static.NewLayer([]byte(p), simpleSigning), MediaType: simpleSigning,
				Annotations: map[string]string{cosignSignature: fmt.Sprint("c2ln", i), cosignCertificate: "PEM"}})
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := remote.Write(w.repo.Tag(tag), img); err != nil {
			t.Fatal(err)
		}
	}
	read := func(cursor string) (signatures []schema.ImageSignature, skipped []string, next string) {
		t.Helper()
		got := w.mustRead(cursor)
		for _, e := range got.events {
			if e.Skipped != nil {
				skipped = append(skipped, e.Skipped.Reason.Error())
			}
			if e.Cursor != "" {
				cursor = e.Cursor
			}
			if e.Statement.PredicateType != schema.SignatureV1 {
				continue
			}
			var p schema.ImageSignature
			if err := schema.DecodePredicate(e.Statement, true, &p); err != nil {
				t.Fatal(err)
			}
			if string(e.Statement.Subject[0].Key()) != digest {
				t.Errorf("a signature of %s", e.Statement.Subject[0].Key())
			}
			signatures = append(signatures, p)
		}
		return signatures, skipped, cursor
	}
	sign(payload(digest))
	got, skipped, cursor := read("")
	if len(got) != 1 || len(skipped) != 0 || string(got[0].Payload) != payload(digest) || got[0].Signature != "c2ln0" || got[0].Certificate != "PEM" {
		t.Fatalf("%+v, %q", got, skipped)
	}
	if got, _, _ := read(cursor); len(got) != 0 {
		t.Errorf("read again, %d signatures", len(got))
	}
	sign(payload(digest), payload(digest)+" ")
	if got, _, cursor = read(cursor); len(got) != 2 || got[1].Signature != "c2ln1" {
		t.Errorf("after one was added: %+v", got)
	}
	for bad, reason := range map[string]string{
		payload("sha256:" + strings.Repeat("a", 64)): "it is a signature of another image",
		"not JSON":                        "what was signed is not simple signing",
		strings.Repeat(" ", maxPayload+1): "what was signed is more than 65536 bytes",
	} {
		sign(bad)
		if got, skipped, cursor = read(cursor); len(got) != 0 || len(skipped) != 1 || !strings.HasPrefix(skipped[0], reason) {
			t.Errorf("%.40q: %+v, %q, want %s", bad, got, skipped, reason)
		}
	}
}
