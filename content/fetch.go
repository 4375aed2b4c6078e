package content

import (
	"archive/tar"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/retrace-ledger/retrace/schema"
)

// DamageError says that what the store holds under a key is not what the key
// stands for.
type DamageError struct {
	Key    schema.Key
	Reason string
}

func (e *DamageError) Error() string { return fmt.Sprintf("kept %s is damaged: %s", e.Key, e.Reason) }

// Fetch lays the content of key out at path, which must not exist. Every byte
// is checked against its digest before path appears: path is whole or absent.
// A file is not executable; in a folder, files are as they were.
func (s *Store) Fetch(ctx context.Context, key schema.Key, path string) error {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("laying out %s: %s exists", key, path)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("laying out %s: %w", key, err)
	}
	leave, err := s.enterToRead(ctx)
	if err != nil {
		return fmt.Errorf("laying out %s at %s: %w", key, path, err)
	}
	defer leave()
	r, info, err := s.find(ctx, key)
	if err != nil {
		return fmt.Errorf("laying out %s at %s: %w", key, path, err)
	}
	dir, base := filepath.Split(filepath.Clean(path))
	work := filepath.Join(dir, "."+base+".retrace-"+rand.Text()[:8])
	if err := os.Mkdir(work, 0o700); err != nil {
		return fmt.Errorf("laying out %s at %s: %w", key, path, err)
	}
	defer os.RemoveAll(work)
	if err := s.layOut(ctx, info, r, work); err != nil {
		return fmt.Errorf("laying out %s at %s: %w", key, path, err)
	}
	if err := os.Rename(filepath.Join(work, "x"), path); err != nil {
		return fmt.Errorf("laying out %s at %s: %w", key, path, err)
	}
	return nil
}

// layOut writes the content of a record to work/x.
func (s *Store) layOut(ctx context.Context, info Info, r record, work string) error {
	root, err := os.OpenRoot(work)
	if err != nil {
		return err
	}
	defer root.Close()
	rep, err := s.repository(ctx, false)
	if err != nil {
		return err
	}
	if r.file() {
		return rep.layOutFile(ctx, root, "x", 0o666, info.Key.Hex(), r.handle)
	}
	members, err := rep.members(ctx, info.Key, r.handle)
	if err != nil {
		return err
	}
	if err := root.Mkdir("x", 0o777); err != nil {
		return err
	}
	below, err := root.OpenRoot("x")
	if err != nil {
		return err
	}
	defer below.Close()
	return rep.layOutFolder(ctx, below, members)
}

// layOutFolder writes members below root. The listing was checked, so that
// each member's folder stands before it and is no link.
func (r *repository) layOutFolder(ctx context.Context, root *os.Root, members []member) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(transfers)
	var err error
	for _, m := range members {
		switch m.Type {
		case typeFolder:
			err = root.Mkdir(m.Path, 0o777)
		case typeLink:
			err = root.Symlink(m.Target, m.Path)
		default:
			mode := fs.FileMode(0o666)
			if m.Exec {
				mode = 0o777
			}
			g.Go(func() error { return r.layOutFile(gctx, root, m.Path, mode, m.SHA256, m.Object) })
		}
		if err != nil {
			break
		}
	}
	return errors.Join(err, g.Wait())
}

func (r *repository) layOutFile(ctx context.Context, root *os.Root, name string, mode fs.FileMode, sum, handle string) error {
	src, err := r.file(ctx, schema.Key(schema.SHA256+":"+sum), handle)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, &contextReader{ctx, src})
	return errors.Join(err, dst.Close())
}

// file opens kept bytes. The last Read gives a *[DamageError] instead of
// io.EOF if they do not have the digest of key.
func (r *repository) file(ctx context.Context, key schema.Key, handle string) (io.ReadCloser, error) {
	rd, err := r.open(ctx, handle)
	if err != nil {
		return nil, damage(ctx, key, err)
	}
	return &checkedReader{ctx: ctx, rd: rd, key: key, hash: sha256.New()}, nil
}

// damage turns an error of reading kept bytes into a DamageError, unless it
// says nothing about them.
func damage(ctx context.Context, key schema.Key, err error) error {
	if ctx.Err() != nil || errors.Is(err, fs.ErrPermission) {
		return err
	}
	return &DamageError{Key: key, Reason: err.Error()}
}

type checkedReader struct {
	ctx  context.Context
	rd   io.ReadCloser
	key  schema.Key
	hash hash.Hash
}

func (c *checkedReader) Read(p []byte) (int, error) {
	n, err := c.rd.Read(p)
	c.hash.Write(p[:n])
	switch {
	case err == nil:
		return n, nil
	case !errors.Is(err, io.EOF):
		return n, damage(c.ctx, c.key, err)
	}
	if got := hex.EncodeToString(c.hash.Sum(nil)); got != c.key.Hex() {
		return n, &DamageError{Key: c.key, Reason: "its bytes have the digest sha256:" + got}
	}
	return n, io.EOF
}

func (c *checkedReader) Close() error { return c.rd.Close() }

// checkMembers checks that the listing has the digest of key and that each
// member lies in a folder that is listed before it.
func checkMembers(key schema.Key, members []member) error {
	files := make([]schema.SnapshotFile, len(members))
	folders := map[string]bool{".": true}
	for i, m := range members {
		files[i] = m.SnapshotFile
		if !folders[path.Dir(m.Path)] {
			return fmt.Errorf("its listing has %q before the folder that holds it", m.Path)
		}
		folders[m.Path] = m.Type == typeFolder
	}
	sum, err := schema.TreeDigest(files)
	if err != nil {
		return fmt.Errorf("its listing is wrong: %w", err)
	}
	if sum != key.Hex() {
		return fmt.Errorf("its listing has the digest %s:%s", schema.RetraceTree1, sum)
	}
	return nil
}

// Open reads the bytes of the file kept under key. The last Read gives a
// *[DamageError] instead of io.EOF if they do not have its digest. Of an
// alias, the bytes are those of what it stands for.
func (s *Store) Open(ctx context.Context, key schema.Key) (_ io.ReadCloser, err error) {
	leave, err := s.enterToRead(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", key, err)
	}
	defer func() {
		if err != nil {
			leave()
		}
	}()
	r, info, err := s.find(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("reading %w", err)
	}
	if !r.file() {
		return nil, fmt.Errorf("reading %s: it is a folder, not a file", key)
	}
	rep, err := s.repository(ctx, false)
	if err != nil {
		return nil, err
	}
	rd, err := rep.file(ctx, info.Key, r.handle)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", key, err)
	}
	return &leavingReader{rd, leave}, nil
}

// leavingReader leaves the store when it is closed.
type leavingReader struct {
	io.ReadCloser
	leave func()
}

func (l *leavingReader) Close() error {
	defer l.leave()
	return l.ReadCloser.Close()
}

// WriteTar writes the folder kept under key to w as a tar stream, the same
// bytes each time: bytewise order of path, no times, no owners.
func (s *Store) WriteTar(ctx context.Context, key schema.Key, w io.Writer) error {
	leave, err := s.enterToRead(ctx)
	if err != nil {
		return fmt.Errorf("reading %s: %w", key, err)
	}
	defer leave()
	r, info, err := s.find(ctx, key)
	if err != nil {
		return fmt.Errorf("reading %w", err)
	}
	if !r.folder() {
		return fmt.Errorf("reading %s: it is a file, not a folder", key)
	}
	rep, err := s.repository(ctx, false)
	if err != nil {
		return err
	}
	members, err := rep.members(ctx, info.Key, r.handle)
	if err != nil {
		return fmt.Errorf("reading %s: %w", key, err)
	}
	tw := tar.NewWriter(w)
	for _, m := range members {
		if err := rep.addToTar(ctx, tw, m); err != nil {
			return fmt.Errorf("reading %s of %s: %w", m.Path, key, err)
		}
	}
	return tw.Close()
}

func (r *repository) addToTar(ctx context.Context, tw *tar.Writer, m member) error {
	h := &tar.Header{Format: tar.FormatPAX, Name: m.Path, Mode: 0o644, ModTime: time.Unix(0, 0).UTC()}
	switch m.Type {
	case typeFolder:
		h.Typeflag, h.Name, h.Mode = tar.TypeDir, m.Path+"/", 0o755
		return tw.WriteHeader(h)
	case typeLink:
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, m.Target, 0o777
		return tw.WriteHeader(h)
	}
	h.Typeflag, h.Size = tar.TypeReg, m.Size
	if m.Exec {
		h.Mode = 0o755
	}
	rd, err := r.file(ctx, schema.Key(schema.SHA256+":"+m.SHA256), m.Object)
	if err != nil {
		return err
	}
	defer rd.Close()
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(tw, &contextReader{ctx, rd})
	return err
}
