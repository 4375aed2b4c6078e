package git

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Worktree is the state of a checked-out repository.
type Worktree struct {
	Root    string   // of the worktree
	Commit  string   // that HEAD names; "" before the first one
	Branch  string   // full name of the ref that HEAD is on; "" if detached
	Remote  string   // URL of the repository's remote, without credentials; "" if it has none
	Pushed  bool     // the commit can be reached from a remote-tracking ref
	Changes []Change // where the files differ from the commit, by path
}

// Change is one path that is not as in the commit.
type Change struct {
	Path      string // relative to the root, with forward slashes
	State     State
	Size      int64 // bytes of the file as it is now; 0 if it is gone
	Submodule bool  // the path is a submodule that is not as recorded, or another repository
}

// State says how a path differs from the commit.
type State string

// The states of a changed path. A path that is new in the index is modified.
const (
	Modified  State = "modified"
	Deleted   State = "deleted"
	Untracked State = "untracked" // and not ignored
)

// Head returns the state of the worktree that dir is in. It returns
// ErrNoRepository (wrapped) if dir is in none.
//
// The git program is used where it is installed, because it compares a large
// tree with its index in a fraction of the time. It also compares files that
// the user told Git to take for unchanged; files that a sparse checkout leaves
// out are not listed as deleted.
func Head(ctx context.Context, dir string) (*Worktree, error) {
	root, err := findRoot(dir)
	if err != nil {
		return nil, err
	}
	w, err := headByProgram(ctx, root)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		// Not installed, too old, or refusing a folder that somebody else
		// owns: the library can still tell.
		w, err = headByLibrary(ctx, root)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the state of the Git worktree %s: %w", root, err)
	}
	slices.SortFunc(w.Changes, func(a, b Change) int { return strings.Compare(a.Path, b.Path) })
	w.measure()
	return w, nil
}

// measure notes the sizes of files.
func (w *Worktree) measure() {
	for i, c := range w.Changes {
		info, err := os.Lstat(filepath.Join(w.Root, filepath.FromSlash(c.Path)))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			w.Changes[i].State = Deleted
		case err == nil && !info.IsDir():
			w.Changes[i].Size = info.Size()
		}
	}
}

// program runs git in root and returns what it prints. Variables that would
// point it at another repository are taken out of its environment.
func program(ctx context.Context, root string, args ...string) ([]byte, error) {
	return programWith(ctx, root, "", nil, args...)
}

// programWith is program with an index file, unless that is "", and an input.
func programWith(ctx context.Context, root, index string, stdin io.Reader, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-C", root, "-c", "core.fsmonitor=false"}, args...)...)
	cmd.Stdin = stdin
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "GIT_") || strings.HasPrefix(v, "GIT_CONFIG") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, "GIT_OPTIONAL_LOCKS=0", "LC_ALL=C")
	if index != "" {
		cmd.Env = append(cmd.Env, "GIT_INDEX_FILE="+index)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("git %s: %w: %s", args[0], err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}

func headByProgram(ctx context.Context, root string) (w *Worktree, err error) {
	index, remove, err := frankIndex(ctx, root)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	out, err := programWith(ctx, root, index, nil, "status", "--porcelain=v2", "--branch", "-z", "--untracked-files=all", "--no-renames", "--ignore-submodules=none")
	if err != nil {
		return nil, err
	}
	w = &Worktree{Root: root}
	if err := w.parseStatus(string(out)); err != nil {
		return nil, err
	}
	if w.Branch != "" {
		w.Branch = "refs/heads/" + w.Branch
	}
	if w.Commit != "" {
		out, err := program(ctx, root, "for-each-ref", "--count=1", "--contains", w.Commit, "--format=%(refname)", "refs/remotes")
		if err != nil {
			return nil, err
		}
		w.Pushed = len(out) > 0
	}
	w.Remote = remoteURL(ctx, root, w.Branch)
	return w, nil
}

// frankIndex returns a copy of the index that hides no changes of files that are
// there, or "" where the index itself hides none. The second result removes it.
func frankIndex(ctx context.Context, root string) (string, func() error, error) {
	none := func() error { return nil }
	out, err := program(ctx, root, "ls-files", "-v", "-z")
	if err != nil {
		return "", none, err
	}
	hidden := hiddenFiles(root, string(out))
	if len(hidden) == 0 {
		return "", none, nil
	}
	at, err := program(ctx, root, "rev-parse", "--path-format=absolute", "--git-path", "index")
	if err != nil {
		return "", none, err
	}
	raw, err := os.ReadFile(strings.TrimSuffix(string(at), "\n"))
	if err != nil {
		return "", none, err
	}
	dir, err := os.MkdirTemp("", "retrace-index-")
	if err != nil {
		return "", none, err
	}
	remove := func() error { return os.RemoveAll(dir) }
	index := filepath.Join(dir, "index")
	err = os.WriteFile(index, raw, 0o600)
	for _, flag := range []string{"--no-assume-unchanged", "--no-skip-worktree"} {
		if err == nil {
			_, err = programWith(ctx, root, index, strings.NewReader(strings.Join(hidden, "\x00")+"\x00"), "update-index", flag, "-z", "--stdin")
		}
	}
	if err != nil {
		return "", none, errors.Join(err, remove())
	}
	return index, remove, nil
}

// hiddenFiles are those of a list by git ls-files -v -z that are marked
// assume-unchanged (a lower-case tag) or skip-worktree (S), and are there.
func hiddenFiles(root, list string) []string {
	var hidden []string
	for _, line := range strings.Split(list, "\x00") {
		tag, path, ok := strings.Cut(line, " ")
		if !ok || (tag != "S" && tag == strings.ToUpper(tag)) {
			continue
		}
		if _, err := os.Lstat(filepath.Join(root, filepath.FromSlash(path))); err == nil {
			hidden = append(hidden, path)
		}
	}
	return hidden
}

// parseStatus reads git-status(1), porcelain format version 2, ended by NULs.
func (w *Worktree) parseStatus(out string) error {
	for _, line := range strings.Split(out, "\x00") {
		kind, rest, _ := strings.Cut(line, " ")
		switch kind {
		case "":
		case "#":
			key, value, _ := strings.Cut(rest, " ")
			switch {
			case key == "branch.oid" && value != "(initial)":
				w.Commit = value
			case key == "branch.head" && value != "(detached)":
				w.Branch = value
			}
		case "?":
			// A repository within this one is listed as a folder.
			path, nested := strings.CutSuffix(rest, "/")
			w.Changes = append(w.Changes, Change{Path: path, State: Untracked, Submodule: nested})
		case "1", "u":
			// XY, submodule, then so many modes and hashes before the path.
			fields := map[string]int{"1": 8, "u": 10}[kind]
			parts := strings.SplitN(rest, " ", fields)
			if len(parts) != fields {
				return fmt.Errorf("git status says %.200q, which this program cannot read", line)
			}
			w.Changes = append(w.Changes, Change{Path: parts[fields-1], State: Modified, Submodule: strings.HasPrefix(parts[1], "S")})
		default:
			return fmt.Errorf("git status says %.200q, which this program cannot read", line)
		}
	}
	return nil
}

// remoteURL is the URL of the remote that the branch follows, else of origin,
// else of the first one.
func remoteURL(ctx context.Context, root, branch string) string {
	names, err := program(ctx, root, "remote")
	if err != nil {
		return ""
	}
	remotes := strings.Fields(string(names))
	if len(remotes) == 0 {
		return ""
	}
	var follows string
	if short, ok := strings.CutPrefix(branch, "refs/heads/"); ok {
		if out, err := program(ctx, root, "config", "--get", "branch."+short+".remote"); err == nil {
			follows = strings.TrimSpace(string(out))
		}
	}
	out, err := program(ctx, root, "config", "--get", "remote."+chooseRemote(remotes, follows)+".url")
	if err != nil {
		return ""
	}
	return withoutCredentials(strings.TrimSpace(string(out)))
}

func chooseRemote(remotes []string, follows string) string {
	for _, name := range []string{follows, "origin"} {
		if slices.Contains(remotes, name) {
			return name
		}
	}
	slices.Sort(remotes)
	return remotes[0]
}

// withoutCredentials takes user and password out of a remote's URL, but leaves
// the user of an SSH address. What does not parse as a URL and has none of its
// marks is a path or an scp-like address, and has no password.
func withoutCredentials(remote string) string {
	if !strings.Contains(remote, "://") {
		return remote
	}
	u, err := url.Parse(remote)
	if err != nil {
		return ""
	}
	if strings.HasSuffix(u.Scheme, "ssh") && u.User != nil {
		u.User = url.User(u.User.Username())
	} else {
		u.User = nil
	}
	u.RawQuery, u.Fragment = "", ""
	return u.String()
}
