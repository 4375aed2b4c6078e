package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/retrace-ledger/retrace/schema"
)

// Types of a schema.SnapshotFile.
const (
	typeFile   = "file"
	typeFolder = "folder"
	typeLink   = "link"
)

// listing is what a folder holds, by path.
type listing map[string]schema.SnapshotFile

func listingOf(files []schema.SnapshotFile) listing {
	l := make(listing, len(files))
	for _, f := range files {
		l[f.Path] = f
	}
	return l
}

// remove forgets p and everything below it.
func (l listing) remove(p string) {
	delete(l, p)
	for have := range l {
		if strings.HasPrefix(have, p+"/") {
			delete(l, have)
		}
	}
}

// add notes f at p, with the folders above it.
func (l listing) add(p string, f schema.SnapshotFile) {
	for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
		l[dir] = schema.SnapshotFile{Path: dir, Type: typeFolder}
	}
	f.Path = p
	l[p] = f
}

// addBelow notes files below the folder p; "." for the root.
func (l listing) addBelow(p string, files listing) {
	if p != "." {
		l.add(p, schema.SnapshotFile{Type: typeFolder})
	}
	for name, f := range files {
		l.add(path.Join(p, name), f)
	}
}

// below is the listing of the folder p; "." for the root.
func (l listing) below(p string) listing {
	if p == "." {
		return l
	}
	out := listing{}
	for name, f := range l {
		if rest, ok := strings.CutPrefix(name, p+"/"); ok {
			f.Path = rest
			out[rest] = f
		}
	}
	return out
}

// digest is the retraceTree1 digest, in hex.
func (l listing) digest() (string, error) {
	files := make([]schema.SnapshotFile, 0, len(l))
	for _, f := range l {
		files = append(files, f)
	}
	return schema.TreeDigest(files)
}

// key is the key of what lies at p, as laid out; "" if nothing does.
func (l listing) key(p string) (schema.Key, error) {
	f, ok := l[p]
	switch {
	case p == "." || ok && f.Type == typeFolder:
		sum, err := l.below(p).digest()
		return schema.Key(schema.RetraceTree1 + ":" + sum), err
	case ok && f.Type == typeFile:
		return schema.Key(schema.SHA256 + ":" + f.SHA256), nil
	}
	return "", nil
}

// bytes is the size of all files.
func (l listing) bytes() int64 {
	var n int64
	for _, f := range l {
		n += f.Size
	}
	return n
}

// differences lists up to three ways in which got is not want.
func differences(want, got listing) []string {
	var out []string
	names := map[string]bool{}
	for p := range want {
		names[p] = true
	}
	for p := range got {
		names[p] = true
	}
	sorted := make([]string, 0, len(names))
	for p := range names {
		sorted = append(sorted, p)
	}
	slices.Sort(sorted)
	for _, p := range sorted {
		w, wanted := want[p]
		g, there := got[p]
		switch {
		case !there:
			out = append(out, p+" is missing")
		case !wanted:
			out = append(out, p+" was not laid out")
		case w.Type != g.Type || w.SHA256 != g.SHA256 || w.Target != g.Target || w.Exec != g.Exec:
			out = append(out, p+" is not what was laid out")
		}
		if len(out) == 3 {
			break
		}
	}
	return out
}

// copyTree copies what lies at from in src to the path to in dst, which must
// not exist. Nothing is written outside dst and no link is followed; links are
// copied as links. Times are not kept. What skip says yes to is left out.
func copyTree(ctx context.Context, src *os.Root, from string, dst *os.Root, to string, skip func(p string) bool) error {
	info, err := src.Lstat(from)
	if err != nil {
		return err
	}
	return copyEntry(ctx, src, from, dst, to, info, ".", skip)
}

func copyEntry(ctx context.Context, src *os.Root, from string, dst *os.Root, to string, info fs.FileInfo, rel string, skip func(string) bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	switch {
	case info.Mode().IsRegular():
		return copyFile(src, from, dst, to, info.Mode().Perm())
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := src.Readlink(from)
		if err != nil {
			return err
		}
		return dst.Symlink(target, to)
	case !info.IsDir():
		return fmt.Errorf("%s is neither a file, a folder nor a link", from)
	}
	if err := dst.Mkdir(to, 0o777); err != nil {
		return err
	}
	names, err := readNames(src, from)
	if err != nil {
		return err
	}
	for _, name := range names {
		below := path.Join(rel, name)
		if skip != nil && skip(below) {
			continue
		}
		info, err := src.Lstat(path.Join(from, name))
		if err != nil {
			return err
		}
		if err := copyEntry(ctx, src, path.Join(from, name), dst, path.Join(to, name), info, below, skip); err != nil {
			return err
		}
	}
	return nil
}

func readNames(root *os.Root, dir string) ([]string, error) {
	d, err := root.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

func copyFile(src *os.Root, from string, dst *os.Root, to string, mode fs.FileMode) error {
	in, err := src.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	// Git keeps its objects read-only; the copy is as writable as the rest.
	out, err := dst.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode|0o200)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// makeParents makes the folders above p. It refuses one that is a link: what a
// recorded tree holds must not decide where a recorded path leads.
func makeParents(root *os.Root, p string) error {
	parts := strings.Split(path.Dir(p), "/")
	for i := range parts {
		dir := path.Join(parts[:i+1]...)
		if dir == "." {
			continue
		}
		info, err := root.Lstat(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			err = root.Mkdir(dir, 0o777)
		case err == nil && !info.IsDir():
			err = fmt.Errorf("%q is in the way: it is not a folder, and a link there is not followed", dir)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
