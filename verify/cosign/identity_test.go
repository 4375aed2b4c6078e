package cosign

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/sigstore/cosign/v2/pkg/cosign/bundle"
	"github.com/sigstore/cosign/v2/pkg/oci/mutate"
	ociremote "github.com/sigstore/cosign/v2/pkg/oci/remote"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature/payload"

	"github.com/retrace-ledger/retrace/schema"
)

const (
	builder = "https://git.example.com/ml/trainer/.github/workflows/build.yml@refs/heads/main"
	login   = "https://token.example.com"
)

// sigstore is a certificate authority, a timestamp authority and a transparency log.
type sigstore struct {
	*ca.VirtualSigstore
	t *testing.T
}

func newSigstore(t *testing.T) *sigstore {
	t.Helper()
	v, err := ca.NewVirtualSigstore()
	if err != nil {
		t.Fatal(err)
	}
	return &sigstore{v, t}
}

// trustedRoot is the file that names it, as far as it is told to.
func (s *sigstore) trustedRoot(logs, times bool) []byte {
	s.t.Helper()
	var transparency map[string]*root.TransparencyLog
	var timestamps []root.TimestampingAuthority
	if logs {
		transparency = s.RekorLogs()
		for id, log := range transparency { // which give the text of their ID for it
			raw, err := hex.DecodeString(id)
			if err != nil {
				s.t.Fatal(err)
			}
			log.ID = raw
		}
	}
	if times {
		timestamps = s.TimestampingAuthorities()
	}
	r, err := root.NewTrustedRoot(root.TrustedRootMediaType01, s.FulcioCertificateAuthorities(), nil, timestamps, transparency)
	if err != nil {
		s.t.Fatal(err)
	}
	raw, err := r.MarshalJSON()
	if err != nil {
		s.t.Fatal(err)
	}
	return raw
}

// sign has somebody sign an image, as cosign 2 does with a certificate.
func (s *sigstore) sign(image name.Digest, subject, issuer string, at time.Time) {
	s.t.Helper()
	claim, err := json.Marshal(payload.Cosign{Image: image})
	if err != nil {
		s.t.Fatal(err)
	}
	entity, err := s.SignAtTime(subject, issuer, claim, at)
	if err != nil {
		s.t.Fatal(err)
	}
	content, err := entity.VerificationContent()
	if err != nil {
		s.t.Fatal(err)
	}
	cert, err := cryptoutils.MarshalCertificateToPEM(content.Certificate())
	if err != nil {
		s.t.Fatal(err)
	}
	sc, err := entity.SignatureContent()
	if err != nil {
		s.t.Fatal(err)
	}
	entries, err := entity.TlogEntries()
	if err != nil {
		s.t.Fatal(err)
	}
	times, err := entity.Timestamps()
	if err != nil {
		s.t.Fatal(err)
	}
	e := entries[0].TransparencyLogEntry()
	promised := tlog.RekorPayload{
		Body: base64.StdEncoding.EncodeToString(e.GetCanonicalizedBody()), IntegratedTime: e.GetIntegratedTime(),
		LogIndex: e.GetLogIndex(), LogID: hex.EncodeToString(e.GetLogId().GetKeyId()),
	}
	promise, err := s.RekorSignPayload(promised)
	if err != nil {
		s.t.Fatal(err)
	}
	sig, err := static.NewSignature(claim, base64.StdEncoding.EncodeToString(sc.Signature()),
		static.WithCertChain(cert, nil),
		static.WithRFC3161Timestamp(&bundle.RFC3161Timestamp{SignedRFC3161Timestamp: times[0]}),
		static.WithBundle(&bundle.RekorBundle{
			SignedEntryTimestamp: promise,
			Payload:              bundle.RekorPayload{Body: promised.Body, IntegratedTime: promised.IntegratedTime, LogIndex: promised.LogIndex, LogID: promised.LogID},
		}))
	if err != nil {
		s.t.Fatal(err)
	}
	opts := registryOptions(context.Background())
	signed, err := ociremote.SignedEntity(image, opts...)
	if err != nil {
		s.t.Fatal(err)
	}
	signed, err = mutate.AttachSignatureToEntity(signed, sig)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := ociremote.WriteSignatures(image.Repository, signed, opts...); err != nil {
		s.t.Fatal(err)
	}
}

func TestIdentity(t *testing.T) {
	r := newRegistry(t)
	ours, theirs := newSigstore(t), newSigstore(t)
	soon := time.Now().Add(5 * time.Minute) // while the certificate is valid
	signed := r.push()
	ours.sign(signed, builder, login, soon)
	another := r.push()
	ours.sign(another, "mallory@example.com", login, soon)
	elsewhere := r.push()
	ours.sign(elsewhere, builder, "https://login.example.org", soon)
	foreign := r.push()
	theirs.sign(foreign, builder, login, soon)
	late := r.push()
	ours.sign(late, builder, login, time.Now().Add(3*time.Hour))
	replayed := r.push()
	signatures, err := remote.Image(signatureTag(signed))
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(signatureTag(replayed), signatures); err != nil {
		t.Fatal(err)
	}
	unsigned := r.push()

	for _, times := range []bool{false, true} {
		id, err := NewIdentity(builder, login, ours.trustedRoot(true, times))
		if err != nil {
			t.Fatal(err)
		}
		check := func(image name.Digest) (bool, string) {
			t.Helper()
			ok, why, err := id.Signed(t.Context(), r.repo.Name(), schema.Key(image.DigestStr()))
			if err != nil {
				t.Fatal(err)
			}
			return ok, why
		}
		if ok, why := check(signed); !ok {
			t.Errorf("signed by the identity: %s", why)
		}
		for name, image := range map[string]name.Digest{"somebody else": another, "another issuer": elsewhere, "another authority": foreign, "an expired certificate": late, "a copy": replayed, "nobody": unsigned} {
			if ok, why := check(image); ok {
				t.Errorf("signed by %s: %s", name, why)
			}
		}
	}

	id, err := NewIdentity(builder, login, ours.trustedRoot(true, false))
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"manifests", "blobs"} {
		fail := func(req *http.Request) bool { return path.Base(path.Dir(req.URL.Path)) == part }
		r.fail.Store(&fail)
		if ok, why, err := id.Signed(t.Context(), r.repo.Name(), schema.Key(signed.DigestStr())); err == nil {
			t.Errorf("%s failed: %v %s, want an error", part, ok, why)
		}
	}
	r.fail.Store(nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := id.Signed(ctx, r.repo.Name(), schema.Key(signed.DigestStr())); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestIdentityRefuses(t *testing.T) {
	s := newSigstore(t)
	for name, c := range map[string]struct {
		subject, issuer string
		root            []byte
		want            string
	}{
		"no subject": {"", login, s.trustedRoot(true, true), "a subject and the issuer"},
		"no issuer":  {builder, "", s.trustedRoot(true, true), "a subject and the issuer"},
		"no root":    {builder, login, []byte("{}"), "reading the trusted root"},
		"no times":   {builder, login, s.trustedRoot(false, true), "no transparency log"},
	} {
		if _, err := NewIdentity(c.subject, c.issuer, c.root); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
