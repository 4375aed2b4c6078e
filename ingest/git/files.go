package git

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/retrace-ledger/retrace/schema"
)

// File is a file of a commit.
type File struct {
	Object string // gitBlob or, of a submodule, gitCommit, with its digest
	Size   int64  // bytes; -1 of a submodule
}

// Files lists the files of a commit by path, from wherever Fetch would have them.
func (f *Fetcher) Files(ctx context.Context, r schema.Resource) (_ map[string]File, err error) {
	scratch, err := os.MkdirTemp("", "retrace-git-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	dir := filepath.Join(scratch, "commit")
	if err := f.Fetch(ctx, r, dir); err != nil {
		return nil, err
	}
	commit, err := commitOf(r)
	if err != nil {
		return nil, err
	}
	repo, err := openLocal(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, repo.close()) }()
	c, err := object.GetCommit(repo, commit)
	if err != nil {
		return nil, fmt.Errorf("reading commit %s: %w", commit, err)
	}
	tree, err := c.Tree()
	if err != nil {
		return nil, fmt.Errorf("reading the tree of commit %s: %w", commit, err)
	}
	walker := object.NewTreeWalker(tree, true, nil)
	defer walker.Close()
	files := map[string]File{}
	for {
		name, entry, err := walker.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading the tree of commit %s: %w", commit, err)
		}
		switch entry.Mode {
		case filemode.Dir:
		case filemode.Submodule:
			files[name] = File{schema.GitCommit + ":" + entry.Hash.String(), -1}
		default:
			size, err := repo.EncodedObjectSize(entry.Hash)
			if err != nil {
				return nil, fmt.Errorf("reading %s of commit %s: %w", name, commit, err)
			}
			files[name] = File{schema.GitBlob + ":" + entry.Hash.String(), size}
		}
	}
}
