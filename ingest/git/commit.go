package git

import (
	"context"
	"errors"
	"fmt"

	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/retrace-ledger/retrace/schema"
)

// Commit describes one commit of the repository that dir is in, as reading
// that repository as a source would: in the words of uri, a source URL, or of
// the repository's own path where uri is empty.
func Commit(ctx context.Context, dir, commit, uri string) (schema.Statement, error) {
	h, err := parseCommit(commit)
	if err != nil {
		return schema.Statement{}, err
	}
	root, err := findRoot(dir)
	if err != nil {
		return schema.Statement{}, err
	}
	name, err := repositoryName(root, uri)
	if err != nil {
		return schema.Statement{}, err
	}
	repo, err := openLocal(root)
	if err != nil {
		return schema.Statement{}, err
	}
	c, err := object.GetCommit(repo, h)
	if err != nil {
		return schema.Statement{}, errors.Join(fmt.Errorf("reading commit %s of %s: %w", commit, root, err), repo.close())
	}
	s, err := commitStatement(name, c)
	return s, errors.Join(err, repo.close(), ctx.Err())
}

// Missing returns those of paths, relative to the top of the worktree with
// forward slashes, that are no files of the commit.
func Missing(ctx context.Context, dir, commit string, paths []string) (_ []string, err error) {
	h, err := parseCommit(commit)
	if err != nil {
		return nil, err
	}
	root, err := findRoot(dir)
	if err != nil {
		return nil, err
	}
	repo, err := openLocal(root)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, repo.close(), ctx.Err()) }()
	c, err := object.GetCommit(repo, h)
	if err != nil {
		return nil, fmt.Errorf("reading commit %s of %s: %w", commit, root, err)
	}
	tree, err := c.Tree()
	if err != nil {
		return nil, fmt.Errorf("reading the tree of commit %s of %s: %w", commit, root, err)
	}
	var missing []string
	for _, p := range paths {
		_, err := tree.FindEntry(p)
		if errors.Is(err, object.ErrEntryNotFound) || errors.Is(err, object.ErrDirectoryNotFound) {
			missing = append(missing, p)
		} else if err != nil {
			return nil, fmt.Errorf("looking for %s in commit %s of %s: %w", p, commit, root, err)
		}
	}
	return missing, nil
}

// repositoryName is the canonical name of the source at uri, or of the
// repository at root.
func repositoryName(root, uri string) (string, error) {
	if uri == "" {
		uri = URL(root)
	}
	l, err := parseURL(uri)
	if err != nil {
		return "", err
	}
	return l.repository, nil
}
