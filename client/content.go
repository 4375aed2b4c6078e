package client

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"

	"github.com/retrace-ledger/retrace/content"
	"github.com/retrace-ledger/retrace/schema"
)

// Content is the server's content store: what *content.Store is to an open
// ledger.
type Content struct {
	c       *Client
	exclude []string
}

// Content returns the server's content store. What is one of exclude is left
// out of whatever is put there.
func (c *Client) Content(exclude ...string) *Content { return &Content{c, exclude} }

func contentPath(key schema.Key) string { return "/v1/content/" + url.PathEscape(string(key)) }

// Digest is the key that Put would give, and what it would keep, leaving out
// exclude too.
func (s *Content) Digest(ctx context.Context, path string, exclude ...string) (schema.Key, []schema.SnapshotFile, error) {
	return content.Digest(ctx, path, append(exclude[:len(exclude):len(exclude)], s.exclude...)...)
}

// Has says whether the server keeps the bytes of key.
func (s *Content) Has(ctx context.Context, key schema.Key) (bool, error) {
	resp, err := s.c.do(ctx, http.MethodHead, contentPath(key), "", nil, -1)
	var refused *Error
	switch {
	case errors.As(err, &refused) && refused.Status == http.StatusNotFound:
		return false, nil
	case err != nil:
		return false, fmt.Errorf("asking for %s: %w", key, err)
	}
	return true, resp.Body.Close()
}

// Put keeps the file or folder at path and returns its key. What the server
// keeps already is not sent.
func (s *Content) Put(ctx context.Context, path string) (schema.Key, error) {
	key, _, err := s.PutFiles(ctx, path)
	return key, err
}

// PutFiles is Put that also says what it found.
func (s *Content) PutFiles(ctx context.Context, path string) (schema.Key, []schema.SnapshotFile, error) {
	key, files, err := s.Digest(ctx, path)
	if err != nil {
		return "", nil, err
	}
	kept, err := s.Has(ctx, key)
	if err != nil {
		return "", nil, err
	}
	if !kept {
		if err := s.send(ctx, key, path, files); err != nil {
			return "", nil, fmt.Errorf("sending %s to the server: %w", path, err)
		}
	}
	return key, files, nil
}

func (s *Content) send(ctx context.Context, key schema.Key, path string, files []schema.SnapshotFile) error {
	if key.Algorithm() == schema.RetraceTree1 {
		return s.sendFolder(ctx, key, path, files)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	resp, err := s.c.do(ctx, http.MethodPut, contentPath(key), MediaBytes, f, info.Size())
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// sendFolder sends exactly the members that were digested, as a tar stream.
func (s *Content) sendFolder(ctx context.Context, key schema.Key, path string, files []schema.SnapshotFile) error {
	digested := make(map[string]bool, len(files))
	for _, f := range files {
		digested[f.Path] = true
	}
	r, w := io.Pipe()
	packed := make(chan struct{})
	go func() {
		defer close(packed)
		err := Pack(ctx, path, w, func(member string) bool { return digested[member] })
		_ = w.CloseWithError(err) // never fails; the reader gets err
	}()
	resp, err := s.c.do(ctx, http.MethodPut, contentPath(key), MediaTar, r, -1)
	_ = r.CloseWithError(err) // never fails; if the server did not read to the end, Pack ends too
	<-packed
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// Alias makes key lead to the bytes of target, which the server keeps.
func (s *Content) Alias(ctx context.Context, key, target schema.Key) error {
	resp, err := s.c.do(ctx, http.MethodPut, contentPath(key)+"/alias?target="+url.QueryEscape(string(target)), "", nil, -1)
	if err != nil {
		return fmt.Errorf("naming %s as %s: %w", target, key, err)
	}
	return resp.Body.Close()
}

// Fetch lays the content of key out at path, which must not exist. It appears
// there whole, and only if it has the digest that key says; of a key that stands for
// other bytes, such as a commit for its Git pack, the digest of those.
func (s *Content) Fetch(ctx context.Context, key schema.Key, path string) error {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("fetching %s: %s exists", key, path)
	}
	dir, base := filepath.Split(filepath.Clean(path))
	work := filepath.Join(dir, "."+base+".retrace-"+rand.Text()[:8])
	if err := os.Mkdir(work, 0o700); err != nil {
		return fmt.Errorf("fetching %s: %w", key, err)
	}
	defer os.RemoveAll(work)
	if err := s.receive(ctx, key, filepath.Join(work, "x")); err != nil {
		return fmt.Errorf("fetching %s: %w", key, err)
	}
	return os.Rename(filepath.Join(work, "x"), path)
}

func (s *Content) receive(ctx context.Context, key schema.Key, path string) error {
	resp, err := s.c.get(ctx, contentPath(key))
	var refused *Error
	if errors.As(err, &refused) && refused.Status == http.StatusNotFound {
		return fmt.Errorf("%w: %w", ErrNotKept, err)
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	want, err := schema.ParseKey(resp.Header.Get(KeyHeader))
	if err != nil {
		return fmt.Errorf("the server does not say whose bytes it sends: %w", err)
	}
	if alg := key.Algorithm(); want != key && (alg == schema.SHA256 || alg == schema.RetraceTree1) {
		return fmt.Errorf("the server sent %s instead", want)
	}
	var got schema.Key
	switch want.Algorithm() {
	case schema.SHA256:
		got, err = writeFile(resp.Body, path)
	case schema.RetraceTree1:
		got, err = writeFolder(ctx, resp.Body, path)
	default:
		return fmt.Errorf("the server sent %s, which is no digest of a file or folder", want)
	}
	if err == nil && got != want {
		err = fmt.Errorf("the bytes that came have the digest %s, not %s", got, want)
	}
	return err
}

func writeFile(r io.Reader, path string) (schema.Key, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(f, h), r); err != nil {
		f.Close()
		return "", err
	}
	return schema.Key(schema.SHA256 + ":" + hex.EncodeToString(h.Sum(nil))), f.Close()
}

func writeFolder(ctx context.Context, r io.Reader, path string) (schema.Key, error) {
	if err := os.Mkdir(path, 0o777); err != nil {
		return "", err
	}
	if err := Unpack(ctx, r, path); err != nil {
		return "", err
	}
	key, _, err := content.Digest(ctx, path)
	return key, err
}
