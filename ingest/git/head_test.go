package git

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// heads are the two ways to read a worktree.
var heads = map[string]func(context.Context, string) (*Worktree, error){
	"Head": Head,
	"Library": func(ctx context.Context, dir string) (*Worktree, error) {
		root, err := findRoot(dir)
		if err != nil {
			return nil, err
		}
		w, err := headByLibrary(ctx, root)
		if err != nil {
			return nil, err
		}
		w.measure()
		return w, nil
	},
}

func TestHead(t *testing.T) {
	dir := newRepository(t)
	first := runGit(t, dir, "", "rev-parse", "HEAD")
	write(t, filepath.Join(dir, ".gitignore"), "*.log\nout/\n")
	write(t, filepath.Join(dir, "sub", "tracked"), "one")
	runGit(t, dir, "", "add", "-A")
	runGit(t, dir, "", "commit", "-q", "-m", "more")
	second := runGit(t, dir, "", "rev-parse", "HEAD")
	// A tracking ref as a fetch would leave it.
	runGit(t, dir, "", "remote", "add", "origin", "https://ada:secret@example.com/repo.git")
	runGit(t, dir, "", "update-ref", "refs/remotes/origin/main", first)

	for name, head := range heads {
		t.Run(name, func(t *testing.T) {
			got, err := head(t.Context(), filepath.Join(dir, "sub"))
			if err != nil {
				t.Fatal(err)
			}
			want := &Worktree{Root: dir, Commit: second, Branch: "refs/heads/main", Remote: "https://example.com/repo.git"}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("clean worktree (-want +got):\n%s", diff)
			}
		})
	}

	runGit(t, dir, "", "update-ref", "refs/remotes/origin/other", second)
	write(t, filepath.Join(dir, "sub", "tracked"), "three")
	if err := os.Remove(filepath.Join(dir, "first")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "new file"), "12345678")
	write(t, filepath.Join(dir, "new", "below"), "1")
	write(t, filepath.Join(dir, "ignored.log"), "1")
	write(t, filepath.Join(dir, "out", "ignored"), "1")
	write(t, filepath.Join(dir, "staged"), "22")
	runGit(t, dir, "", "add", "staged")
	want := []Change{
		{Path: "first", State: Deleted},
		{Path: "new file", State: Untracked, Size: 8},
		{Path: "new/below", State: Untracked, Size: 1},
		{Path: "staged", State: Modified, Size: 2},
		{Path: "sub/tracked", State: Modified, Size: 5},
	}
	byPath := cmp.Transformer("byPath", func(cs []Change) map[string]Change {
		m := map[string]Change{}
		for _, c := range cs {
			m[c.Path] = c
		}
		return m
	})
	for name, head := range heads {
		t.Run(name+"/Dirty", func(t *testing.T) {
			got, err := head(t.Context(), dir)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got.Changes, byPath); diff != "" {
				t.Errorf("changes (-want +got):\n%s", diff)
			}
			if !got.Pushed {
				t.Error("the commit is on a remote-tracking ref, and Pushed is false")
			}
		})
	}
}

func TestHeadOddPlaces(t *testing.T) {
	dir := newRepository(t)
	commit := runGit(t, dir, "", "rev-parse", "HEAD")
	linked := filepath.Join(t.TempDir(), "linked")
	runGit(t, dir, "", "worktree", "add", "-q", "--detach", linked)
	unborn := filepath.Join(t.TempDir(), "unborn")
	runGit(t, t.TempDir(), "", "init", "-q", "-b", "main", unborn)
	for name, head := range heads {
		t.Run(name, func(t *testing.T) {
			for _, c := range []struct {
				dir  string
				want *Worktree
			}{
				{linked, &Worktree{Root: linked, Commit: commit}},
				{unborn, &Worktree{Root: unborn, Branch: "refs/heads/main"}},
			} {
				got, err := head(t.Context(), c.dir)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Errorf("%s (-want +got):\n%s", c.dir, diff)
				}
			}
			if _, err := head(t.Context(), t.TempDir()); !errors.Is(err, ErrNoRepository) {
				t.Errorf("outside of a repository: %v, want %v", err, ErrNoRepository)
			}
		})
	}
}

// TestHeadSeesHiddenChanges alters files that Git was told not to look at.
func TestHeadSeesHiddenChanges(t *testing.T) {
	dir := newRepository(t)
	commit(t, dir, "assumed")
	commit(t, dir, "skipped")
	commit(t, dir, "sparse")
	runGit(t, dir, "", "update-index", "--assume-unchanged", "assumed", "first")
	runGit(t, dir, "", "update-index", "--skip-worktree", "skipped", "sparse")
	write(t, filepath.Join(dir, "assumed"), "changed")
	write(t, filepath.Join(dir, "skipped"), "changed")
	remove(t, filepath.Join(dir, "sparse"))
	index := filepath.Join(dir, ".git", "index")
	before, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	w, err := Head(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	want := []Change{{Path: "assumed", State: Modified, Size: 7}, {Path: "skipped", State: Modified, Size: 7}}
	if diff := cmp.Diff(want, w.Changes); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	if after, err := os.ReadFile(index); err != nil || !bytes.Equal(before, after) {
		t.Errorf("looking at the worktree changed its index (%v)", err)
	}
}

// TestHeadOfAHook runs with the variables that git sets for hooks, which name
// another repository.
func TestHeadOfAHook(t *testing.T) {
	dir, other := newRepository(t), newRepository(t)
	want := commit(t, dir, "second")
	t.Setenv("GIT_DIR", filepath.Join(other, ".git"))
	t.Setenv("GIT_INDEX_FILE", filepath.Join(other, ".git", "index"))
	w, err := Head(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if w.Commit != want || len(w.Changes) > 0 {
		t.Errorf("Head = %+v, want commit %s without changes", w, want)
	}
}

func TestWithoutCredentials(t *testing.T) {
	for in, want := range map[string]string{
		"https://ada:secret@example.com/r.git":        "https://example.com/r.git",
		"https://ghp_token@example.com/r.git?x=token": "https://example.com/r.git",
		"ssh://git:secret@example.com/r":              "ssh://git@example.com/r",
		"git@example.com:owner/r.git":                 "git@example.com:owner/r.git",
		"/srv/git/r.git":                              "/srv/git/r.git",
		"https://ada:sec%ret@example.com/":            "",
	} {
		if got := withoutCredentials(in); got != want {
			t.Errorf("withoutCredentials(%q) = %q, want %q", in, got, want)
		}
	}
}
