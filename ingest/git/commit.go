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
