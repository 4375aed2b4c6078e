package cosign

import (
	"context"
	"crypto"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	sigcosign "github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/cosign/v2/pkg/oci"
	ocilayout "github.com/sigstore/cosign/v2/pkg/oci/layout"
	ociremote "github.com/sigstore/cosign/v2/pkg/oci/remote"
	cosigntypes "github.com/sigstore/cosign/v2/pkg/types"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/retrace-ledger/retrace/schema"
)

// password encrypts the private keys of these tests.
var password = []byte("test")

// testRegistry is a registry in the process that can be told to fail.
type testRegistry struct {
	t    *testing.T
	repo name.Repository
	fail atomic.Pointer[func(*http.Request) bool] // answers 500 where it says so
}

func newRegistry(t *testing.T) *testRegistry {
	t.Helper()
	r := &testRegistry{t: t}
	real := registry.New(registry.WithReferrersSupport(true), registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if fail := r.fail.Load(); fail != nil && (*fail)(req) {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		real.ServeHTTP(w, req)
	}))
	t.Cleanup(server.Close)
	repo, err := name.NewRepository(strings.TrimPrefix(server.URL, "http://") + "/ml/trainer")
	if err != nil {
		t.Fatal(err)
	}
	r.repo = repo
	return r
}

// push pushes a new image and returns its reference by digest.
func (r *testRegistry) push() name.Digest {
	r.t.Helper()
	img, err := random.Image(64, 1)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.pushImage(img)
}

func (r *testRegistry) pushImage(img v1.Image) name.Digest {
	r.t.Helper()
	digest, err := img.Digest()
	if err != nil {
		r.t.Fatal(err)
	}
	ref := r.repo.Digest(digest.String())
	if err := remote.Write(ref, img); err != nil {
		r.t.Fatal(err)
	}
	return ref
}

// signatureTag is where cosign keeps the signatures of an image.
func signatureTag(image name.Digest) name.Tag {
	return image.Context().Tag(strings.Replace(image.DigestStr(), ":", "-", 1) + ".sig")
}

type keyPair struct {
	private []byte
	public  *Key
	pem     []byte
}

// Two key pairs, made once: protecting a private key with a password takes a
// while, and is meant to.
var (
	firstKey  = sync.OnceValues(newKey)
	secondKey = sync.OnceValues(newKey)
)

func newKey() (keyPair, error) {
	private, public, err := GenerateKey(password)
	if err != nil {
		return keyPair{}, err
	}
	key, err := ParseKey(public)
	return keyPair{private, key, public}, err
}

func ourKey(t *testing.T) keyPair   { return loadKey(t, firstKey) }
func otherKey(t *testing.T) keyPair { return loadKey(t, secondKey) }

func loadKey(t *testing.T, made func() (keyPair, error)) keyPair {
	t.Helper()
	k, err := made()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (k keyPair) sign(t *testing.T, image name.Digest) {
	t.Helper()
	if err := Sign(context.Background(), image.String(), k.private, password); err != nil {
		t.Fatal(err)
	}
}

func (k keyPair) check(t *testing.T, image name.Digest) Result {
	t.Helper()
	r, err := k.public.CheckImage(context.Background(), image.String())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestCheckImage(t *testing.T) {
	r := newRegistry(t)
	ours, theirs := ourKey(t), otherKey(t)

	unsigned := r.push()
	if diff := cmp.Diff(Result{Reason: NoSignatures}, ours.check(t, unsigned)); diff != "" {
		t.Errorf("unsigned image (-want +got):\n%s", diff)
	}

	signed := r.push()
	ours.sign(t, signed)
	want := Result{Signed: true, Found: 1, Claims: []string{signed.DigestStr()}}
	if diff := cmp.Diff(want, ours.check(t, signed)); diff != "" {
		t.Errorf("signed image (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(Result{Reason: OtherKey, Found: 1}, theirs.check(t, signed)); diff != "" {
		t.Errorf("image signed by another key (-want +got):\n%s", diff)
	}

	theirs.sign(t, signed)
	if got := ours.check(t, signed); !got.Signed || got.Found != 2 {
		t.Errorf("image signed by both = %+v, want signed, of two", got)
	}
}

// TestReplayedSignature copies the signatures of one image to where those of
// another are kept. They are by the key, and for the wrong image.
func TestReplayedSignature(t *testing.T) {
	r := newRegistry(t)
	key := ourKey(t)
	signed, other := r.push(), r.push()
	key.sign(t, signed)
	signatures, err := remote.Image(signatureTag(signed))
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(signatureTag(other), signatures); err != nil {
		t.Fatal(err)
	}
	want := Result{Reason: OtherImage, Found: 1, Claims: []string{signed.DigestStr()}}
	if diff := cmp.Diff(want, key.check(t, other)); diff != "" {
		t.Errorf("replayed signature (-want +got):\n%s", diff)
	}
	if signed, why, err := key.public.Signed(context.Background(), r.repo.Name(), schema.Key(other.DigestStr())); err != nil || signed || !strings.Contains(why, "copied") {
		t.Errorf("Signed = %v, %q, %v; want false and that it was copied", signed, why, err)
	}
}

// TestOddSignatures: what lies where signatures are kept and is none does not
// count, and does not hide a good one.
func TestOddSignatures(t *testing.T) {
	r := newRegistry(t)
	key := ourKey(t)
	image := r.push()
	junk, err := mutate.AppendLayers(empty.Image,
		static.NewLayer([]byte("no signature at all"), types.MediaType("application/x-what")),
		static.NewLayer([]byte(`{"critical":null}`), types.MediaType("application/vnd.dev.cosign.simplesigning.v1+json")))
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(signatureTag(image), junk); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Result{Reason: OtherKey, Found: 2}, key.check(t, image)); diff != "" {
		t.Errorf("junk (-want +got):\n%s", diff)
	}
	key.sign(t, image)
	if got := key.check(t, image); !got.Signed {
		t.Errorf("a good signature beside junk = %+v, want signed", got)
	}
}

// TestRegistryFails: at no request does a registry that fails make an image
// unsigned; not being able to tell is an error.
func TestRegistryFails(t *testing.T) {
	r := newRegistry(t)
	key := ourKey(t)
	image := r.push()
	key.sign(t, image)
	for _, part := range []string{"/v2/", "manifests", "blobs"} {
		fail := func(req *http.Request) bool {
			return req.URL.Path == part || path.Base(path.Dir(req.URL.Path)) == part
		}
		r.fail.Store(&fail)
		if got, err := key.public.CheckImage(context.Background(), image.String()); err == nil {
			t.Errorf("%s failed: %+v, want an error", part, got)
		}
	}
	r.fail.Store(nil)
	if got := key.check(t, image); !got.Signed {
		t.Errorf("the registry is back: %+v, want signed", got)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := key.public.CheckImage(ctx, image.String()); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v, want %v", err, context.Canceled)
	}
	if _, err := key.public.CheckImage(context.Background(), "127.0.0.1:1/x@"+image.DigestStr()); err == nil {
		t.Error("no registry there, and no error")
	}
	if _, err := key.public.CheckImage(context.Background(), r.repo.Name()+":latest"); err == nil {
		t.Error("a reference by tag was taken")
	}
}

// TestCosignAgrees: cosign's own verification takes what Sign made.
func TestCosignAgrees(t *testing.T) {
	r := newRegistry(t)
	key, other := ourKey(t), otherKey(t)
	image := r.push()
	key.sign(t, image)
	for name, c := range map[string]struct {
		pem  []byte
		good bool
	}{"the key": {key.pem, true}, "another": {other.pem, false}} {
		pub, err := cryptoutils.UnmarshalPEMToPublicKey(c.pem)
		if err != nil {
			t.Fatal(err)
		}
		v, err := signature.LoadVerifier(pub, crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = sigcosign.VerifyImageSignatures(context.Background(), image, &sigcosign.CheckOpts{
			SigVerifier: v, ClaimVerifier: sigcosign.SimpleClaimVerifier, IgnoreTlog: true, IgnoreSCT: true, Offline: true,
		})
		if (err == nil) != c.good {
			t.Errorf("cosign with %s: %v", name, err)
		}
	}
}

// TestCommandAgrees compares each verdict with that of the cosign command.
func TestCommandAgrees(t *testing.T) {
	const version = "v2.6.5"
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	command := filepath.Join(cache, "retrace-parts", "cosign-"+version, "cosign")
	if _, err := os.Stat(command); err != nil {
		if os.Getenv("RETRACE_TEST_NOSKIP") == "1" {
			t.Fatalf("no cosign command: %v; ci/cosign.sh builds it", err)
		}
		t.Skipf("no cosign command (ci/cosign.sh builds it): %v", err)
	}
	r := newRegistry(t)
	key, other := ourKey(t), otherKey(t)
	public := filepath.Join(t.TempDir(), "cosign.pub")
	if err := os.WriteFile(public, key.pem, 0o600); err != nil {
		t.Fatal(err)
	}
	signed, wrong, both, replayed := r.push(), r.push(), r.push(), r.push()
	key.sign(t, signed)
	other.sign(t, wrong)
	key.sign(t, both)
	other.sign(t, both)
	signatures, err := remote.Image(signatureTag(signed))
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(signatureTag(replayed), signatures); err != nil {
		t.Fatal(err)
	}
	bundled, attested := r.push(), r.push()
	key.bundle(t, bundled, bundled.DigestStr(), cosigntypes.CosignSignPredicateType)
	key.bundle(t, attested, attested.DigestStr(), "https://example.com/attestation/v1")
	root := filepath.Join(t.TempDir(), "root.json") // none: the key is given
	if out, err := exec.Command(command, "trusted-root", "create", "--out", root).CombinedOutput(); err != nil {
		t.Fatalf("cosign trusted-root create: %v\n%s", err, out)
	}
	for name, c := range map[string]struct {
		image  name.Digest
		bundle bool
		want   bool
	}{
		"signed": {signed, false, true}, "unsigned": {r.push(), false, false}, "signed by another": {wrong, false, false}, "signed by both": {both, false, true},
		"a copied signature": {replayed, false, false}, "a bundle": {bundled, true, true},
	} {
		args := []string{"verify", "--key", public, "--insecure-ignore-tlog=true", "--allow-insecure-registry"}
		if c.bundle {
			args = append(args, "--new-bundle-format", "--trusted-root", root)
		}
		cmd := exec.CommandContext(t.Context(), command, append(args, c.image.String())...)
		cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
		out, err := cmd.CombinedOutput()
		theirs := err == nil
		if ours := key.check(t, c.image).Signed; ours != c.want || theirs != c.want {
			t.Errorf("%s: we say %v, cosign says %v, want %v\n%s", name, ours, theirs, c.want, out)
		}
	}
	if got := key.check(t, attested); got.Signed {
		t.Errorf("an attestation counts as a signature: %+v", got)
	}
}

func TestCheckLayout(t *testing.T) {
	r := newRegistry(t)
	key, other := ourKey(t), otherKey(t)
	image := r.push()
	key.sign(t, image)

	saved := t.TempDir()
	entity, err := ociremote.SignedEntity(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := ocilayout.WriteSignedImage(saved, entity.(oci.SignedImage)); err != nil {
		t.Fatal(err)
	}
	got, err := key.public.CheckLayout(context.Background(), saved)
	if err != nil || !got.Signed {
		t.Errorf("signed layout = %+v, %v; want signed", got, err)
	}
	got, err = other.public.CheckLayout(context.Background(), saved)
	if err != nil || got.Reason != OtherKey {
		t.Errorf("signed layout, another key = %+v, %v; want %q", got, err, OtherKey)
	}

	plain := t.TempDir()
	img, err := remote.Image(image)
	if err != nil {
		t.Fatal(err)
	}
	into, err := layout.Write(plain, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := into.AppendImage(img); err != nil {
		t.Fatal(err)
	}
	got, err = key.public.CheckLayout(context.Background(), plain)
	if err != nil || got.Reason != NoSignatures {
		t.Errorf("layout without signatures = %+v, %v; want %q", got, err, NoSignatures)
	}
	if _, err := key.public.CheckLayout(context.Background(), t.TempDir()); err == nil {
		t.Error("an empty folder is no layout, and no error")
	}
}

func TestParseKeyRefuses(t *testing.T) {
	private := ourKey(t).private
	for name, pem := range map[string]string{
		"nothing": "", "no PEM": "hello", "private key": string(private),
		"damaged": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
	} {
		if _, err := ParseKey([]byte(pem)); err == nil {
			t.Errorf("%s: ParseKey succeeded, want an error", name)
		}
	}
}

func TestSignRefuses(t *testing.T) {
	r := newRegistry(t)
	key := ourKey(t)
	image := r.push()
	ctx := context.Background()
	if err := Sign(ctx, image.String(), key.private, []byte("wrong")); err == nil {
		t.Error("the wrong password was taken")
	}
	if err := Sign(ctx, r.repo.Name()+":latest", key.private, password); err == nil {
		t.Error("a reference by tag was taken")
	}
	if err := Sign(ctx, r.repo.Name()+"@sha256:"+strings.Repeat("0", 64), key.private, password); err == nil {
		t.Error("an image that is not there was signed")
	}
}
