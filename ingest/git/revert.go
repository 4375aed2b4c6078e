package git

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"sort"
	"strings"
	"time"

	gogit "github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/storer"
	"github.com/go-git/go-git/v5/plumbing/transport"
)

// Clone is a copy of a repository, made to put one commit on top of a branch of
// it. Nothing leaves it but by Push.
type Clone struct {
	at     *location
	repo   *gogit.Repository
	remote *gogit.Remote
	dir    string
}

// ErrNoBranch says that a repository has no such branch.
var ErrNoBranch = errors.New("no such branch")

// Clone copies the repository behind a source URL, with the credentials of the
// place that watches it. Close removes the copy.
func (f *Fetcher) Clone(ctx context.Context, rawURL string) (*Clone, error) {
	l, err := f.locate(rawURL)
	if err != nil {
		return nil, err
	}
	from := l.remote
	if l.path != "" {
		from = "file://" + l.path
	}
	dir, err := os.MkdirTemp("", "retrace-revert-")
	if err != nil {
		return nil, err
	}
	c := &Clone{at: l, dir: dir}
	if err := c.fetch(ctx, from); err != nil {
		return nil, errors.Join(fmt.Errorf("cloning %s: %w", l.repository, explain(err)), c.Close())
	}
	return c, nil
}

func (c *Clone) fetch(ctx context.Context, from string) (err error) {
	if c.repo, err = gogit.PlainInit(c.dir, true); err != nil {
		return err
	}
	if c.remote, err = c.repo.CreateRemote(&config.RemoteConfig{Name: "origin", URLs: []string{from}}); err != nil {
		return err
	}
	err = c.remote.FetchContext(ctx, &gogit.FetchOptions{RefSpecs: []config.RefSpec{"+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"}, Auth: c.at.auth, Tags: gogit.NoTags})
	if errors.Is(err, transport.ErrEmptyRemoteRepository) {
		return errors.New("it has no commits")
	}
	return err
}

// Close removes the copy.
func (c *Clone) Close() error { return os.RemoveAll(c.dir) }

// Repository is its URL as statements carry it.
func (c *Clone) Repository() string { return c.at.repository }

// Branch is the commit that a branch points at; ErrNoBranch if there is none.
func (c *Clone) Branch(name string) (string, error) {
	ref, err := c.repo.Reference(plumbing.NewBranchReferenceName(name), true)
	if errors.Is(err, plumbing.ErrReferenceNotFound) {
		return "", fmt.Errorf("%s in %s: %w", name, c.at.repository, ErrNoBranch)
	}
	if err != nil {
		return "", err
	}
	return ref.Hash().String(), nil
}

// Has says whether a branch or tag of the repository leads to commit.
func (c *Clone) Has(commit string) bool {
	_, err := c.repo.CommitObject(plumbing.NewHash(commit))
	return err == nil
}

// Reversal is a tree that puts back what an earlier commit held.
type Reversal struct {
	Head  string // the commit that it goes on top of
	To    string // the commit whose state it puts back
	Paths []string
	Files []Reverted // by path
	Diff  string     // unified, from the tree of Head to that put back
	tree  plumbing.Hash
}

// Reverted is a file that a reversal changes.
type Reverted struct {
	Path string `json:"path"`
	From string `json:"from,omitempty"` // gitBlob; empty where it is put back
	To   string `json:"to,omitempty"`   // empty where it goes
}

// PutBack makes the tree of the commit to, on top of the commit head: of
// all of it or, with paths, of those files and folders and nothing else. A path
// that neither has is an error.
func (c *Clone) PutBack(ctx context.Context, head, to string, paths []string) (*Reversal, error) {
	from, err := c.tree(head)
	if err != nil {
		return nil, err
	}
	want, err := c.tree(to)
	if err != nil {
		return nil, err
	}
	r := &Reversal{Head: head, To: to, Paths: paths, tree: want.Hash}
	if len(paths) > 0 {
		r.tree = from.Hash
		for _, p := range paths {
			if r.tree, err = c.replace(r.tree, want, p); err != nil {
				return nil, err
			}
		}
	}
	after, err := c.repo.TreeObject(r.tree)
	if err != nil {
		return nil, err
	}
	changes, err := object.DiffTreeContext(ctx, from, after)
	if err != nil {
		return nil, fmt.Errorf("comparing %s with what is put back: %w", head, err)
	}
	patch, err := changes.PatchContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("comparing %s with what is put back: %w", head, err)
	}
	r.Diff = patch.String()
	for _, x := range changes {
		f := Reverted{From: objectKey(x.From.TreeEntry), To: objectKey(x.To.TreeEntry), Path: x.From.Name}
		if f.Path == "" {
			f.Path = x.To.Name
		}
		r.Files = append(r.Files, f)
	}
	slices.SortFunc(r.Files, func(a, b Reverted) int { return strings.Compare(a.Path, b.Path) })
	return r, nil
}

func objectKey(e object.TreeEntry) string {
	switch {
	case e.Hash.IsZero():
		return ""
	case e.Mode == filemode.Submodule:
		return "gitCommit:" + e.Hash.String()
	}
	return "gitBlob:" + e.Hash.String()
}

func (c *Clone) tree(commit string) (*object.Tree, error) {
	o, err := c.repo.CommitObject(plumbing.NewHash(commit))
	if err != nil {
		return nil, fmt.Errorf("commit %s is on no branch or tag of %s: %w", commit, c.at.repository, err)
	}
	return o.Tree()
}

// replace is the tree below, with what want has at p, or nothing where want has
// nothing there.
func (c *Clone) replace(below plumbing.Hash, want *object.Tree, p string) (plumbing.Hash, error) {
	clean := path.Clean(p)
	if clean == "." || path.IsAbs(clean) || clean == ".." || strings.HasPrefix(clean, "../") {
		return below, fmt.Errorf("%q is no path in a repository", p)
	}
	var entry *object.TreeEntry
	found, err := want.FindEntry(clean)
	switch {
	case err == nil:
		entry = found
	case !errors.Is(err, object.ErrEntryNotFound) && !errors.Is(err, object.ErrDirectoryNotFound):
		return below, err
	}
	tree, err := c.set(below, strings.Split(clean, "/"), entry)
	if err != nil {
		return below, fmt.Errorf("putting back %s: %w", p, err)
	}
	if entry == nil && tree == below {
		return below, fmt.Errorf("neither state has %s", p)
	}
	return tree, nil
}

// set is the tree at h with entry at the path names, or without anything there if
// entry is nil. A zero h is an empty tree, which nothing holds.
func (c *Clone) set(h plumbing.Hash, names []string, entry *object.TreeEntry) (plumbing.Hash, error) {
	t := new(object.Tree)
	if !h.IsZero() {
		found, err := c.repo.TreeObject(h)
		if err != nil {
			return h, err
		}
		t.Entries = slices.Clone(found.Entries)
	}
	i := slices.IndexFunc(t.Entries, func(e object.TreeEntry) bool { return e.Name == names[0] })
	next := entry
	if len(names) > 1 {
		below := plumbing.ZeroHash
		if i >= 0 && t.Entries[i].Mode == filemode.Dir {
			below = t.Entries[i].Hash
		} else if entry == nil {
			return h, nil // not there already
		}
		sub, err := c.set(below, names[1:], entry)
		if err != nil {
			return h, err
		}
		next = nil
		if !sub.IsZero() {
			next = &object.TreeEntry{Mode: filemode.Dir, Hash: sub}
		}
	}
	switch {
	case next == nil && i < 0:
		return h, nil
	case next == nil:
		t.Entries = slices.Delete(t.Entries, i, i+1)
	case i < 0:
		t.Entries = append(t.Entries, object.TreeEntry{Name: names[0], Mode: next.Mode, Hash: next.Hash})
	default:
		t.Entries[i].Mode, t.Entries[i].Hash = next.Mode, next.Hash
	}
	if len(t.Entries) == 0 {
		return plumbing.ZeroHash, nil
	}
	sort.Sort(object.TreeEntrySorter(t.Entries))
	return save(c.repo.Storer, t)
}

func save(s storer.EncodedObjectStorer, o interface {
	Encode(plumbing.EncodedObject) error
}) (plumbing.Hash, error) {
	raw := s.NewEncodedObject()
	if err := o.Encode(raw); err != nil {
		return plumbing.ZeroHash, err
	}
	return s.SetEncodedObject(raw)
}

// Commit makes the commit of a reversal in the copy.
func (c *Clone) Commit(r *Reversal, name, email, message string, at time.Time) (string, error) {
	who := object.Signature{Name: name, Email: email, When: at}
	h, err := save(c.repo.Storer, &object.Commit{
		Author: who, Committer: who, Message: message, TreeHash: r.tree, ParentHashes: []plumbing.Hash{plumbing.NewHash(r.Head)},
	})
	return h.String(), err
}

// Push puts commit on a branch of the repository itself, never by force: a branch
// that has moved meanwhile, or that a new one would take the name of, refuses it.
func (c *Clone) Push(ctx context.Context, commit, branch string) error {
	local := plumbing.NewBranchReferenceName("retrace-revert-" + commit)
	if err := c.repo.Storer.SetReference(plumbing.NewHashReference(local, plumbing.NewHash(commit))); err != nil {
		return err
	}
	spec := config.RefSpec(local.String() + ":" + plumbing.NewBranchReferenceName(branch).String())
	err := c.remote.PushContext(ctx, &gogit.PushOptions{RefSpecs: []config.RefSpec{spec}, Auth: c.at.auth})
	if err != nil && !errors.Is(err, gogit.NoErrAlreadyUpToDate) {
		return fmt.Errorf("pushing to %s of %s: %w", branch, c.at.repository, explain(err))
	}
	return nil
}

// Committer is the user.name and user.email of Git's own configuration; empty where
// there are none.
func Committer() (name, email string) {
	c, err := config.LoadConfig(config.GlobalScope)
	if err != nil {
		return "", ""
	}
	return c.User.Name, c.User.Email
}

// OnBranch says whether a branch leads to commit.
func (c *Clone) OnBranch(commit, branch string) (bool, error) {
	head, err := c.Branch(branch)
	if err != nil {
		return false, err
	}
	tip, err := c.repo.CommitObject(plumbing.NewHash(head))
	if err != nil {
		return false, err
	}
	one, err := c.repo.CommitObject(plumbing.NewHash(commit))
	if errors.Is(err, plumbing.ErrObjectNotFound) {
		return false, nil // on no branch or tag at all
	}
	if err != nil {
		return false, err
	}
	return one.IsAncestor(tip)
}

// Manifests are the files of YAML and JSON in a commit's tree, by path; those larger
// than 1 MiB are left out.
func (c *Clone) Manifests(commit string) (map[string][]byte, error) {
	t, err := c.tree(commit)
	if err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	err = t.Files().ForEach(func(f *object.File) error {
		if !isManifest(f.Name) || f.Size > maxPinFile {
			return nil
		}
		text, err := f.Contents()
		out[f.Name] = []byte(text)
		return err
	})
	return out, err
}

// SameRepository says whether two source URLs are of one repository.
func SameRepository(a, b string) bool {
	one, errA := parseURL(a)
	two, errB := parseURL(b)
	return errA == nil && errB == nil && one.repository == two.repository
}
