package client

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/retrace-ledger/retrace/schema"
)

// maxMembers is how many members a tar file may have.
const maxMembers = 1_000_000

// Unpack lays the members of a tar stream out in dir, an empty folder. It
// takes files, folders and links, and writes nothing outside dir: a link is written
// as it is and never followed out of it. What is wrong with the stream is a
// *schema.FieldError.
func Unpack(ctx context.Context, r io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	tr := tar.NewReader(r)
	for n := 0; ; n++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return tarError("", err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if n == maxMembers {
			return &schema.FieldError{Reason: fmt.Sprintf("the tar file has more members than the limit of %d", maxMembers)}
		}
		if err := unpackMember(root, h, tr); err != nil {
			return err
		}
	}
}

func unpackMember(root *os.Root, h *tar.Header, r io.Reader) error {
	name := strings.TrimSuffix(h.Name, "/")
	if name == "." && h.Typeflag == tar.TypeDir {
		return nil
	}
	if err := schema.CheckPath(name); err != nil {
		return &schema.FieldError{Field: clip(h.Name), Reason: "is not a clean relative path"}
	}
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return tarError(name, err)
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return tarError(name, root.MkdirAll(name, 0o755))
	case tar.TypeSymlink:
		return tarError(name, root.Symlink(h.Linkname, name))
	case tar.TypeReg:
		return unpackFile(root, name, h, r)
	}
	return &schema.FieldError{Field: clip(h.Name), Reason: "is neither a file, a folder nor a link"}
}

func unpackFile(root *os.Root, name string, h *tar.Header, r io.Reader) error {
	mode := fs.FileMode(0o644)
	if h.Mode&0o100 != 0 {
		mode = 0o755
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return tarError(name, err)
	}
	if _, err := io.Copy(f, r); err != nil {
		f.Close()
		return tarError(name, err)
	}
	return f.Close()
}

// tarError says which member was at fault where the stream itself was;
// anything that the disk or the network said stays what it is.
func tarError(name string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, tar.ErrHeader), errors.Is(err, io.ErrUnexpectedEOF):
		return &schema.FieldError{Field: clip(name), Reason: "the tar file is damaged or cut off"}
	case errors.Is(err, fs.ErrExist):
		return &schema.FieldError{Field: clip(name), Reason: "is in the tar file twice"}
	case strings.Contains(err.Error(), "escapes from parent"): // os.Root has no error of its own for it
		return &schema.FieldError{Field: clip(name), Reason: "leads out of the folder by a link"}
	}
	return err
}

// Pack writes what is below dir to w as a tar stream, in order of path, with
// neither times nor owners. With keep, only members that it takes.
func Pack(ctx context.Context, dir string, w io.Writer, keep func(path string) bool) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	tw := tar.NewWriter(w)
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if keep != nil && !keep(name) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		return packMember(tw, root, name, d)
	})
	if err != nil {
		return err
	}
	return tw.Close()
}

func packMember(tw *tar.Writer, root *os.Root, name string, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	h := &tar.Header{Format: tar.FormatPAX, Name: name, Mode: 0o644, ModTime: time.Unix(0, 0).UTC()}
	switch {
	case d.IsDir():
		h.Typeflag, h.Name, h.Mode = tar.TypeDir, name+"/", 0o755
		return tw.WriteHeader(h)
	case info.Mode()&fs.ModeSymlink != 0:
		h.Typeflag, h.Mode = tar.TypeSymlink, 0o777
		if h.Linkname, err = root.Readlink(name); err != nil {
			return err
		}
		return tw.WriteHeader(h)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is neither a file, a folder nor a link", name)
	}
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	h.Typeflag, h.Size = tar.TypeReg, info.Size()
	if info.Mode()&0o100 != 0 {
		h.Mode = 0o755
	}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.CopyN(tw, f, h.Size)
	return err
}
