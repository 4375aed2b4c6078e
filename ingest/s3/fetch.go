package s3

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/schema"
)

// fetcher brings objects back. The place that they are in is the one of
// ingest.Env.Places that they lie below, else one without settings.
type fetcher struct{ env ingest.Env }

// Fetch lays the object r out in dir under the name that its key ends with; of
// the objects below a prefix, it makes a folder of that name.
func (f *fetcher) Fetch(ctx context.Context, r schema.Resource, dir string) error {
	if err := f.fetch(ctx, r, dir); err != nil {
		return fmt.Errorf("fetching %s: %w", r.Key, err)
	}
	return nil
}

// Has says whether the object r, or something below the prefix that it is, is still
// there. Nothing is read of it.
func (f *fetcher) Has(ctx context.Context, r schema.Resource) (bool, error) {
	b, key, version, when, err := f.locate(r.URI)
	if err != nil {
		return false, err
	}
	if r.Key.Algorithm() == schema.SHA256 {
		_, err := b.stat(ctx, key, version)
		if missing(err) {
			return false, nil
		}
		return err == nil, err
	}
	objects, err := b.below(ctx, key+"/", when)
	return len(objects) > 0, err
}

func (f *fetcher) fetch(ctx context.Context, r schema.Resource, dir string) error {
	b, key, version, when, err := f.locate(r.URI)
	if err != nil {
		return err
	}
	name := path.Base(key)
	if strings.HasPrefix(r.Content, "store:") && f.env.Content != nil {
		return f.env.Content.Fetch(ctx, r.Key, filepath.Join(dir, name))
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if r.Key.Algorithm() == schema.SHA256 {
		o, err := b.stat(ctx, key, version)
		if err != nil {
			return err
		}
		return b.lay(ctx, root, o, name)
	}
	objects, err := b.below(ctx, key+"/", when)
	if err != nil {
		return err
	}
	if len(objects) == 0 {
		return fmt.Errorf("there is nothing below %s any more", b.uri(key))
	}
	for _, o := range objects {
		if err := b.lay(ctx, root, o, name+strings.TrimPrefix(o.key, key)); err != nil {
			return err
		}
	}
	return nil
}

// Digest is the key of the one file or folder that Fetch left in dir.
func (f *fetcher) Digest(ctx context.Context, dir string) (schema.Key, error) {
	key, err := digest(ctx, dir)
	if err != nil {
		return "", fmt.Errorf("digesting %s: %w", dir, err)
	}
	return key, nil
}

func digest(ctx context.Context, dir string) (schema.Key, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	if len(entries) != 1 {
		return "", fmt.Errorf("it holds %d things and not the one that was fetched", len(entries))
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	name := entries[0].Name()
	if !entries[0].IsDir() {
		sum, _, err := hashFile(root, name)
		return schema.Key(schema.SHA256 + ":" + sum), err
	}
	var list []schema.SnapshotFile
	err = fs.WalkDir(root.FS(), name, func(at string, d fs.DirEntry, err error) error {
		if err != nil || at == name {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		member := strings.TrimPrefix(at, name+"/")
		if d.IsDir() {
			list = append(list, schema.SnapshotFile{Path: member, Type: "folder"})
			return nil
		}
		sum, size, err := hashFile(root, at)
		list = append(list, schema.SnapshotFile{Path: member, Type: "file", Size: size, SHA256: sum})
		return err
	})
	if err != nil {
		return "", err
	}
	tree, err := schema.TreeDigest(list)
	return schema.Key(schema.RetraceTree1 + ":" + tree), err
}

// locate reads the URI of a recorded object: its bucket as it is reached, its
// key, its version or the time that it was looked at.
func (f *fetcher) locate(uri string) (b *bucket, key, version string, when time.Time, err error) {
	at, query, _ := strings.Cut(uri, "?")
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, "", "", when, fmt.Errorf("%q is not the URI of a recorded object: %w", uri, err)
	}
	if t := values.Get("at"); t != "" {
		if when, err = time.Parse(time.RFC3339, t); err != nil {
			return nil, "", "", when, fmt.Errorf("%q is not the URI of a recorded object: %w", uri, err)
		}
	}
	version = values.Get("versionId")
	for _, p := range f.env.Places {
		if !strings.HasPrefix(p.URL, Name+"://") {
			continue
		}
		b, err := openBucket(p)
		if err != nil {
			continue // said when it was configured
		}
		if key, ok := b.key(at); ok {
			return b, key, version, when, nil
		}
	}
	whole, err := parseURL(at)
	if err != nil {
		return nil, "", "", when, err
	}
	key = whole.prefix
	if key == "" {
		return nil, "", "", when, errors.New("it is a bucket, and not something in one")
	}
	b, err = openBucket(ingest.Place{URL: Name + "://" + whole.name})
	return b, key, version, when, err
}
