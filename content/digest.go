package content

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"

	"github.com/retrace-ledger/retrace/schema"
)

// Errors that callers tell apart.
var (
	// ErrChanged says that a file or folder was written to while it was read,
	// so that no digest could be trusted.
	ErrChanged = errors.New("changed while it was being read")
	// ErrSpecial says that something is neither file, folder nor link and has
	// no content that could be kept: a socket, a device, a FIFO.
	ErrSpecial = errors.New("is neither a file, a folder nor a link")
	// ErrExcluded says that what was to be read is part of what is excluded,
	// such as the ledger's own folder.
	ErrExcluded = errors.New("is excluded, as part of the ledger's own folder")
)

// Digest returns the key of the file or folder at path and what it holds: of a
// file itself under its base name, of a folder everything below it in bytewise
// order of path.
//
// path itself is resolved as the system does; links below it stand for
// themselves and are never followed. Sockets, devices and FIFOs are refused,
// as are names that are not UTF-8 and whatever cannot be read: the error names
// the path. Whatever is one of exclude, which are paths of files or folders,
// is left out.
func Digest(ctx context.Context, path string, exclude ...string) (schema.Key, []schema.SnapshotFile, error) {
	t, err := openTree(path, exclude)
	if err != nil {
		return "", nil, err
	}
	defer t.Close()
	return t.digest(ctx)
}

// tree is a file or a folder that is open for reading. All reading goes
// through root, so that no link and no renaming in the meantime leads out of
// it.
type tree struct {
	path    string // as the caller gave it, for messages
	root    *os.Root
	single  string // base name if path is a file, else ""
	exclude []fs.FileInfo
	infos   map[string]fs.FileInfo // by path below root, as scanned
	known   *known                 // what need not be read again; nil if all is to be
	growing bool                   // a file that grows is taken as far as it went when reading began
}

func openTree(name string, exclude []string) (*tree, error) {
	t := &tree{path: name, infos: map[string]fs.FileInfo{}}
	resolved, err := filepath.EvalSymlinks(name)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, cause(err))
	}
	if resolved, err = filepath.Abs(resolved); err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	if err := t.excluding(resolved, exclude); err != nil {
		return nil, err
	}
	info, err := os.Lstat(resolved)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, cause(err))
	}
	dir := resolved
	switch {
	case info.Mode().IsRegular():
		dir, t.single = filepath.Split(resolved)
	case !info.IsDir():
		return nil, fmt.Errorf("reading %s: it %w (%s)", name, ErrSpecial, special(info.Mode()))
	}
	if t.root, err = os.OpenRoot(dir); err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, cause(err))
	}
	return t, nil
}

// excluding notes what is excluded and refuses a path that is part of it.
func (t *tree) excluding(resolved string, exclude []string) error {
	for _, e := range exclude {
		info, err := os.Stat(e)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("looking at %s, which is to be excluded: %w", e, cause(err))
		}
		t.exclude = append(t.exclude, info)
	}
	for p := resolved; len(t.exclude) > 0; p = filepath.Dir(p) {
		if info, err := os.Stat(p); err == nil && t.excluded(info) {
			return fmt.Errorf("reading %s: it %w", t.path, ErrExcluded)
		}
		if p == filepath.Dir(p) {
			break
		}
	}
	return nil
}

func (t *tree) Close() error { return t.root.Close() }

// at is the path of a member as the caller would write it.
func (t *tree) at(member string) string {
	if t.single != "" {
		return t.path
	}
	return filepath.Join(t.path, filepath.FromSlash(member))
}

// digest scans and hashes everything.
func (t *tree) digest(ctx context.Context) (schema.Key, []schema.SnapshotFile, error) {
	files, err := t.scan(ctx)
	if err != nil {
		return "", nil, err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0) + 2) // some wait for the disk while others hash
	for i := range files {
		f := &files[i]
		if f.Type != typeFile {
			continue
		}
		if t.known != nil {
			if sum, ok := t.known.digest(f.Path, t.infos[f.Path]); ok {
				f.SHA256 = sum
				continue
			}
		}
		g.Go(func() error { return t.read(gctx, f) })
	}
	if err := g.Wait(); err != nil {
		return "", nil, err
	}
	if t.single != "" {
		return schema.Key(schema.SHA256 + ":" + files[0].SHA256), files, nil
	}
	sum, err := schema.TreeDigest(files)
	if err != nil {
		return "", nil, fmt.Errorf("digesting %s: %w", t.path, err)
	}
	return schema.Key(schema.RetraceTree1 + ":" + sum), files, nil
}

// read hashes one file.
func (t *tree) read(ctx context.Context, f *schema.SnapshotFile) error {
	started := time.Now()
	sum, size, err := t.hash(ctx, f.Path, io.Discard)
	if errors.Is(err, ErrChanged) && t.growing {
		sum, size, err = t.hashGrowing(ctx, f.Path)
	} else if err == nil && t.known != nil {
		t.known.add(f.Path, t.infos[f.Path], sum, started)
	}
	f.SHA256, f.Size = sum, size
	return err
}

// hashGrowing hashes a file that is written to, such as a log, as far as it
// went when reading began, and twice: what gives the same digest both times
// stood still.
func (t *tree) hashGrowing(ctx context.Context, member string) (string, int64, error) {
	f, info, err := t.openFile(member)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	var sums [2]string
	for i := range sums {
		h := sha256.New()
		n, err := io.Copy(h, &contextReader{ctx, io.NewSectionReader(f, 0, info.Size())})
		if err != nil {
			return "", 0, fmt.Errorf("reading %s: %w", t.at(member), cause(err))
		}
		if n != info.Size() {
			return "", 0, fmt.Errorf("reading %s: it %w: it shrank", t.at(member), ErrChanged)
		}
		sums[i] = hex.EncodeToString(h.Sum(nil))
	}
	if sums[0] != sums[1] {
		return "", 0, fmt.Errorf("reading %s: it %w", t.at(member), ErrChanged)
	}
	return sums[0], info.Size(), nil
}

// copyGrowing copies the first n bytes of a file to w and returns their digest.
func (t *tree) copyGrowing(ctx context.Context, member string, n int64, w io.Writer) (string, error) {
	f, _, err := t.openFile(member)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(h, w), &contextReader{ctx, io.NewSectionReader(f, 0, n)}); err != nil {
		return "", fmt.Errorf("reading %s: %w", t.at(member), cause(err))
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Types of a [schema.SnapshotFile].
const (
	typeFile   = "file"
	typeFolder = "folder"
	typeLink   = "link"
)

// scan lists what there is, in bytewise order of path, without reading files.
func (t *tree) scan(ctx context.Context) ([]schema.SnapshotFile, error) {
	if t.single != "" {
		info, err := t.root.Lstat(t.single)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", t.path, cause(err))
		}
		t.infos[t.single] = info
		return []schema.SnapshotFile{{Path: t.single, Type: typeFile, Exec: executable(info), Size: info.Size()}}, nil
	}
	files := []schema.SnapshotFile{}
	for folders := []string{"."}; len(folders) > 0; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		last := len(folders) - 1
		dir := folders[last]
		folders = folders[:last]
		found, err := t.list(dir)
		if err != nil {
			return nil, err
		}
		for _, f := range found {
			if f.Type == typeFolder {
				folders = append(folders, f.Path)
			}
		}
		files = append(files, found...)
	}
	slices.SortFunc(files, func(a, b schema.SnapshotFile) int { return strings.Compare(a.Path, b.Path) })
	return files, nil
}

// list reads one folder.
func (t *tree) list(dir string) ([]schema.SnapshotFile, error) {
	// Names are looked up in the folder itself, not along the whole path again.
	below, err := t.root.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", t.at(dir), cause(err))
	}
	defer below.Close()
	d, err := below.Open(".")
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", t.at(dir), cause(err))
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", t.at(dir), cause(err))
	}
	var files []schema.SnapshotFile
	for _, name := range names {
		member := path.Join(dir, name)
		info, err := below.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("reading %s: it %w: it is gone", t.at(member), ErrChanged)
		}
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", t.at(member), cause(err))
		}
		if t.excluded(info) {
			continue
		}
		f, err := t.describe(member, info)
		if err != nil {
			return nil, err
		}
		t.infos[member] = info
		files = append(files, f)
	}
	return files, nil
}

// excluded says whether info is of something to leave out. Files are compared
// and not names, so that another way to write a path leads to the same.
func (t *tree) excluded(info fs.FileInfo) bool {
	return slices.ContainsFunc(t.exclude, func(e fs.FileInfo) bool { return os.SameFile(e, info) })
}

func (t *tree) describe(member string, info fs.FileInfo) (schema.SnapshotFile, error) {
	f := schema.SnapshotFile{Path: member}
	if !utf8.ValidString(member) {
		return f, fmt.Errorf("reading %q: its name is not UTF-8, so it cannot be recorded", t.at(member))
	}
	switch {
	case info.Mode().IsRegular():
		f.Type, f.Exec, f.Size = typeFile, executable(info), info.Size()
	case info.IsDir():
		f.Type = typeFolder
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := t.root.Readlink(member)
		if err != nil {
			return f, fmt.Errorf("reading the link %s: %w", t.at(member), cause(err))
		}
		if !utf8.ValidString(target) {
			return f, fmt.Errorf("reading the link %s: its target %q is not UTF-8, so it cannot be recorded", t.at(member), target)
		}
		f.Type, f.Target = typeLink, target
	default:
		return f, fmt.Errorf("reading %s: it %w (%s)", t.at(member), ErrSpecial, special(info.Mode()))
	}
	return f, nil
}

// openFile opens the file at member without waiting, so that a FIFO that took
// its place does not hold it up.
func (t *tree) openFile(member string) (*os.File, fs.FileInfo, error) {
	f, err := t.root.OpenFile(member, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("reading %s: it %w: it is gone", t.at(member), ErrChanged)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("reading %s: %w", t.at(member), cause(err))
	}
	info, err := f.Stat()
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("reading %s: %w", t.at(member), cause(err)), f.Close())
	}
	if !info.Mode().IsRegular() || !os.SameFile(info, t.infos[member]) {
		return nil, nil, errors.Join(fmt.Errorf("reading %s: it %w: another file took its place", t.at(member), ErrChanged), f.Close())
	}
	return f, info, nil
}

// hash copies the file at member to w and returns digest and size of what it
// copied. It compares the file before and after.
func (t *tree) hash(ctx context.Context, member string, w io.Writer) (string, int64, error) {
	f, before, err := t.openFile(member)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	scanned := t.infos[member]
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(h, w), &contextReader{ctx, f})
	if err != nil {
		return "", 0, fmt.Errorf("reading %s: %w", t.at(member), cause(err))
	}
	after, err := f.Stat()
	if err != nil {
		return "", 0, fmt.Errorf("reading %s: %w", t.at(member), cause(err))
	}
	for _, other := range []fs.FileInfo{before, after} {
		if other.Size() != n || !other.ModTime().Equal(scanned.ModTime()) || executable(other) != executable(scanned) {
			return "", 0, fmt.Errorf("reading %s: it %w", t.at(member), ErrChanged)
		}
	}
	return hex.EncodeToString(h.Sum(nil)), n, nil
}

// contextReader ends a long copy when its context does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

func executable(info fs.FileInfo) bool { return info.Mode()&0o100 != 0 }

// special names what a file is that is neither file, folder nor link.
func special(m fs.FileMode) string {
	switch {
	case m&fs.ModeNamedPipe != 0:
		return "a FIFO"
	case m&fs.ModeSocket != 0:
		return "a socket"
	case m&fs.ModeDevice != 0:
		return "a device"
	}
	return m.Type().String()
}

// cause strips the operation and path from err: the caller names the path as
// the user wrote it.
func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
