package s3

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/retrace-ledger/retrace/schema"
)

// object is an object as it was at some time.
type object struct {
	key      string
	version  string // "" where the bucket keeps none
	etag     string
	size     int64
	modified time.Time
}

// errOverwritten is returned where what was there at a time is not there any
// more.
var errOverwritten = errors.New("it was written after the step had ended, and no version from before is kept")

// maxObjects is how many objects below a prefix are taken for one folder.
const maxObjects = 100_000

// at are the objects at a location as they were at a time, the zero time for
// now: one, under the key itself, or all below it, which then is a folder. There
// are none where nothing is there.
func (b *bucket) at(ctx context.Context, key string, when time.Time) (objects []object, folder bool, err error) {
	one, err := b.one(ctx, key, when)
	if err != nil || one != nil {
		if one != nil {
			objects = []object{*one}
		}
		return objects, false, err
	}
	objects, err = b.below(ctx, key+"/", when)
	return objects, true, err
}

// one is the object under the key itself; nil if there is none.
func (b *bucket) one(ctx context.Context, key string, when time.Time) (*object, error) {
	info, err := b.client.StatObject(ctx, b.name, key, minio.StatObjectOptions{})
	if err != nil && !missing(err) {
		return nil, fmt.Errorf("asking for %s: %w", b.uri(key), err)
	}
	if err == nil && (when.IsZero() || !info.LastModified.After(when)) {
		return &object{key, info.VersionID, strings.Trim(info.ETag, `"`), info.Size, info.LastModified}, nil
	}
	if when.IsZero() {
		return nil, nil
	}
	there := err == nil
	older, err := b.versions(ctx, key, when, false)
	if err != nil {
		return nil, err
	}
	if o, ok := older[key]; ok {
		return &o, nil
	}
	if there {
		return nil, fmt.Errorf("%s: %w", b.uri(key), errOverwritten)
	}
	return nil, nil
}

// below are the objects whose keys begin with prefix.
func (b *bucket) below(ctx context.Context, prefix string, when time.Time) ([]object, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the listing where it is left early
	var objects []object
	var late []string
	for info := range b.client.ListObjects(ctx, b.name, minio.ListObjectsOptions{Prefix: prefix, Recursive: true}) {
		if info.Err != nil {
			return nil, fmt.Errorf("listing %s: %w", b.uri(prefix), info.Err)
		}
		if strings.HasSuffix(info.Key, "/") {
			continue // a mark that consoles make for an empty folder
		}
		if len(objects)+len(late) >= maxObjects {
			return nil, &schema.FieldError{Field: "uri", Reason: fmt.Sprintf("%s holds more than %d objects", b.uri(prefix), maxObjects)}
		}
		if !when.IsZero() && info.LastModified.After(when) {
			late = append(late, info.Key)
			continue
		}
		// A listing does not say which version it lists; the time tells.
		objects = append(objects, object{info.Key, info.VersionID, strings.Trim(info.ETag, `"`), info.Size, info.LastModified})
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(late) == 0 {
		return objects, nil
	}
	older, err := b.versions(ctx, prefix, when, true)
	if err != nil {
		return nil, err
	}
	for _, key := range late {
		if o, ok := older[key]; ok {
			objects = append(objects, o)
		}
	}
	if len(objects) == 0 {
		return nil, fmt.Errorf("%s: %w", b.uri(prefix), errOverwritten)
	}
	return objects, nil
}

// versions are, of each key, the newest version that was there at a time.
func (b *bucket) versions(ctx context.Context, prefix string, when time.Time, recursive bool) (map[string]object, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	newest := map[string]object{}
	gone := map[string]time.Time{} // deleted at
	for info := range b.client.ListObjects(ctx, b.name, minio.ListObjectsOptions{Prefix: prefix, Recursive: recursive, WithVersions: true}) {
		if info.Err != nil {
			return nil, fmt.Errorf("listing the versions of %s: %w", b.uri(prefix), info.Err)
		}
		if info.LastModified.After(when) || info.VersionID == "" || info.VersionID == "null" || strings.HasSuffix(info.Key, "/") {
			continue
		}
		if info.IsDeleteMarker {
			if info.LastModified.After(gone[info.Key]) {
				gone[info.Key] = info.LastModified
			}
			continue
		}
		if have, ok := newest[info.Key]; !ok || info.LastModified.After(have.modified) {
			newest[info.Key] = object{info.Key, info.VersionID, strings.Trim(info.ETag, `"`), info.Size, info.LastModified}
		}
	}
	for key, at := range gone {
		if o, ok := newest[key]; ok && at.After(o.modified) {
			delete(newest, key)
		}
	}
	return newest, ctx.Err()
}

// read copies an object to w and returns its digest. It is an error if the
// object was replaced since it was listed.
func (b *bucket) read(ctx context.Context, o object, w io.Writer) (string, error) {
	opts := minio.GetObjectOptions{VersionID: o.version}
	if o.version == "" && o.etag != "" {
		if err := opts.SetMatchETag(o.etag); err != nil {
			return "", err
		}
	}
	body, err := b.client.GetObject(ctx, b.name, o.key, opts)
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", b.uri(o.key), err)
	}
	defer body.Close()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(h, w), body)
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", b.uri(o.key), err)
	}
	if n != o.size {
		return "", fmt.Errorf("reading %s: it gave %d bytes of %d", b.uri(o.key), n, o.size)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// files are objects as files of a folder, with the folders that they are in, as
// they lie when they are fetched. A key that could be no path of a file is
// refused.
func files(prefix string, objects []object, digest func(object) (string, error)) ([]schema.SnapshotFile, error) {
	var list []schema.SnapshotFile
	folders := map[string]bool{}
	for _, o := range objects {
		name := strings.TrimPrefix(o.key, prefix)
		if err := schema.CheckPath(name); err != nil {
			return nil, err
		}
		sum, err := digest(o)
		if err != nil {
			return nil, err
		}
		list = append(list, schema.SnapshotFile{Path: name, Type: "file", Size: o.size, SHA256: sum, Version: o.version, ETag: o.etag})
		for dir := path.Dir(name); dir != "." && !folders[dir]; dir = path.Dir(dir) {
			folders[dir] = true
			list = append(list, schema.SnapshotFile{Path: dir, Type: "folder"})
		}
	}
	return list, nil
}

// stat is one object, of a version or as it is now.
func (b *bucket) stat(ctx context.Context, key, version string) (object, error) {
	info, err := b.client.StatObject(ctx, b.name, key, minio.StatObjectOptions{VersionID: version})
	if err != nil {
		return object{}, fmt.Errorf("asking for %s: %w", b.uri(key), err)
	}
	return object{key, version, strings.Trim(info.ETag, `"`), info.Size, info.LastModified}, nil
}

// lay writes an object to a file below root.
func (b *bucket) lay(ctx context.Context, root *os.Root, o object, name string) error {
	if err := schema.CheckPath(name); err != nil {
		return fmt.Errorf("fetching %s: %w", b.uri(o.key), err)
	}
	if err := root.MkdirAll(path.Dir(name), 0o777); err != nil {
		return fmt.Errorf("fetching %s: %w", b.uri(o.key), err)
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return fmt.Errorf("fetching %s: %w", b.uri(o.key), err)
	}
	if _, err := b.read(ctx, o, f); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// hashFile is the digest and size of a file below root.
func hashFile(root *os.Root, name string) (string, int64, error) {
	f, err := root.Open(name)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), n, err
}
