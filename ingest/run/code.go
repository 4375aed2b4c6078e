package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/schema"
)

// maxChanges is how many bytes of uncommitted changes are kept.
const maxChanges = 256 << 20

// keepCode keeps the commit and the uncommitted changes.
func (p *Prepared) keepCode(ctx context.Context) error {
	w := p.worktree
	if err := p.findUncaptured(ctx); err != nil {
		return err
	}
	if w == nil {
		return nil
	}
	commit, err := schema.ParseKey(schema.GitCommit + ":" + w.Commit)
	if err != nil {
		return fmt.Errorf("reading the state of Git in %s: commit: %w", p.root, err)
	}
	if err := p.keepCommit(ctx, commit); err != nil {
		return fmt.Errorf("keeping the commit %s: %w", commit.Short(), err)
	}
	p.deps = append(p.deps, schema.Descriptor{
		Name: "commit", URI: w.URI, Digest: digestSet(commit),
		Annotations: map[string]any{
			schema.AnnotationRole: schema.RoleCode, schema.AnnotationKind: "git", schema.AnnotationContent: inStore,
		},
	})
	p.extra = append(p.extra, w.Statements...)
	if !w.OnRemote {
		p.gap("commit-not-on-remote", "%s", w.Commit)
	}
	return p.keepChanges(ctx)
}

// findUncaptured notes the files that the command names and nothing keeps:
// neither declared, nor in the commit, nor among the uncommitted changes.
func (p *Prepared) findUncaptured(ctx context.Context) error {
	var named []string
	for _, arg := range p.opts.Argv[1:] { // the program itself is kept as the tool
		if t := p.target(arg); !t.outside {
			if info, err := os.Stat(t.path); err == nil && info.Mode().IsRegular() {
				named = append(named, t.name)
			}
		}
	}
	named = p.undeclared(named)
	if w := p.worktree; w != nil && len(named) > 0 {
		missing, err := p.opts.Git.Missing(ctx, p.root, w.Commit, named)
		if err != nil {
			return fmt.Errorf("looking for the command's files in the commit: %w", err)
		}
		named = slices.DeleteFunc(missing, func(path string) bool { return slices.Contains(w.Changed, path) })
	}
	if len(named) > 0 {
		p.gap("code-not-captured", "%s", some(named))
	}
	return nil
}

// inStore is the annotation of content that is in the content store.
const inStore = "store"

// keepCommit puts a pack of the commit into the store, unless one is there.
func (p *Prepared) keepCommit(ctx context.Context, commit schema.Key) error {
	if has, err := p.store.Has(ctx, commit); err != nil || has {
		return err
	}
	f, err := os.CreateTemp("", "retrace-pack-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	err = p.opts.Git.Pack(ctx, p.root, commit.Hex(), f)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	pack, _, err := p.store.PutFiles(ctx, f.Name())
	if err != nil {
		return err
	}
	return p.store.Alias(ctx, commit, pack)
}

// keepChanges keeps what differs from the commit.
func (p *Prepared) keepChanges(ctx context.Context) error {
	changed, deleted := p.undeclared(p.worktree.Changed), p.undeclared(p.worktree.Deleted)
	if len(changed)+len(deleted) == 0 {
		return nil
	}
	tmp, err := os.MkdirTemp("", "retrace-changes-")
	if err != nil {
		return fmt.Errorf("keeping uncommitted changes: %w", err)
	}
	defer os.RemoveAll(tmp)
	c := &changes{root: p.root, dir: tmp}
	if err := c.collect(changed, deleted); err != nil {
		return fmt.Errorf("keeping uncommitted changes: %w", err)
	}
	key, files, err := p.store.PutFiles(ctx, tmp)
	if err != nil {
		return fmt.Errorf("keeping uncommitted changes: %w", err)
	}
	t := &target{name: "changes", key: key, files: files}
	d := t.descriptor(schema.RoleChanges)
	d.Name = "uncommitted changes"
	delete(d.Annotations, schema.AnnotationPath)
	p.deps = append(p.deps, d)
	p.gap("dirty-tree", "%s", some(append(changed, deleted...)))
	if len(c.left) > 0 {
		p.gap("changes-left-out", "%s", some(c.left))
	}
	return nil
}

// undeclared leaves out of paths below the root what is declared as input,
// output or metrics, which are recorded as such, and what is excluded.
func (p *Prepared) undeclared(paths []string) []string {
	var declared []string
	for _, t := range slices.Concat(p.inputs, p.outputs) {
		declared = append(declared, t.name)
	}
	if p.metrics != nil {
		declared = append(declared, p.metrics.name)
	}
	for _, e := range p.opts.Exclude {
		declared = append(declared, p.target(e).name)
	}
	out := slices.DeleteFunc(slices.Clone(paths), func(path string) bool {
		return slices.ContainsFunc(declared, func(d string) bool {
			return d == "." || path == d || strings.HasPrefix(path, d+"/")
		})
	})
	slices.Sort(out)
	return slices.Compact(out)
}

// changes lays uncommitted changes out in dir.
type changes struct {
	root, dir string
	size      int64
	left      []string // what was left out, and why
}

func (c *changes) collect(changed, deleted []string) error {
	src, err := os.OpenRoot(c.root)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenRoot(c.dir)
	if err != nil {
		return err
	}
	defer dst.Close()
	if deleted == nil {
		deleted = []string{}
	}
	list, err := json.Marshal(deleted)
	if err != nil {
		return err
	}
	if err := dst.WriteFile("deleted.json", list, 0o644); err != nil {
		return err
	}
	if err := dst.Mkdir("files", 0o755); err != nil {
		return err
	}
	for _, name := range changed {
		if err := c.add(src, dst, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (c *changes) leave(name, why string) { c.left = append(c.left, name+" ("+why+")") }

// add copies one changed file.
func (c *changes) add(src, dst *os.Root, name string) error {
	if err := schema.CheckPath(name); err != nil {
		return err
	}
	if !utf8.ValidString(name) {
		c.leave(name, "its name is not UTF-8")
		return nil
	}
	info, err := src.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		c.leave(name, "gone since")
		return nil
	}
	if err != nil {
		return err
	}
	to := path.Join("files", name)
	switch {
	case secretFile(name):
		c.leave(name, "its name looks like that of a secret")
		return nil
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := src.Readlink(name)
		if err != nil {
			return err
		}
		if !utf8.ValidString(target) {
			c.leave(name, "its target is not UTF-8")
			return nil
		}
		if err := dst.MkdirAll(path.Dir(to), 0o755); err != nil {
			return err
		}
		return dst.Symlink(target, to)
	case !info.Mode().IsRegular():
		c.leave(name, "not a file")
		return nil
	case c.size+info.Size() > maxChanges:
		c.leave(name, fmt.Sprintf("beyond %d MiB in all", maxChanges>>20))
		return nil
	}
	c.size += info.Size()
	return c.copy(src, dst, name, to, info)
}

// secretSniff is how much of a changed file is searched for secrets, in bytes.
const secretSniff = 64 << 10

func (c *changes) copy(src, dst *os.Root, name, to string, info fs.FileInfo) error {
	in, err := src.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	head := make([]byte, secretSniff)
	n, err := io.ReadFull(in, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	if what := ingest.SecretValue(string(head[:n])); what != "" {
		c.leave(name, "holds what looks like "+what)
		return nil
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := dst.MkdirAll(path.Dir(to), 0o755); err != nil {
		return err
	}
	out, err := dst.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, info.Mode().Perm()&0o755|0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, io.LimitReader(in, maxChanges))
	return errors.Join(err, out.Close())
}

// some lists paths for a person: the first ten.
func some(paths []string) string {
	const shown = 10
	if len(paths) <= shown {
		return strings.Join(paths, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(paths[:shown], ", "), len(paths)-shown)
}

// descriptor describes what was kept of t.
func (t *target) descriptor(role string) schema.Descriptor {
	a := map[string]any{
		schema.AnnotationPath: t.name, schema.AnnotationContent: inStore,
		schema.AnnotationType: "file", schema.AnnotationSize: fmt.Sprint(t.size()),
	}
	if role != "" {
		a[schema.AnnotationRole] = role
	}
	if t.host != "" {
		a[schema.AnnotationContent] = "host:" + t.host
	}
	if t.folder() {
		a[schema.AnnotationType] = "folder"
	}
	if t.exec {
		a[schema.AnnotationExec] = "true"
	}
	return schema.Descriptor{Name: filepath.ToSlash(t.name), Digest: digestSet(t.key), Annotations: a}
}

func (t *target) folder() bool { return t.key.Algorithm() == schema.RetraceTree1 }

func (t *target) size() int64 {
	var n int64
	for _, f := range t.files {
		n += f.Size
	}
	return n
}
