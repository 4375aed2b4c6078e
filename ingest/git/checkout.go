package git

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/format/index"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/storer"
	"github.com/go-git/go-git/v5/storage/filesystem"
)

// Layout is what was laid out.
type Layout struct {
	Commit string
	// Submodules are the paths of submodules. Their content is in other
	// repositories: they are empty folders here.
	Submodules []string
}

// maxLink is how long the target of a symbolic link may be.
const maxLink = 4096 // bytes, PATH_MAX

// checkout writes the files of a commit below root, which nothing it writes can
// leave.
type checkout struct {
	ctx     context.Context
	objects storer.EncodedObjectStorer
	root    *os.Root
	index   index.Index
	layout  Layout
	links   []link
}

type link struct{ path, target string }

func checkOut(ctx context.Context, s *filesystem.Storage, c *object.Commit, dir string) (*Layout, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	co := &checkout{ctx: ctx, objects: s, root: root, index: index.Index{Version: 2}, layout: Layout{Commit: c.Hash.String()}}
	if err := co.tree(c.TreeHash, ""); err != nil {
		return nil, err
	}
	// Links come last, so that no file can be written through one.
	for _, l := range co.links {
		if err := root.Symlink(l.target, l.path); err != nil {
			return nil, err
		}
	}
	if err := s.SetIndex(&co.index); err != nil {
		return nil, fmt.Errorf("writing the index: %w", err)
	}
	return &co.layout, nil
}

func (co *checkout) tree(h plumbing.Hash, dir string) error {
	if err := co.ctx.Err(); err != nil {
		return err
	}
	t, err := readTree(co.objects, h)
	if err != nil {
		return err
	}
	for _, e := range t.Entries {
		name := path.Join(dir, e.Name)
		if err := checkName(e.Name); err != nil {
			return fmt.Errorf("tree %s: %w", h, err)
		}
		if e.Mode == filemode.Dir {
			if err := co.root.Mkdir(name, 0o777); err != nil {
				return err
			}
			if err := co.tree(e.Hash, name); err != nil {
				return err
			}
			continue
		}
		if err := co.entry(e, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (co *checkout) entry(e object.TreeEntry, name string) error {
	entry := &index.Entry{Name: name, Hash: e.Hash, Mode: e.Mode}
	co.index.Entries = append(co.index.Entries, entry)
	if e.Mode == filemode.Submodule {
		co.layout.Submodules = append(co.layout.Submodules, name)
		return co.root.Mkdir(name, 0o777)
	}
	if e.Mode == filemode.Symlink {
		target, err := linkTarget(co.objects, e.Hash)
		if err != nil {
			return err
		}
		entry.Size = uint32(len(target))
		co.links = append(co.links, link{name, target})
		return nil
	}
	perm := fs.FileMode(0o666)
	if executable(e.Mode) {
		perm = 0o777
	}
	f, err := co.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	size, err := copyBlob(co.ctx, co.objects, e.Hash, f)
	entry.Size = uint32(size)
	return errors.Join(err, f.Close())
}

// executable says whether a file is to be one that its owner can run. Git
// knows no other permission, but old trees have other bits set.
func executable(m filemode.FileMode) bool { return m&0o100 != 0 }

// copyBlob writes the blob and checks that it is the one that it is called.
func copyBlob(ctx context.Context, s storer.EncodedObjectStorer, h plumbing.Hash, w io.Writer) (int64, error) {
	o, err := s.EncodedObject(plumbing.BlobObject, h)
	if err != nil {
		return 0, fmt.Errorf("reading blob %s: %w", h, err)
	}
	rd, err := o.Reader()
	if err != nil {
		return 0, fmt.Errorf("reading blob %s: %w", h, err)
	}
	defer rd.Close()
	sum := plumbing.NewHasher(plumbing.BlobObject, o.Size())
	n, err := io.Copy(io.MultiWriter(w, sum), &contextReader{ctx, rd})
	if err != nil {
		return n, fmt.Errorf("copying blob %s: %w", h, err)
	}
	if got := sum.Sum(); got != h {
		return n, fmt.Errorf("blob %s hashes to %s", h, got)
	}
	return n, nil
}

func linkTarget(s storer.EncodedObjectStorer, h plumbing.Hash) (string, error) {
	var b strings.Builder
	limited := &limitedWriter{w: &b, left: maxLink}
	if _, err := copyBlob(context.Background(), s, h, limited); err != nil {
		return "", err
	}
	if b.Len() == 0 || strings.ContainsRune(b.String(), 0) {
		return "", fmt.Errorf("the link %s has no target that a file system could hold", h)
	}
	return b.String(), nil
}

// limitedWriter refuses more than a number of bytes.
type limitedWriter struct {
	w    io.Writer
	left int
}

func (l *limitedWriter) Write(p []byte) (int, error) {
	if len(p) > l.left {
		return 0, fmt.Errorf("the target of the link is longer than %d bytes", maxLink)
	}
	l.left -= len(p)
	return l.w.Write(p)
}

// readTree reads a tree and checks that it is the one that it is called.
func readTree(s storer.EncodedObjectStorer, h plumbing.Hash) (*object.Tree, error) {
	o, err := s.EncodedObject(plumbing.TreeObject, h)
	if err != nil {
		return nil, fmt.Errorf("reading tree %s: %w", h, err)
	}
	if err := rehash(o, h); err != nil {
		return nil, err
	}
	t := new(object.Tree)
	if err := t.Decode(o); err != nil {
		return nil, fmt.Errorf("reading tree %s: %w", h, err)
	}
	return t, nil
}

// rehash checks the bytes of an object against its name: what a store answers
// is only as good as its index.
func rehash(o plumbing.EncodedObject, h plumbing.Hash) error {
	rd, err := o.Reader()
	if err != nil {
		return fmt.Errorf("reading %s %s: %w", o.Type(), h, err)
	}
	defer rd.Close()
	sum := plumbing.NewHasher(o.Type(), o.Size())
	if _, err := io.Copy(sum, rd); err != nil {
		return fmt.Errorf("reading %s %s: %w", o.Type(), h, err)
	}
	if got := sum.Sum(); got != h {
		return fmt.Errorf("%s %s hashes to %s", o.Type(), h, got)
	}
	return nil
}

// checkName refuses names that lead elsewhere or into the repository's own
// folder, also where a file system folds case or drops trailing dots (git's
// verify_path).
func checkName(name string) error {
	trimmed := strings.TrimRight(name, " .")
	switch {
	case name == "" || name == "." || name == "..":
	case strings.ContainsAny(name, "/\x00"):
	case strings.EqualFold(trimmed, ".git"), strings.EqualFold(trimmed, "git~1"):
	default:
		return nil
	}
	return fmt.Errorf("%q cannot be the name of a file", name)
}
