package git

import (
	"context"
	"errors"
	"fmt"

	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/retrace-ledger/retrace/schema"
)

// describer says what commits of a repository are.
type describer struct {
	repo       *repository
	repository string
	signers    *signers // nil where no keys are given
	pins       *pinReader
}

// commit is the statement about a commit, and before it those about files of it
// that pin things: with all, of every such file, else of those that its first
// parent does not have. A *schema.FieldError says that no statement can be made
// of the commit.
func (d *describer) commit(c *object.Commit, all bool) ([]schema.Statement, schema.Statement, error) {
	var s schema.Statement
	pins, left, err := d.pins.pins(c)
	if err != nil {
		return nil, s, err
	}
	signer, err := d.signers.verify(d.repo, c)
	if err != nil {
		return nil, s, err
	}
	if s, err = commitStatement(d.repository, c, signer, pins, left); err != nil {
		return nil, s, &schema.FieldError{Reason: err.Error()} // whatever it is, it is the commit's
	}
	if !all {
		if pins, err = d.pins.fresh(c, pins); err != nil {
			return nil, s, err
		}
	}
	var files []schema.Statement
	for _, x := range pins {
		if x.file == nil {
			continue
		}
		f, err := x.file.statement(d.repository, x.Digest[schema.GitBlob])
		if err != nil {
			return nil, s, fmt.Errorf("%s in commit %s: %w", x.Name, c.Hash, err)
		}
		files = append(files, f)
	}
	return files, s, nil
}

// Commit describes one commit of the repository that dir is in, as reading
// that repository as a source would: in the words of uri, a source URL, or of
// the repository's own path where uri is empty. The statement about the commit
// is the last; before it are those about files of it that pin things.
func Commit(ctx context.Context, dir, commit, uri string) ([]schema.Statement, error) {
	h, err := parseCommit(commit)
	if err != nil {
		return nil, err
	}
	root, err := findRoot(dir)
	if err != nil {
		return nil, err
	}
	name, err := repositoryName(root, uri)
	if err != nil {
		return nil, err
	}
	repo, err := openLocal(root)
	if err != nil {
		return nil, err
	}
	c, err := object.GetCommit(repo, h)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("reading commit %s of %s: %w", commit, root, err), repo.close())
	}
	d := describer{repo: repo, repository: name, pins: newPinReader(repo)}
	files, s, err := d.commit(c, true)
	return append(files, s), errors.Join(err, repo.close(), ctx.Err())
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
