package s3

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

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
	if len(said) > 0 || len(left) > 0 {
		t.Errorf("said %v, left out %v", said, left)
	}
	for _, wrong := range []string{"s3://", "s3:///key", "s3://u:p@b/k", "s3://b?x=1", "s3://b:80/k"} {
		if _, _, err := Kind().Open(t.Context(), ingest.Place{URL: wrong}, ingest.Env{Entries: &s.entries}); err == nil {
			t.Errorf("%q is taken for a bucket", wrong)
		}
	}
	for _, with := range []string{`{"endpoint":"nowhere"}`, `{"accessKey":{"env":"A"}}`, `{"accessKey":"AKIA"}`, `{"colour":1}`} {
		var setting *ingest.SettingError
		if _, _, err := Kind().Open(t.Context(), ingest.Place{URL: "s3://b", With: []byte(with)}, ingest.Env{Entries: &s.entries}); !errors.As(err, &setting) {
			t.Errorf("with %s: %v, want a *SettingError", with, err)
		}
	}
}
