package s3

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
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
		o := described(info)
		return &o, nil
	}
	if when.IsZero() {
		return nil, nil
	}
	there := err == nil
	past, err := b.versions(ctx, key, when)
	switch {
	case err != nil && !unversioned(err):
		return nil, err
	case past[key].lost || there && past[key].object == nil:
		return nil, fmt.Errorf("%s: %w", b.uri(key), errOverwritten)
	}
	return past[key].object, nil
}

// below are the objects whose keys begin with prefix, by key.
func (b *bucket) below(ctx context.Context, prefix string, when time.Time) ([]object, error) {
	if when.IsZero() {
		return b.current(ctx, prefix, when)
	}
	past, err := b.versions(ctx, prefix, when)
	if unversioned(err) {
		return b.current(ctx, prefix, when)
	}
	if err != nil {
		return nil, err
	}
	var objects []object
	for _, key := range slices.Sorted(maps.Keys(past)) {
		// Without one of its objects the folder would be another one.
		if past[key].lost {
			return nil, fmt.Errorf("%s: %w", b.uri(key), errOverwritten)
		}
		if o := past[key].object; o != nil {
			objects = append(objects, *o)
		}
	}
	return objects, nil
}

// current are the objects that are there now, and an error if one of them was
// written later than at a time: a listing does not say what was there before.
func (b *bucket) current(ctx context.Context, prefix string, when time.Time) ([]object, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the listing where it is left early
	var objects []object
	for info := range b.client.ListObjects(ctx, b.name, minio.ListObjectsOptions{Prefix: prefix, Recursive: true}) {
		switch {
		case info.Err != nil:
			return nil, fmt.Errorf("listing %s: %w", b.uri(prefix), info.Err)
		case strings.HasSuffix(info.Key, "/"):
			continue // a mark that consoles make for an empty folder
		case len(objects) >= maxObjects:
			return nil, b.tooMany(prefix)
		case !when.IsZero() && info.LastModified.After(when):
			return nil, fmt.Errorf("%s: %w", b.uri(info.Key), errOverwritten)
		}
		objects = append(objects, described(info))
	}
	return objects, ctx.Err()
}

func (b *bucket) tooMany(prefix string) error {
	return &schema.FieldError{Field: "uri", Reason: fmt.Sprintf("%s holds more than %d objects", b.uri(prefix), maxObjects)}
}

// described is an object as a listing, or the store when asked for it, tells of
// it: the latter in whole seconds.
func described(info minio.ObjectInfo) object {
	return object{info.Key, info.VersionID, strings.Trim(info.ETag, `"`), info.Size, info.LastModified.Truncate(time.Second)}
}

// past is what was under a key at a time.
type past struct {
	object *object   // nil if nothing was there
	at     time.Time // when it was written, or deleted
	lost   bool      // something was written since over whatever was there
}

// noVersion is what stores call what was written while the bucket kept no
// versions. The next write without versions replaces it.
const noVersion = "null"

// versions are what was under the keys that begin with prefix at a time; of a
// prefix without a slash at its end, under that key alone. Keys that were
// written first after that time have no object.
func (b *bucket) versions(ctx context.Context, prefix string, when time.Time) (map[string]past, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	folder := strings.HasSuffix(prefix, "/")
	found := map[string]past{}
	for info := range b.client.ListObjects(ctx, b.name, minio.ListObjectsOptions{Prefix: prefix, Recursive: folder, WithVersions: true}) {
		switch {
		case info.Err != nil:
			return nil, fmt.Errorf("listing the versions of %s: %w", b.uri(prefix), info.Err)
		case strings.HasSuffix(info.Key, "/") || !folder && info.Key != prefix:
			continue
		case len(found) >= maxObjects:
			return nil, b.tooMany(prefix)
		}
		p := found[info.Key]
		switch late := info.LastModified.After(when); {
		case late:
			p.lost = p.lost || info.VersionID == "" || info.VersionID == noVersion
		case info.LastModified.After(p.at): // of one time, the newest is listed first
			p.at, p.object = info.LastModified, nil
			if o := described(info); !info.IsDeleteMarker {
				p.object = &o
			}
		}
		found[info.Key] = p
	}
	return found, ctx.Err()
}

// unversioned says that the store knows no versions at all.
func unversioned(err error) bool { return code(err) == minio.NotImplemented }

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
