package s3

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/ingesttest"
	"github.com/retrace-ledger/retrace/ingest/s3/s3test"
	"github.com/retrace-ledger/retrace/keys"
	"github.com/retrace-ledger/retrace/schema"
)

// recorded are the entries of a ledger, as far as a source looks at them.
type recorded []schema.Entry

func (r *recorded) Entries(ctx context.Context, from int64) iter.Seq2[schema.Entry, error] {
	return func(yield func(schema.Entry, error) bool) {
		for _, e := range (*r)[min(from, int64(len(*r))):] {
			if err := ctx.Err(); err != nil {
				yield(schema.Entry{}, err)
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// step records a step that ended at a time and left something at locations.
func (r *recorded) step(t *testing.T, run string, ended time.Time, left ...string) {
	t.Helper()
	external, err := schema.Canonical(schema.StepParameters{Engine: "test", Status: "Succeeded"})
	if err != nil {
		t.Fatal(err)
	}
	p := schema.Provenance{
		BuildDefinition: schema.BuildDefinition{BuildType: schema.StepBuildType, ExternalParameters: external},
		RunDetails: schema.RunDetails{
			Builder:  schema.Builder{ID: "https://example.com/engine"},
			Metadata: schema.Metadata{InvocationID: run, StartedOn: ended.Add(-time.Minute), FinishedOn: ended},
		},
	}
	for _, uri := range left {
		p.RunDetails.Byproducts = append(p.RunDetails.Byproducts, schema.Descriptor{Name: "out", URI: uri, Annotations: map[string]any{schema.AnnotationRole: schema.RoleOutput}})
	}
	subject, err := schema.RunSubject(run, p)
	if err != nil {
		t.Fatal(err)
	}
	st, err := schema.NewStatement(schema.ProvenanceV1, p, subject)
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
	*r = append(*r, schema.Entry{Index: int64(len(*r)), State: schema.Present, Envelope: env})
}

// store is a bucket of a MinIO with what was recorded of it.
type store struct {
	*s3test.Server
	bucket  string
	entries recorded
	place   ingest.Place
}

func newStore(t *testing.T, versions bool) *store {
	t.Helper()
	s := &store{Server: s3test.Start(t)}
	s.bucket = s.Bucket(t, versions)
	dir := t.TempDir()
	for name, text := range map[string]string{"access": s3test.AccessKey + "\n", "secret": s3test.SecretKey + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	with, err := json.Marshal(map[string]any{
		"endpoint": s.URL, "accessKey": map[string]string{"file": filepath.Join(dir, "access")}, "secretKey": map[string]string{"file": filepath.Join(dir, "secret")},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.place = ingest.Place{URL: "s3://" + s.bucket + "/", With: with}
	return s
}

func (s *store) uri(key string) string { return "s3://" + s.bucket + "/" + key }

func (s *store) put(t *testing.T, key, text string) {
	t.Helper()
	s.Put(t, s.bucket, key, text)
}

func (s *store) open(t *testing.T) ingest.Source {
	t.Helper()
	src, name, err := Kind().Open(t.Context(), s.place, ingest.Env{Entries: &s.entries})
	if err != nil {
		t.Fatal(err)
	}
	if name != "s3://"+s.bucket {
		t.Fatalf("the name of the source is %s", name)
	}
	return src
}

func (s *store) fetcher() ingest.Fetcher {
	return Kind().NewFetcher(ingest.Env{Places: []ingest.Place{s.place}})
}

func TestLaw(t *testing.T) {
	ingesttest.Test(t, func(t *testing.T) *ingesttest.World {
		s := newStore(t, true)
		for i := range 6 {
			key := fmt.Sprintf("runs/%d/model", i)
			s.put(t, key, fmt.Sprintf("model %d", i))
			s.put(t, fmt.Sprintf("runs/%d/saved/model.bin", i), fmt.Sprintf("weights %d", i))
			s.put(t, fmt.Sprintf("runs/%d/saved/vars/index", i), "index")
			s.entries.step(t, fmt.Sprint("run-", i), time.Now(), s.uri(key), s.uri(fmt.Sprintf("runs/%d/saved/", i)))
		}
		return &ingesttest.World{
			Open: s.open,
			Change: func(t *testing.T) {
				s.put(t, "runs/new/model", "new")
				s.entries.step(t, "run-new", time.Now(), s.uri("runs/new/model"))
			},
			Break:   func(*testing.T) { s.Stop() },
			Fetcher: s.fetcher(),
		}
	})
}

// look reads the source from its beginning: what it says of each location, and
// what it leaves out.
func (s *store) look(t *testing.T) (said map[string]schema.Statement, left map[string]error) {
	t.Helper()
	said, left = map[string]schema.Statement{}, map[string]error{}
	for e, err := range s.open(t).Observe(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if e.Skipped != nil {
			left[e.Skipped.Object] = e.Skipped.Reason
		}
		if e.Fact() {
			var p schema.Snapshot
			if err := schema.DecodePredicate(e.Statement, true, &p); err != nil {
				t.Fatal(err)
			}
			said[p.Source] = e.Statement
		}
	}
	return said, left
}

func sum(text string) string {
	h := sha256.Sum256([]byte(text))
	return hex.EncodeToString(h[:])
}

// TestOverwritten overwrites what steps left: with versions, what was there when
// the step ended is hashed and fetched; without, nothing is made up.
func TestOverwritten(t *testing.T) {
	t.Parallel()
	for _, versions := range []bool{true, false} {
		s := newStore(t, versions)
		s.put(t, "m/model", "old")
		s.put(t, "m/saved/a", "old")
		time.Sleep(1100 * time.Millisecond) // times of objects are whole seconds
		ended := time.Now().Add(-slack)
		time.Sleep(1100 * time.Millisecond)
		s.put(t, "m/model", "new")
		s.put(t, "m/saved/a", "new")
		s.entries.step(t, "run-1", ended, s.uri("m/model"), s.uri("m/saved"))
		said, left := s.look(t)
		if !versions {
			if len(said) > 0 || !errors.Is(left[s.uri("m/model")], errOverwritten) || !errors.Is(left[s.uri("m/saved")], errOverwritten) {
				t.Errorf("without versions: said %v, left out %v", said, left)
			}
			continue
		}
		one, folder := said[s.uri("m/model")], said[s.uri("m/saved")]
		if got := one.Subject[0].Digest[schema.SHA256]; got != sum("old") {
			t.Fatalf("what was there when the step ended has the digest %s, want that of its text", got)
		}
		for _, st := range []schema.Statement{one, folder} {
			r := schema.Resource{Key: st.Subject[0].Key(), Kind: Name, URI: st.Subject[0].URI}
			dir := t.TempDir()
			if err := s.fetcher().Fetch(t.Context(), r, dir); err != nil {
				t.Fatal(err)
			}
			if got, err := s.fetcher().Digest(t.Context(), dir); err != nil || got != r.Key {
				t.Errorf("fetched by version, it digests to %s (%v), want %s", got, err, r.Key)
			}
		}
	}
}

// TestWhatIsNotThere leaves a location known by itself alone where nothing is, or
// nothing may be read, and looks at no other bucket.
func TestWhatIsNotThere(t *testing.T) {
	s := newStore(t, false)
	s.entries.step(t, "run-1", time.Now(), s.uri("nothing"), "s3://another/model", "gs://"+s.bucket+"/model", s.uri("a"))
	said, left := s.look(t)
	if len(said) > 0 || len(left) != 2 || !errors.Is(left[s.uri("nothing")], errNothing) || !errors.Is(left[s.uri("a")], errNothing) {
		t.Errorf("said %v, left out %v, want two locations in the bucket left out", said, left)
	}
	for _, wrong := range []string{"s3://", "s3:///key", "s3://u:p@b/k", "s3://b?x=1", "s3://b:80/k"} {
		if _, _, err := Kind().Open(t.Context(), ingest.Place{URL: wrong}, ingest.Env{Entries: &s.entries}); err == nil {
			t.Errorf("%q is taken for a bucket", wrong)
		}
	}
	for _, with := range []string{`{"endpoint":"nowhere"}`, `{"endpoint":"https://user:hunter2@host"}`, `{"accessKey":{"env":"A"}}`, `{"accessKey":"AKIA"}`, `{"colour":1}`} {
		var setting *ingest.SettingError
		if _, _, err := Kind().Open(t.Context(), ingest.Place{URL: "s3://b", With: []byte(with)}, ingest.Env{Entries: &s.entries}); !errors.As(err, &setting) {
			t.Errorf("with %s: %v, want a *SettingError", with, err)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("with %s: the error holds the password: %v", with, err)
		}
	}
}

// TestFolderInPart has some of what is below a prefix written, written over or
// deleted after the step ended: the folder is what it was, or nothing is said.
func TestFolderInPart(t *testing.T) {
	t.Parallel()
	for _, versions := range []bool{true, false} {
		s := newStore(t, versions)
		for _, folder := range []string{"over", "gone", "more"} {
			s.put(t, folder+"/a", "a")
			s.put(t, folder+"/b", "b")
		}
		want, err := schema.TreeDigest([]schema.SnapshotFile{
			{Path: "a", Type: "file", Size: 1, SHA256: sum("a")}, {Path: "b", Type: "file", Size: 1, SHA256: sum("b")},
		})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(1100 * time.Millisecond) // times of objects are whole seconds
		ended := time.Now().Add(-slack)
		time.Sleep(1100 * time.Millisecond)
		s.put(t, "over/b", "B")
		s.put(t, "more/c", "c")
		if err := s.Client.RemoveObject(t.Context(), s.bucket, "gone/b", minio.RemoveObjectOptions{}); err != nil {
			t.Fatal(err)
		}
		s.entries.step(t, "run-1", ended, s.uri("over"), s.uri("gone"), s.uri("more"))
		said, left := s.look(t)
		for _, folder := range []string{"over", "gone", "more"} {
			st, ok := said[s.uri(folder)]
			switch {
			case versions && !ok:
				t.Errorf("%s, with versions: left out: %v", folder, left[s.uri(folder)])
			case versions && st.Subject[0].Digest[schema.RetraceTree1] != want:
				t.Errorf("%s, with versions: it is not the folder that the step left", folder)
			case !versions && folder != "gone" && !errors.Is(left[s.uri(folder)], errOverwritten):
				t.Errorf("%s, without versions: said %v, left out for %v", folder, ok, left[s.uri(folder)])
			}
		}
	}
}

// TestDenied may read some of the bucket only: the rest is left out, and what
// comes after it is read.
func TestDenied(t *testing.T) {
	s := newStore(t, true)
	s.put(t, "closed/model", "closed")
	s.put(t, "closed/saved/a", "closed")
	s.put(t, "open/model", "open")
	s.entries.step(t, "run-1", time.Now(), s.uri("closed/model"), s.uri("closed/saved"), s.uri("open/model"))
	policy := fmt.Sprintf(`{"Version":"2012-10-17","Statement":[
		{"Effect":"Allow","Action":["s3:ListBucket","s3:ListBucketVersions"],"Resource":"arn:aws:s3:::%[1]s"},
		{"Effect":"Allow","Action":["s3:GetObject","s3:GetObjectVersion"],"Resource":"arn:aws:s3:::%[1]s/open/*"}]}`, s.bucket)
	role, err := credentials.NewSTSAssumeRole(s.URL, credentials.STSAssumeRoleOptions{AccessKey: s3test.AccessKey, SecretKey: s3test.SecretKey, Policy: policy})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := role.GetWithContext(&credentials.CredContext{Client: http.DefaultClient})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", keys.AccessKeyID)
	t.Setenv("AWS_SECRET_ACCESS_KEY", keys.SecretAccessKey)
	t.Setenv("AWS_SESSION_TOKEN", keys.SessionToken)
	s.place.With = fmt.Appendf(nil, `{"endpoint":%q}`, s.URL)
	said, left := s.look(t)
	if _, ok := said[s.uri("open/model")]; !ok || len(said) != 1 {
		t.Errorf("said %v, want what may be read", said)
	}
	for _, closed := range []string{"closed/model", "closed/saved"} {
		if !denied(left[s.uri(closed)]) {
			t.Errorf("%s: left out for %v, want that it may not be read", closed, left[s.uri(closed)])
		}
	}
}

// TestNoVersions has a store that knows no versions at all, as some do: what was
// written before the step ended is read, and nothing is made up of the rest.
func TestNoVersions(t *testing.T) {
	t.Parallel()
	s := newStore(t, false)
	target, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host // it is signed
	}}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("versions") {
			w.WriteHeader(http.StatusNotImplemented)
			fmt.Fprint(w, `<Error><Code>NotImplemented</Code><Message>ListObjectVersions is not implemented</Message></Error>`)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	defer front.Close()
	s.place.With = []byte(strings.Replace(string(s.place.With), s.URL, front.URL, 1))

	s.put(t, "kept/a", "a")
	s.put(t, "over/a", "a")
	s.put(t, "over/b", "b")
	time.Sleep(1100 * time.Millisecond) // times of objects are whole seconds
	ended := time.Now().Add(-slack)
	time.Sleep(1100 * time.Millisecond)
	s.put(t, "over/b", "B")
	s.entries.step(t, "run-1", ended, s.uri("kept"), s.uri("over"), s.uri("over/b"), s.uri("over/a"))
	said, left := s.look(t)
	if _, kept := said[s.uri("kept")]; !kept || len(said) != 2 || said[s.uri("over/a")].Subject[0].Digest[schema.SHA256] != sum("a") {
		t.Errorf("said %v, want the folder and the object that nobody wrote over", said)
	}
	for _, over := range []string{"over", "over/b"} {
		if !errors.Is(left[s.uri(over)], errOverwritten) {
			t.Errorf("%s: left out for %v, want that it was written over", over, left[s.uri(over)])
		}
	}
}

// FuzzLocation reads locations as statements of others hold them: what is taken
// for a place in the bucket is in it, and has one name.
func FuzzLocation(f *testing.F) {
	for _, uri := range []string{
		"s3://mlpipeline/v2/artifacts/forecast/01JGJX4T60/model", "s3://mlpipeline/v2/artifacts/", "s3://mlpipeline", "s3://mlpipeline/v2/artifacts2/x",
		"s3://mlpipeline/v2/artifacts/a b?versionId=4f1c9d2e", "s3://mlpipeline/v2/artifacts//x/", "s3://u:p@mlpipeline/v2/artifacts/x",
		"s3://mlpipeline/v2/artifacts/saved?at=2026-11-26T18:00:00Z", "minio://mlpipeline/v2/artifacts/x", "s3://mlpipeline/v2/artifacts/%zz?at=x",
	} {
		f.Add(uri)
	}
	place := ingest.Place{URL: "s3://mlpipeline/v2/artifacts", With: []byte(`{"endpoint":"http://127.0.0.1:9"}`)}
	b, err := openBucket(place)
	if err != nil {
		f.Fatal(err)
	}
	fetch := &fetcher{ingest.Env{Places: []ingest.Place{place}}}
	f.Fuzz(func(t *testing.T, uri string) {
		if key, ok := b.key(uri); ok {
			if again, ok := b.key(b.uri(key)); !ok || again != key {
				t.Errorf("%q is the key %q, whose location is the key %q", uri, key, again)
			}
		}
		if at, key, _, _, err := fetch.locate(uri); err == nil && (at.name == "" || key == "") {
			t.Errorf("%q is located in the bucket %q under the key %q", uri, at.name, key)
		}
		if p, err := parsePosition(uri); err == nil && uri != "" {
			if again, err := parsePosition(p.String()); err != nil || again != p {
				t.Errorf("the cursor %q is %v, which is read again as %v (%v)", uri, p, again, err)
			}
		}
	})
}
