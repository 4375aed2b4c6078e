package main

import (
	"context"
	"errors"
	"io"
	"strings"

	"github.com/retrace-ledger/retrace/ingest/git"
	"github.com/retrace-ledger/retrace/ingest/run"
)

// gitWorktrees tells package run about Git.
type gitWorktrees struct{}

// Head implements run.Git.
func (gitWorktrees) Head(ctx context.Context, dir string) (*run.Worktree, error) {
	w, err := git.Head(ctx, dir)
	if errors.Is(err, git.ErrNoRepository) || (err == nil && w.Commit == "") {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	uri := ""
	if w.Pushed {
		uri = remoteSource(w.Remote)
	}
	out := &run.Worktree{Root: w.Root, Commit: w.Commit, Remote: w.Remote, OnRemote: w.Pushed}
	if out.Statements, err = git.Commit(ctx, w.Root, w.Commit, uri); err != nil {
		return nil, err
	}
	out.URI = out.Statements[len(out.Statements)-1].Subject[0].URI
	for _, c := range w.Changes {
		switch {
		case c.State == git.Deleted:
			out.Deleted = append(out.Deleted, c.Path)
		default:
			out.Changed = append(out.Changed, c.Path)
		}
	}
	return out, nil
}

// Pack implements run.Git.
func (gitWorktrees) Pack(ctx context.Context, dir, commit string, w io.Writer) error {
	return git.Pack(ctx, dir, commit, w)
}

// Missing implements run.Git.
func (gitWorktrees) Missing(ctx context.Context, dir, commit string, paths []string) ([]string, error) {
	return git.Missing(ctx, dir, commit, paths)
}

// remoteSource is the source URL of a remote as Git names it, or "" for one
// that no source URL can name.
func remoteSource(remote string) string {
	switch {
	case strings.HasPrefix(remote, "https://"), strings.HasPrefix(remote, "http://"), strings.HasPrefix(remote, "ssh://"):
		return "git+" + remote
	case strings.Contains(remote, "://") || strings.HasPrefix(remote, "/"):
		return ""
	}
	if host, path, ok := strings.Cut(remote, ":"); ok && host != "" && !strings.Contains(host, "/") {
		return "git+ssh://" + host + "/" + strings.TrimPrefix(path, "/")
	}
	return ""
}
