package git

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	gogit "github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/storer"
)

// headByLibrary is headByProgram without the program. It does not know what the
// user ignores in all repositories, so that it can list more files.
func headByLibrary(ctx context.Context, root string) (*Worktree, error) {
	r, err := gogit.PlainOpenWithOptions(root, &gogit.PlainOpenOptions{EnableDotGitCommonDir: true})
	if err != nil {
		return nil, explain(err)
	}
	w := &Worktree{Root: root}
	if err := w.head(r); err != nil {
		return nil, err
	}
	conf, err := r.Config()
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	w.Remote = w.remote(conf)
	if w.Commit != "" {
		if w.Pushed, err = pushed(ctx, r, root, plumbing.NewHash(w.Commit)); err != nil {
			return nil, err
		}
	}
	return w, w.status(r)
}

func (w *Worktree) head(r *gogit.Repository) error {
	head, err := r.Reference(plumbing.HEAD, false)
	if err != nil {
		return fmt.Errorf("reading HEAD: %w", err)
	}
	if head.Type() == plumbing.SymbolicReference {
		w.Branch = head.Target().String()
	}
	resolved, err := r.Head()
	switch {
	case errors.Is(err, plumbing.ErrReferenceNotFound):
		return nil // the branch has no commit yet
	case err != nil:
		return fmt.Errorf("reading HEAD: %w", err)
	}
	w.Commit = resolved.Hash().String()
	return nil
}

func (w *Worktree) remote(conf *config.Config) string {
	if len(conf.Remotes) == 0 {
		return ""
	}
	var follows string
	if b := conf.Branches[strings.TrimPrefix(w.Branch, "refs/heads/")]; b != nil {
		follows = b.Remote
	}
	remote := conf.Remotes[chooseRemote(slices.Collect(maps.Keys(conf.Remotes)), follows)]
	if len(remote.URLs) == 0 {
		return ""
	}
	return withoutCredentials(remote.URLs[0])
}

// pushed says whether a remote-tracking ref leads to the commit.
func pushed(ctx context.Context, r *gogit.Repository, root string, commit plumbing.Hash) (bool, error) {
	var tips []plumbing.Hash
	refs, err := r.References()
	if err != nil {
		return false, fmt.Errorf("listing refs: %w", err)
	}
	err = refs.ForEach(func(ref *plumbing.Reference) error {
		if ref.Name().IsRemote() && ref.Type() == plumbing.HashReference {
			tips = append(tips, ref.Hash())
		}
		return nil
	})
	if err != nil && !errors.Is(err, storer.ErrStop) {
		return false, fmt.Errorf("listing refs: %w", err)
	}
	repo, err := openLocal(root)
	if err != nil {
		return false, err
	}
	defer repo.close()
	for _, tip := range tips {
		if ok, err := repo.descends(ctx, tip, commit); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

// status compares the files with the index and the index with the commit.
func (w *Worktree) status(r *gogit.Repository) error {
	wt, err := r.Worktree()
	if errors.Is(err, gogit.ErrIsBareRepository) {
		return nil
	}
	if err != nil {
		return err
	}
	status, err := wt.Status()
	if err != nil {
		return fmt.Errorf("comparing files with the index: %w", err)
	}
	for path, s := range status {
		switch {
		case s.Worktree == gogit.Untracked:
			w.Changes = append(w.Changes, Change{Path: path, State: Untracked})
		case s.Worktree == gogit.Deleted, s.Staging == gogit.Deleted:
			w.Changes = append(w.Changes, Change{Path: path, State: Deleted})
		case s.Worktree != gogit.Unmodified || s.Staging != gogit.Unmodified:
			w.Changes = append(w.Changes, Change{Path: path, State: Modified})
		}
	}
	return nil
}
