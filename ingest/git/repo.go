package git

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	gogit "github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/storer"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/storage/filesystem"
)

// maxRefs bounds how many refs one source watches: the cursor holds them all,
// and it is written with each batch.
const maxRefs = 20000

// errSHA256 is why repositories in Git's SHA-256 object format are refused.
var errSHA256 = errors.New("the repository is in Git's SHA-256 object format, which is not supported; only SHA-1 repositories can be read")

// largeObject is from which size on blobs are streamed rather than held.
const largeObject = 4 << 20 // bytes

// repository is one opened for reading.
type repository struct {
	*filesystem.Storage
	refs    storer.ReferenceStorer
	shallow map[plumbing.Hash]bool // commits whose parents are not here
	close   func() error
}

// openLocal opens the repository at path: a worktree, a linked worktree, or a
// bare one.
func openLocal(path string) (*repository, error) {
	r, err := gogit.PlainOpenWithOptions(path, &gogit.PlainOpenOptions{EnableDotGitCommonDir: true})
	if err != nil {
		return nil, fmt.Errorf("opening the Git repository %s: %w", path, explain(err))
	}
	found, ok := r.Storer.(*filesystem.Storage)
	if !ok {
		return nil, fmt.Errorf("opening the Git repository %s: it is kept in a %T", path, r.Storer)
	}
	// Opened again with files that stay open: reading a commit then costs no
	// system call but the read.
	s := filesystem.NewStorageWithOptions(found.Filesystem(), cache.NewObjectLRUDefault(),
		filesystem.Options{KeepDescriptors: true, LargeObjectThreshold: largeObject})
	shallow, err := s.Shallow()
	if err != nil {
		return nil, fmt.Errorf("opening the Git repository %s: reading what it is cut off at: %w", path, err)
	}
	repo := &repository{Storage: s, refs: s, shallow: map[plumbing.Hash]bool{}, close: s.Close}
	for _, h := range shallow {
		repo.shallow[h] = true
	}
	return repo, nil
}

// explain turns what go-git says of object formats into our words.
func explain(err error) error {
	text := err.Error()
	if strings.Contains(text, "objectformat") || strings.Contains(text, "no space after hash") {
		return errSHA256
	}
	return err
}

// mirror brings the copy of the remote repository up to date and opens it.
func (l *location) mirror(ctx context.Context, cacheDir string) (*repository, error) {
	dir, remove, err := l.mirrorDir(cacheDir)
	if err != nil {
		return nil, err
	}
	if err := l.update(ctx, dir); err != nil {
		return nil, errors.Join(err, remove())
	}
	repo, err := openLocal(dir)
	if err != nil {
		return nil, errors.Join(err, remove())
	}
	opened := repo.close
	repo.close = func() error { return errors.Join(opened(), remove()) }
	return repo, nil
}

// mirrorDir is where the copy is, and what to do when it is no longer needed.
func (l *location) mirrorDir(cacheDir string) (string, func() error, error) {
	if cacheDir == "" {
		dir, err := os.MkdirTemp("", "retrace-git-")
		return dir, func() error { return os.RemoveAll(dir) }, err
	}
	sum := sha256.Sum256([]byte(l.name()))
	dir := filepath.Join(cacheDir, "git", hex.EncodeToString(sum[:16]))
	return dir, func() error { return nil }, os.MkdirAll(dir, 0o700)
}

// update fetches all watched refs into dir, and forgets those that are gone.
func (l *location) update(ctx context.Context, dir string) error {
	r, err := gogit.PlainOpen(dir)
	if errors.Is(err, gogit.ErrRepositoryNotExists) {
		r, err = gogit.PlainInit(dir, true)
	}
	if err != nil {
		return fmt.Errorf("opening the mirror of %s in %s: %w", l.repository, dir, err)
	}
	if s, ok := r.Storer.(io.Closer); ok {
		defer s.Close()
	}
	remote := gogit.NewRemote(r.Storer, &config.RemoteConfig{Name: "origin", URLs: []string{l.remote}})
	err = remote.FetchContext(ctx, &gogit.FetchOptions{
		RefSpecs: l.refSpecs(), Auth: l.auth, Tags: gogit.NoTags, Force: true, Prune: true,
	})
	var none gogit.NoMatchingRefSpecError
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, gogit.NoErrAlreadyUpToDate):
		return nil
	case errors.Is(err, transport.ErrEmptyRemoteRepository), errors.As(err, &none):
		return forget(r.Storer)
	case err != nil:
		return fmt.Errorf("fetching %s: %w", l.repository, explain(err))
	}
	return nil
}

func (l *location) refSpecs() []config.RefSpec {
	if len(l.refs) == 0 {
		return []config.RefSpec{"+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"}
	}
	var specs []config.RefSpec
	for _, ref := range l.refs {
		specs = append(specs, config.RefSpec("+"+ref+":"+ref))
	}
	return specs
}

// forget removes all refs of a mirror whose remote has none of them.
func forget(s storer.ReferenceStorer) error {
	it, err := s.IterReferences()
	if err != nil {
		return err
	}
	var names []plumbing.ReferenceName
	err = it.ForEach(func(r *plumbing.Reference) error {
		if strings.HasPrefix(string(r.Name()), "refs/") {
			names = append(names, r.Name())
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := s.RemoveReference(n); err != nil {
			return err
		}
	}
	return nil
}

// list returns the object that each watched ref points at.
func (r *repository) list(watches func(string) bool) (map[string]plumbing.Hash, error) {
	it, err := r.refs.IterReferences()
	if err != nil {
		return nil, fmt.Errorf("listing refs: %w", err)
	}
	refs := map[string]plumbing.Hash{}
	err = it.ForEach(func(ref *plumbing.Reference) error {
		name := ref.Name()
		if !watches(string(name)) {
			return nil
		}
		if ref.Type() == plumbing.SymbolicReference {
			if ref, err = storer.ResolveReference(r.refs, name); err != nil {
				return nil // points at a branch that is not born
			}
		}
		refs[string(name)] = ref.Hash()
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing refs: %w", err)
	}
	if len(refs) > maxRefs {
		return nil, fmt.Errorf("there are %d branches and tags; at most %d can be watched, choose with ?ref=", len(refs), maxRefs)
	}
	return refs, nil
}

// has says whether the object is here.
func (r *repository) has(h plumbing.Hash) bool { return r.HasEncodedObject(h) == nil }

// raw is the content of an object, which must be of type t.
func (r *repository) raw(t plumbing.ObjectType, h plumbing.Hash) ([]byte, error) {
	o, err := r.EncodedObject(t, h)
	if err != nil {
		return nil, fmt.Errorf("reading %s %s: %w", t, h, err)
	}
	rd, err := o.Reader()
	if err != nil {
		return nil, fmt.Errorf("reading %s %s: %w", t, h, err)
	}
	defer rd.Close()
	b, err := io.ReadAll(rd)
	if err != nil {
		return nil, fmt.Errorf("reading %s %s: %w", t, h, err)
	}
	return b, nil
}

// ErrNoRepository says that a folder is in no Git repository.
var ErrNoRepository = errors.New("not in a Git repository")

// findRoot is the root of the repository that dir is in: of its worktree, or
// of a bare one. It returns ErrNoRepository where there is none.
func findRoot(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	for at := abs; ; at = filepath.Dir(at) {
		if _, err := os.Lstat(filepath.Join(at, ".git")); err == nil {
			return at, nil
		}
		if isBare(at) {
			return at, nil
		}
		if at == filepath.Dir(at) {
			return "", fmt.Errorf("%s: %w", dir, ErrNoRepository)
		}
	}
}

// isBare says whether dir looks like a repository without a worktree.
func isBare(dir string) bool {
	for _, name := range []string{"HEAD", "objects", "refs"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return false
		}
	}
	return true
}
