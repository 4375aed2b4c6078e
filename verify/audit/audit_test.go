package audit_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/retrace-ledger/retrace/ingest/oci"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify/audit"
	"github.com/retrace-ledger/retrace/verify/cosign"
)

// book is a ledger by digest.
type book struct {
	records map[schema.Key]audit.Record
	err     error
}

func (*book) Manifest(_ context.Context, digest schema.Key) (schema.Key, error) { return digest, nil }

func (b *book) Image(_ context.Context, digest schema.Key) (audit.Record, error) {
	r := b.records[digest]
	r.Size = 100
	return r, b.err
}

// yard is a registry with images, a book of what is recorded about them, and a
// cosign key.
type yard struct {
	t       *testing.T
	server  *httptest.Server
	repo    name.Repository
	book    *book
	private []byte
	key     *cosign.Key
}

func newYard(t *testing.T) *yard {
	t.Helper()
	server := httptest.NewServer(registry.New(registry.WithReferrersSupport(true), registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	repo, err := name.NewRepository(strings.TrimPrefix(server.URL, "http://") + "/ml/serve")
	if err != nil {
		t.Fatal(err)
	}
	y := &yard{t: t, server: server, repo: repo, book: &book{records: map[schema.Key]audit.Record{}}}
	y.private, y.key = loadKey(t, theKey)
	return y
}

// Two key pairs, made once: protecting a private key with a password takes a
// while, and is meant to.
var (
	theKey     = sync.OnceValues(generate)
	anotherKey = sync.OnceValues(generate)
)

type pemPair struct{ private, public []byte }

func generate() (pemPair, error) {
	private, public, err := cosign.GenerateKey(nil)
	return pemPair{private, public}, err
}

func loadKey(t *testing.T, generated func() (pemPair, error)) ([]byte, *cosign.Key) {
	t.Helper()
	pair, err := generated()
	if err != nil {
		t.Fatal(err)
	}
	key, err := cosign.ParseKey(pair.public)
	if err != nil {
		t.Fatal(err)
	}
	return pair.private, key
}

// push pushes a new image under tag and returns its digest.
func (y *yard) push(tag string) schema.Key {
	y.t.Helper()
	img, err := random.Image(64, 1)
	if err != nil {
		y.t.Fatal(err)
	}
	if err := remote.Write(y.repo.Tag(tag), img); err != nil {
		y.t.Fatal(err)
	}
	digest, err := img.Digest()
	if err != nil {
		y.t.Fatal(err)
	}
	return schema.Key(digest.String())
}

func (y *yard) record(digest schema.Key) {
	y.book.records[digest] = audit.Record{
		Entries: []audit.Entry{{Index: 7, Evidence: schema.Observed}},
		Origins: []audit.Origin{{
			Commit: schema.Key("gitCommit:" + strings.Repeat("ab", 20)), Repository: "https://git.example/ml", Entry: 8, Evidence: schema.Observed,
		}},
	}
}

func (y *yard) sign(digest schema.Key) {
	y.t.Helper()
	if err := cosign.Sign(context.Background(), y.repo.Name()+"@"+string(digest), y.private, nil); err != nil {
		y.t.Fatal(err)
	}
}

func (y *yard) auditor(key *cosign.Key) *audit.Auditor {
	a := &audit.Auditor{Resolver: oci.Registry{}, Ledger: y.book}
	if key != nil {
		a.Signer, a.Policy.Key = key, key.ID()
	}
	return a
}

// run audits the given tags or digests of the yard's repository.
func (y *yard) run(a *audit.Auditor, suffixes ...string) []audit.Verdict {
	y.t.Helper()
	var list strings.Builder
	for _, s := range suffixes {
		fmt.Fprintln(&list, y.repo.Name()+s)
	}
	images, err := audit.ParseImages(strings.NewReader(list.String()))
	if err != nil {
		y.t.Fatal(err)
	}
	var verdicts []audit.Verdict
	for v, err := range a.Audit(context.Background(), images) {
		if err != nil {
			y.t.Fatal(err)
		}
		verdicts = append(verdicts, v)
	}
	return verdicts
}

// checks are the results by check, the notes left out.
func checks(v audit.Verdict) map[string]audit.Result {
	got := map[string]audit.Result{}
	for _, r := range v.Reasons {
		if r.Result != audit.Note {
			got[r.Check] = r.Result
		}
	}
	return got
}

func wantVerdict(t *testing.T, v audit.Verdict, want audit.Result, wantChecks map[string]audit.Result) {
	t.Helper()
	if v.Result != want {
		t.Errorf("%s: %s, want %s: %+v", v.Ref, v.Result, want, v.Reasons)
	}
	if diff := cmp.Diff(wantChecks, checks(v)); diff != "" {
		t.Errorf("%s: checks (-want +got):\n%s", v.Ref, diff)
	}
}

func exit(verdicts []audit.Verdict) int {
	var results []audit.Result
	for _, v := range verdicts {
		results = append(results, v.Result)
	}
	return audit.Exit(results...)
}

// TestSignedPassesOtherFails is the main job: two recorded images, one signed.
func TestSignedPassesOtherFails(t *testing.T) {
	y := newYard(t)
	signed, unsigned := y.push("signed"), y.push("unsigned")
	y.record(signed)
	y.record(unsigned)
	y.sign(signed)
	got := y.run(y.auditor(y.key), ":signed", ":unsigned", "@"+string(signed))
	pass := map[string]audit.Result{"resolved": audit.Pass, "recorded": audit.Pass, "signed": audit.Pass}
	wantVerdict(t, got[0], audit.Pass, pass)
	wantVerdict(t, got[1], audit.Fail, map[string]audit.Result{"resolved": audit.Pass, "recorded": audit.Pass, "signed": audit.Fail})
	wantVerdict(t, got[2], audit.Pass, pass)
	if got[0].Digest != signed || got[1].Digest != unsigned {
		t.Errorf("digests = %s and %s, want %s and %s", got[0].Digest, got[1].Digest, signed, unsigned)
	}
	if e := exit(got); e != 1 {
		t.Errorf("exit status %d, want 1", e)
	}
	if e := exit(got[:1]); e != 0 {
		t.Errorf("exit status of the signed one %d, want 0", e)
	}
	// Without a key nobody asks for a signature.
	got = y.run(y.auditor(nil), ":unsigned")
	wantVerdict(t, got[0], audit.Pass, map[string]audit.Result{"resolved": audit.Pass, "recorded": audit.Pass})
}

// TestReplayedSignature: a signature that was copied to another image fails it.
func TestReplayedSignature(t *testing.T) {
	y := newYard(t)
	signed, other := y.push("signed"), y.push("other")
	y.record(other)
	y.sign(signed)
	tag := func(k schema.Key) name.Tag { return y.repo.Tag("sha256-" + k.Hex() + ".sig") }
	signatures, err := remote.Image(tag(signed))
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag(other), signatures); err != nil {
		t.Fatal(err)
	}
	got := y.run(y.auditor(y.key), ":other")
	wantVerdict(t, got[0], audit.Fail, map[string]audit.Result{"resolved": audit.Pass, "recorded": audit.Pass, "signed": audit.Fail})
	if last := got[0].Reasons[len(got[0].Reasons)-1].Detail; !strings.Contains(last, string(signed)) {
		t.Errorf("the reason %q does not say which image the signature is for", last)
	}
}

func TestWrongKey(t *testing.T) {
	y := newYard(t)
	signed := y.push("signed")
	y.record(signed)
	y.sign(signed)
	_, other := loadKey(t, anotherKey)
	got := y.run(y.auditor(other), ":signed")
	wantVerdict(t, got[0], audit.Fail, map[string]audit.Result{"resolved": audit.Pass, "recorded": audit.Pass, "signed": audit.Fail})
}

func TestNotRecorded(t *testing.T) {
	y := newYard(t)
	signed := y.push("signed")
	y.sign(signed)
	want := map[string]audit.Result{"resolved": audit.Pass, "recorded": audit.Fail, "signed": audit.Pass}
	wantVerdict(t, y.run(y.auditor(y.key), ":signed")[0], audit.Fail, want)

	// What anybody may claim, and what was taken back, is not recorded either.
	y.book.records[signed] = audit.Record{Entries: []audit.Entry{{Index: 3, Evidence: schema.Claimed}}}
	wantVerdict(t, y.run(y.auditor(y.key), ":signed")[0], audit.Fail, want)
	y.book.records[signed] = audit.Record{Entries: []audit.Entry{{Index: 3, Evidence: schema.Attested, Withdrawn: "pushed by mistake"}}}
	wantVerdict(t, y.run(y.auditor(y.key), ":signed")[0], audit.Fail, want)

	// An attested entry is named before an observed one.
	y.book.records[signed] = audit.Record{Entries: []audit.Entry{
		{Index: 3, Evidence: schema.Observed}, {Index: 5, Evidence: schema.Attested}, {Index: 6, Evidence: schema.Attested},
	}}
	got := y.run(y.auditor(y.key), ":signed")[0]
	wantVerdict(t, got, audit.Pass, map[string]audit.Result{"resolved": audit.Pass, "recorded": audit.Pass, "signed": audit.Pass})
	if got.Reasons[1].Entry != 5 {
		t.Errorf("recorded by entry %d, want 5", got.Reasons[1].Entry)
	}
}

// TestUnknownNeverPasses: what could not be checked is UNKNOWN, and FAIL where
// something else failed.
func TestUnknownNeverPasses(t *testing.T) {
	y := newYard(t)
	signed, unrecorded := y.push("signed"), y.push("unrecorded")
	y.record(signed)
	y.sign(signed)

	y.book.err = errors.New("disk on fire\x1b[2J")
	got := y.run(y.auditor(y.key), ":signed", ":nowhere")
	wantVerdict(t, got[0], audit.Unknown, map[string]audit.Result{"resolved": audit.Pass, "recorded": audit.Unknown, "signed": audit.Pass})
	wantVerdict(t, got[1], audit.Fail, map[string]audit.Result{"resolved": audit.Fail})
	if detail := got[0].Reasons[1].Detail; strings.ContainsRune(detail, '\x1b') {
		t.Errorf("the reason %q would reach the terminal as it came", detail)
	}
	y.book.err = nil

	y.server.Close()
	got = y.run(y.auditor(y.key), ":signed", "@"+string(signed), "@"+string(unrecorded))
	wantVerdict(t, got[0], audit.Unknown, map[string]audit.Result{"resolved": audit.Unknown})
	wantVerdict(t, got[1], audit.Unknown, map[string]audit.Result{"resolved": audit.Pass, "recorded": audit.Pass, "signed": audit.Unknown})
	wantVerdict(t, got[2], audit.Fail, map[string]audit.Result{"resolved": audit.Pass, "recorded": audit.Fail, "signed": audit.Unknown})
	if e := exit(got[:2]); e != 2 {
		t.Errorf("exit status %d, want 2", e)
	}
	if e := exit(got); e != 1 {
		t.Errorf("exit status with a failure %d, want 1", e)
	}
	if e := exit(nil); e != 2 {
		t.Errorf("exit status of an audit of nothing %d, want 2", e)
	}
}

func TestOrigin(t *testing.T) {
	y := newYard(t)
	digest := y.push("v1")
	for _, c := range []struct {
		name    string
		origins []audit.Origin
		want    audit.Result
	}{
		{"none", nil, audit.Fail},
		{"claimed by a label", []audit.Origin{{Commit: "gitCommit:" + schema.Key(strings.Repeat("0", 40)), Evidence: schema.Claimed}}, audit.Fail},
		{"attested", []audit.Origin{{Step: "build", Evidence: schema.Attested, Entry: 4}, {Step: "other", Evidence: schema.Claimed, Entry: 5}}, audit.Pass},
	} {
		y.book.records[digest] = audit.Record{
			Entries: []audit.Entry{{Index: 7, Evidence: schema.Observed}}, Origins: c.origins, Gaps: []string{"base image without a digest"},
		}
		a := y.auditor(nil)
		if got := y.run(a, ":v1")[0]; got.Result != audit.Pass {
			t.Errorf("%s, not required: %s, want %s", c.name, got.Result, audit.Pass)
		}
		a.Policy.Origin = true
		wantVerdict(t, y.run(a, ":v1")[0], c.want, map[string]audit.Result{"resolved": audit.Pass, "recorded": audit.Pass, "origin": c.want})
	}
}

func TestStatement(t *testing.T) {
	y := newYard(t)
	signed, unsigned := y.push("signed"), y.push("unsigned")
	y.record(signed)
	y.sign(signed)
	a := y.auditor(y.key)
	got := y.run(a, ":signed", "@"+string(unsigned), ":nowhere")
	at := time.Date(2026, 3, 1, 12, 0, 0, 5, time.UTC)
	verifier := schema.Verifier{ID: "https://example.com/auditor"}
	for i, want := range []struct {
		digest   schema.Key
		result   string
		levels   []string
		resource string
	}{
		{signed, "PASSED", []string{"RETRACE_RECORDED", "RETRACE_SIGNED"}, "oci://" + y.repo.Name() + ":signed"},
		{unsigned, "FAILED", []string{"FAILED"}, "oci://" + y.repo.Name() + "@" + string(unsigned)},
	} {
		s, ok, err := a.Policy.Statement(got[i], verifier, at)
		if err != nil || !ok {
			t.Fatalf("%s: %v, %v", got[i].Ref, ok, err)
		}
		if key := s.Subject[0].Key(); key != want.digest {
			t.Errorf("%s: subject %s, want %s", got[i].Ref, key, want.digest)
		}
		var vsa schema.VSA
		if err := schema.DecodePredicate(s, true, &vsa); err != nil {
			t.Fatal(err)
		}
		if vsa.VerificationResult != want.result || vsa.ResourceURI != want.resource || len(vsa.Reasons) != len(got[i].Reasons) || vsa.Verifier.ID != verifier.ID {
			t.Errorf("%s: %+v", got[i].Ref, vsa)
		}
		if diff := cmp.Diff(want.levels, vsa.VerifiedLevels); diff != "" {
			t.Errorf("%s: levels (-want +got):\n%s", got[i].Ref, diff)
		}
		if key := schema.BytesKey(vsa.Policy.Content); key != vsa.Policy.Digest.Key() || !strings.Contains(string(vsa.Policy.Content), y.key.ID()) {
			t.Errorf("%s: policy %s does not carry itself", got[i].Ref, vsa.Policy.Content)
		}
		facts, err := s.Facts()
		if err != nil {
			t.Fatal(err)
		}
		if facts.Resources[0].Kind != "oci" {
			t.Errorf("%s: the subject is of kind %q, want oci", got[i].Ref, facts.Resources[0].Kind)
		}
	}
	if _, ok, err := a.Policy.Statement(got[2], verifier, at); ok || err != nil {
		t.Errorf("a verdict about no digest gives a statement (%v, %v)", ok, err)
	}
	y.server.Close()
	for _, v := range y.run(a, ":signed", "@"+string(signed)) {
		if _, ok, err := a.Policy.Statement(v, verifier, at); ok || err != nil || v.Result != audit.Unknown {
			t.Errorf("%s: %s gives a statement (%v, %v)", v.Ref, v.Result, ok, err)
		}
	}
}

func TestAuditorRefuses(t *testing.T) {
	y := newYard(t)
	for name, a := range map[string]*audit.Auditor{
		"no ledger":         {Resolver: oci.Registry{}},
		"no resolver":       {Ledger: y.book},
		"no signer":         {Resolver: oci.Registry{}, Ledger: y.book, Policy: audit.Policy{Key: y.key.ID()}},
		"another signer":    {Resolver: oci.Registry{}, Ledger: y.book, Signer: y.key, Policy: audit.Policy{Key: "SHA256:other"}},
		"a signer for none": {Resolver: oci.Registry{}, Ledger: y.book, Signer: y.key},
	} {
		for v, err := range a.Audit(context.Background(), []audit.Image{{Ref: "x"}}) {
			if err == nil {
				t.Errorf("%s: verdict %+v, want an error", name, v)
			}
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for v, err := range y.auditor(nil).Audit(ctx, []audit.Image{{Ref: y.repo.Name() + ":v1"}}) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %+v, %v; want %v", v, err, context.Canceled)
		}
	}
}
