package git

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	gogit "github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/storer"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/schema"
)

// Fetcher brings commits back.
type Fetcher struct {
	env ingest.Env
}

var _ ingest.Fetcher = (*Fetcher)(nil)

// NewFetcher returns a fetcher that looks in the content store of env, and for
// what is not there in the repositories that resources name.
func NewFetcher(env ingest.Env) *Fetcher { return &Fetcher{env: env} }

// packed begins what a commit says of where it is kept (schema.Resource's
// Content) when a pack of it is in the content store: the pack's key follows.
const inStore = "store:"

// InStore is the content annotation of a commit whose pack the content store
// keeps under key.
func InStore(key schema.Key) string { return inStore + string(key) }

// Fetch implements ingest.Fetcher for commits.
func (f *Fetcher) Fetch(ctx context.Context, r schema.Resource, dir string) error {
	_, err := f.LayOut(ctx, r, dir)
	return err
}

// LayOut is Fetch that says what it laid out: a repository with the commit as
// its only one, and its files.
func (f *Fetcher) LayOut(ctx context.Context, r schema.Resource, dir string) (*Layout, error) {
	commit, err := commitOf(r)
	if err != nil {
		return nil, err
	}
	if key, ok := strings.CutPrefix(r.Content, inStore); ok && f.env.Content != nil {
		return f.fromStore(ctx, schema.Key(key), commit, dir)
	}
	if f.env.Content != nil {
		// A run keeps the pack of its commit under the commit's own key.
		key := schema.Key(schema.GitCommit + ":" + commit.String())
		held, err := f.env.Content.Has(ctx, key)
		if err != nil {
			return nil, fmt.Errorf("fetching commit %s: %w", commit, err)
		}
		if held {
			return f.fromStore(ctx, key, commit, dir)
		}
	}
	if r.URI == "" {
		return nil, fmt.Errorf("fetching commit %s: nothing says which repository it is in", commit)
	}
	l, err := f.locate(repositoryURL(r.URI))
	if err != nil {
		return nil, fmt.Errorf("fetching commit %s: %w", commit, err)
	}
	repo, err := l.with(ctx, f.env, commit)
	if err != nil {
		return nil, fmt.Errorf("fetching commit %s: %w", commit, err)
	}
	layout, err := layOut(ctx, dir, commit, func(w io.Writer) error { return repo.pack(ctx, commit, w) })
	return layout, errors.Join(err, repo.close())
}

// locate is where a repository is, with the credentials of the place that
// watches it.
func (f *Fetcher) locate(rawURL string) (*location, error) {
	l, err := parseURL(rawURL)
	if err != nil {
		return nil, err
	}
	for _, p := range f.env.Places {
		at, err := parseURL(p.URL)
		var s settings
		if err != nil || at.repository != l.repository || p.Settings(&s) != nil {
			continue
		}
		l.auth, l.user = at.auth, at.user
		return l, s.authenticate(l)
	}
	return l, nil
}

// commitOf is the commit that the resource is.
func commitOf(r schema.Resource) (plumbing.Hash, error) {
	if h, ok := r.Digests[schema.GitCommit]; ok {
		return parseCommit(h)
	}
	if r.Key.Algorithm() != schema.GitCommit {
		return plumbing.ZeroHash, fmt.Errorf("%s is not a Git commit", r.Key)
	}
	return parseCommit(r.Key.Hex())
}

// atRevision is what builders append to a repository's URL (SLSA's
// resolvedDependencies, pip's VCS URLs).
var atRevision = regexp.MustCompile(`@(refs/.*|[0-9a-f]{40})$`)

// repositoryURL is the URL of a repository as parseURL takes it.
func repositoryURL(uri string) string {
	uri = atRevision.ReplaceAllString(uri, "")
	if strings.HasPrefix(uri, "git+") {
		return uri
	}
	return "git+" + uri
}

func (f *Fetcher) fromStore(ctx context.Context, key schema.Key, commit plumbing.Hash, dir string) (*Layout, error) {
	scratch, err := os.MkdirTemp(f.env.Cache, "retrace-pack-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(scratch)
	name := filepath.Join(scratch, "pack")
	if err := f.env.Content.Fetch(ctx, key, name); err != nil {
		return nil, fmt.Errorf("fetching the pack of commit %s: %w", commit, err)
	}
	pack, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer pack.Close()
	return layOut(ctx, dir, commit, func(w io.Writer) error {
		_, err := io.Copy(w, &contextReader{ctx, pack})
		return err
	})
}

// with opens a repository that has the commit: one in the file system, the
// mirror if it has it already, else the commit alone if the server gives that,
// else the mirror brought up to date.
func (l *location) with(ctx context.Context, env ingest.Env, commit plumbing.Hash) (*repository, error) {
	if l.path != "" {
		return require(openLocal(l.path))(commit, l.repository)
	}
	if env.Cache != "" {
		dir, _, err := l.mirrorDir(env.Cache)
		if err != nil {
			return nil, err
		}
		if repo, err := openLocal(dir); err == nil {
			if repo.has(commit) {
				return repo, nil
			}
			repo.close()
		}
	}
	if repo, err := l.single(ctx, commit); err == nil {
		return repo, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return require(l.mirror(ctx, env.Cache))(commit, l.repository)
}

// require closes a repository that does not have the commit.
func require(repo *repository, err error) func(plumbing.Hash, string) (*repository, error) {
	return func(commit plumbing.Hash, where string) (*repository, error) {
		if err != nil {
			return nil, err
		}
		if !repo.has(commit) {
			return nil, errors.Join(fmt.Errorf("it is in no branch and no tag of %s", where), repo.close())
		}
		return repo, nil
	}
}

// single fetches one commit without its history into a folder that is removed
// when the repository is closed. Not all servers allow that.
func (l *location) single(ctx context.Context, commit plumbing.Hash) (*repository, error) {
	dir, err := os.MkdirTemp("", "retrace-git-")
	if err != nil {
		return nil, err
	}
	repo, err := l.singleInto(ctx, commit, dir)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	opened := repo.close
	repo.close = func() error { return errors.Join(opened(), os.RemoveAll(dir)) }
	return repo, nil
}

func (l *location) singleInto(ctx context.Context, commit plumbing.Hash, dir string) (*repository, error) {
	r, err := gogit.PlainInit(dir, true)
	if err != nil {
		return nil, err
	}
	if s, ok := r.Storer.(io.Closer); ok {
		defer s.Close()
	}
	remote := gogit.NewRemote(r.Storer, &config.RemoteConfig{Name: "origin", URLs: []string{l.remote}})
	err = remote.FetchContext(ctx, &gogit.FetchOptions{
		RefSpecs: []config.RefSpec{config.RefSpec(commit.String() + ":refs/heads/commit")},
		Auth:     l.auth, Tags: gogit.NoTags, Depth: 1,
	})
	if err != nil {
		return nil, err
	}
	return require(openLocal(dir))(commit, l.repository)
}

// Digest implements ingest.Fetcher: the key of the commit that HEAD of the
// repository in dir names. The commit, each of its trees, and each file of the
// worktree are hashed again; a file that is missing, different, or not of the
// commit is an error.
func (f *Fetcher) Digest(ctx context.Context, dir string) (schema.Key, error) {
	repo, err := openLocal(dir)
	if err != nil {
		return "", err
	}
	defer repo.close()
	head, err := storer.ResolveReference(repo.refs, plumbing.HEAD)
	if err != nil {
		return "", fmt.Errorf("reading HEAD of %s: %w", dir, err)
	}
	raw, err := repo.raw(plumbing.CommitObject, head.Hash())
	if err != nil {
		return "", err
	}
	if got := plumbing.ComputeHash(plumbing.CommitObject, raw); got != head.Hash() {
		return "", fmt.Errorf("commit %s in %s hashes to %s", head.Hash(), dir, got)
	}
	c, err := object.GetCommit(repo, head.Hash())
	if err != nil {
		return "", fmt.Errorf("reading commit %s: %w", head.Hash(), err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	v := &verifier{ctx: ctx, objects: repo, root: root}
	if err := v.tree(c.TreeHash, "."); err != nil {
		return "", fmt.Errorf("%s is not commit %s: %w", dir, c.Hash, err)
	}
	return schema.Key(schema.GitCommit + ":" + head.Hash().String()), nil
}

// verifier compares a worktree with the trees of its commit.
type verifier struct {
	ctx     context.Context
	objects storer.EncodedObjectStorer
	root    *os.Root
}

func (v *verifier) tree(h plumbing.Hash, dir string) error {
	if err := v.ctx.Err(); err != nil {
		return err
	}
	t, err := readTree(v.objects, h)
	if err != nil {
		return err
	}
	belongs := map[string]bool{}
	if dir == "." {
		belongs[".git"] = true
	}
	for _, e := range t.Entries {
		if err := checkName(e.Name); err != nil {
			return err
		}
		belongs[e.Name] = true
		if err := v.entry(e, path.Join(dir, e.Name)); err != nil {
			return err
		}
	}
	return v.nothingElse(dir, belongs)
}

func (v *verifier) nothingElse(dir string, belongs map[string]bool) error {
	names, err := fs.ReadDir(v.root.FS(), dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if !belongs[n.Name()] {
			return fmt.Errorf("%s is not part of it", path.Join(dir, n.Name()))
		}
	}
	return nil
}

func (v *verifier) entry(e object.TreeEntry, name string) error {
	info, err := v.root.Lstat(name)
	if err != nil {
		return err
	}
	switch e.Mode {
	case filemode.Dir, filemode.Submodule:
		if !info.IsDir() {
			return fmt.Errorf("%s is not a folder", name)
		}
		if e.Mode == filemode.Submodule {
			return v.nothingElse(name, nil)
		}
		return v.tree(e.Hash, name)
	case filemode.Symlink:
		if info.Mode().Type() != fs.ModeSymlink {
			return fmt.Errorf("%s is not a link", name)
		}
		target, err := v.root.Readlink(name)
		if err != nil {
			return err
		}
		return same(name, plumbing.ComputeHash(plumbing.BlobObject, []byte(target)), e.Hash)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a file", name)
	}
	if (info.Mode()&0o100 != 0) != executable(e.Mode) {
		return fmt.Errorf("%s has mode %v, in the commit it has %v", name, info.Mode(), e.Mode)
	}
	return v.file(name, info.Size(), e.Hash)
}

func (v *verifier) file(name string, size int64, want plumbing.Hash) error {
	f, err := v.root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := plumbing.NewHasher(plumbing.BlobObject, size)
	if _, err := io.Copy(sum, &contextReader{v.ctx, f}); err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	return same(name, sum.Sum(), want)
}

func same(name string, got, want plumbing.Hash) error {
	if got != want {
		return fmt.Errorf("%s hashes to %s, in the commit it is %s", name, got, want)
	}
	return nil
}
