package content_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	"github.com/retrace-ledger/retrace/content"
	"github.com/retrace-ledger/retrace/ingest/s3/s3test"
	"github.com/retrace-ledger/retrace/schema"
)

// Several ledgers keep content below one prefix of an object store: at once, from
// its creation on; each finds what the others keep, and it is there once.
func TestRemote(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	if err := server.Client.MakeBucket(t.Context(), "shared", minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	remote := &content.Remote{
		Bucket: "shared", Prefix: "team/retrace", Endpoint: server.URL, Region: "us-east-1",
		Secrets: func() (content.RemoteSecrets, error) {
			return content.RemoteSecrets{AccessKey: s3test.AccessKey, SecretKey: s3test.SecretKey, Password: "correct horse battery staple"}, nil
		},
	}
	store := func(t *testing.T, owner string) *content.Store {
		t.Helper()
		s, err := content.Open(t.Context(), filepath.Join(t.TempDir(), "content"), &content.Options{Owner: owner, Remote: remote})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
		return s
	}
	folder := func(t *testing.T, own string) string {
		t.Helper()
		dir := t.TempDir()
		for name, text := range map[string]string{"shared.bin": megabyte(1), "own": own} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	if s := store(t, "first"); s.Durability(t.TempDir()) != schema.Remote {
		t.Errorf("durability = %q, want %q", s.Durability(t.TempDir()), schema.Remote)
	}
	first := store(t, "first")
	before, _, err := first.Snapshot(t.Context(), folder(t, "made first"), "h", false)
	if err != nil {
		t.Fatal(err)
	}
	one := bytesBelow(t, server, "shared")

	const writers = 3
	keys := make([]schema.Key, writers)
	var g errgroup.Group
	for i := range writers {
		s, dir := store(t, fmt.Sprint("ledger ", i)), folder(t, fmt.Sprint("own of ", i))
		g.Go(func() error {
			var err error
			keys[i], _, err = s.Snapshot(t.Context(), dir, "h", false)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if all := bytesBelow(t, server, "shared"); all > one+one/4 {
		t.Errorf("%d bytes after one ledger, %d after %d more with the same megabyte: it is not kept once", one, all, writers)
	}
	last := store(t, "a new machine")
	for _, k := range append(keys, before) {
		at := filepath.Join(t.TempDir(), "x")
		if err := last.Fetch(t.Context(), k, at); err != nil {
			t.Errorf("Fetch(%s): %v", k, err)
		}
		if got, _, err := content.Digest(t.Context(), at); got != k || err != nil {
			t.Errorf("fetched %s, %v, want %s", got, err, k)
		}
	}
	v, err := last.Verify(t.Context(), func(f content.Finding) { t.Errorf("finding: %s", f) })
	if err != nil || v.Keys == 0 {
		t.Errorf("Verify = %+v, %v", v, err)
	}
	wrong := *remote
	wrong.Secrets = func() (content.RemoteSecrets, error) {
		return content.RemoteSecrets{AccessKey: s3test.AccessKey, SecretKey: s3test.SecretKey, Password: "another"}, nil
	}
	s, err := content.Open(t.Context(), filepath.Join(t.TempDir(), "content"), &content.Options{Remote: &wrong})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Fetch(t.Context(), before, filepath.Join(t.TempDir(), "x")); err == nil {
		t.Errorf("Fetch with another password succeeded")
	}
}

// megabyte is a megabyte that nothing compresses, the same for the same seed.
func megabyte(seed uint64) string {
	b := make([]byte, 1<<20)
	for i := range b {
		seed ^= seed << 13
		seed ^= seed >> 7
		seed ^= seed << 17
		b[i] = byte(seed >> 24)
	}
	return string(b)
}

func bytesBelow(t *testing.T, server *s3test.Server, bucket string) (n int64) {
	t.Helper()
	for o := range server.Client.ListObjects(t.Context(), bucket, minio.ListObjectsOptions{Recursive: true}) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		n += o.Size
	}
	return n
}
