package cosign

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	sigcosign "github.com/sigstore/cosign/v2/pkg/cosign"
	ociremote "github.com/sigstore/cosign/v2/pkg/oci/remote"
	"github.com/sigstore/cosign/v2/pkg/types"
)

// bundle attaches to image a Sigstore bundle in which the key states
// predicateType about subject.
func (k keyPair) bundle(t *testing.T, image name.Digest, subject, predicateType string) {
	t.Helper()
	statement := fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":%q}}],"predicateType":%q,"predicate":{}}`,
		strings.TrimPrefix(subject, "sha256:"), predicateType)
	signer, err := sigcosign.LoadPrivateKey(k.private, password, nil)
	if err != nil {
		t.Fatal(err)
	}
	const payloadType = "application/vnd.in-toto+json"
	sig, err := signer.SignMessage(strings.NewReader(string(dsse.PAE(payloadType, []byte(statement)))))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(map[string]any{
		"mediaType":            "application/vnd.dev.sigstore.bundle.v0.3+json",
		"verificationMaterial": map[string]any{"publicKey": map[string]string{"hint": "any"}},
		"dsseEnvelope": map[string]any{
			"payload": base64.StdEncoding.EncodeToString([]byte(statement)), "payloadType": payloadType,
			"signatures": []map[string]string{{"keyid": "", "sig": base64.StdEncoding.EncodeToString(sig)}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := ociremote.WriteAttestationNewBundleFormat(image, raw, predicateType); err != nil {
		t.Fatal(err)
	}
}

// TestBundles: a signature as cosign 3 makes them counts; an attestation by
// the same key, or a signature for another image, does not.
func TestBundles(t *testing.T) {
	r := newRegistry(t)
	ours, theirs := ourKey(t), otherKey(t)
	const attestation = "https://example.com/attestation/v1"

	attested := r.push()
	ours.bundle(t, attested, attested.DigestStr(), attestation)
	if diff := cmp.Diff(Result{Reason: NoSignatures}, ours.check(t, attested)); diff != "" {
		t.Errorf("attested image (-want +got):\n%s", diff)
	}

	replayed := r.push()
	ours.bundle(t, replayed, attested.DigestStr(), types.CosignSignPredicateType)
	ours.bundle(t, replayed, replayed.DigestStr(), attestation)
	if diff := cmp.Diff(Result{Reason: OtherKey, Found: 1}, ours.check(t, replayed)); diff != "" {
		t.Errorf("signature for another image (-want +got):\n%s", diff)
	}

	signed := r.push()
	ours.bundle(t, signed, signed.DigestStr(), types.CosignSignPredicateType)
	want := Result{Signed: true, Found: 1, Claims: []string{signed.DigestStr()}}
	if diff := cmp.Diff(want, ours.check(t, signed)); diff != "" {
		t.Errorf("signed image (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(Result{Reason: OtherKey, Found: 1}, theirs.check(t, signed)); diff != "" {
		t.Errorf("image signed by another key (-want +got):\n%s", diff)
	}

	for _, part := range []string{"referrers", "manifests", "blobs"} {
		fail := func(req *http.Request) bool {
			return path.Base(path.Dir(req.URL.Path)) == part
		}
		r.fail.Store(&fail)
		if got, err := ours.public.CheckImage(context.Background(), signed.String()); err == nil {
			t.Errorf("%s failed: %+v, want an error", part, got)
		}
		r.fail.Store(nil)
	}
}
