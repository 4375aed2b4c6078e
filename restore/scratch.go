package restore

import (
	"context"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/retrace-ledger/retrace/schema"
)

// prepare lays a step's working root out in scratch: what was restored but for
// what the plan's steps made, and then what they made anew. Afterwards no file
// there is one that was recorded as an output of the plan.
func (r *reproduction) prepare(ctx context.Context, s *Step) error {
	if err := r.scratch.MkdirAll(stepsFolder, 0o777); err != nil {
		return err
	}
	if err := copyTree(ctx, r.from, s.Place, r.scratch, s.Place, r.derived(s)); err != nil {
		return err
	}
	for _, it := range layers(s) {
		if it.Producer == 0 {
			continue
		}
		p, err := recordedPath(s, it)
		if err != nil {
			return blocked("step %d (%s, entry:%d) used %s, which lies outside its working root", s.Number, label(s), s.Entry, it.Place)
		}
		if err := r.again(ctx, it.Producer, it.Key, it.Within, s, p); err != nil {
			return err
		}
		if it.Exec && it.Kind == kindFile {
			if err := r.executable(s.Place + "/" + p); err != nil {
				return err
			}
		}
	}
	if err := r.withhold(ctx, s); err != nil {
		return err
	}
	return r.parents(s)
}

// derived says which paths of a working root hold what steps of the plan made.
func (r *reproduction) derived(s *Step) func(string) bool {
	paths := map[string]bool{}
	for i := range s.Items {
		if p, err := recordedPath(s, &s.Items[i]); err == nil && s.Items[i].Producer > 0 {
			paths[p] = true
		}
	}
	return func(p string) bool {
		return paths[p] || paths["."] && !isDotGit(p) && !strings.Contains(p, "/")
	}
}

// again copies what step number made anew under key, or in the folder within,
// to the path to of step s.
func (r *reproduction) again(ctx context.Context, number int, key, within schema.Key, s *Step, to string) error {
	source, err := r.source(ctx, &r.plan.Steps[number-1], key, within)
	if err != nil {
		return err
	}
	if source == "" || !r.ran[number] {
		return blocked("step %d (%s, entry:%d) used %s, which step %d did not make anew", s.Number, label(s), s.Entry, to, number)
	}
	if to == "." {
		return r.into(ctx, source, s)
	}
	root, err := r.scratch.OpenRoot(s.Place)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := makeParents(root, to); err != nil {
		return err
	}
	if err := root.RemoveAll(to); err != nil {
		return err
	}
	return copyTree(ctx, r.scratch, source, root, to, nil)
}

// source is where in scratch a step that was run left what it made.
func (r *reproduction) source(ctx context.Context, from *Step, key, within schema.Key) (string, error) {
	for _, o := range from.Outputs {
		at := from.Place + "/" + o.Path
		switch o.Key {
		case key:
			return at, nil
		case within:
			_, files, err := r.src.Digest(ctx, filepath.Join(r.dir, filepath.FromSlash(at)))
			i := slices.IndexFunc(files, func(f schema.SnapshotFile) bool { return f.Type == typeFile && f.SHA256 == key.Hex() })
			if err != nil || i < 0 {
				return "", err
			}
			return at + "/" + files[i].Path, nil
		}
	}
	return "", nil
}

// into copies what lies in the folder source into the working root itself.
func (r *reproduction) into(ctx context.Context, source string, s *Step) error {
	names, err := readNames(r.scratch, source)
	if err != nil {
		return err
	}
	for _, name := range names {
		to := path.Join(s.Place, name)
		if err := r.scratch.RemoveAll(to); err != nil {
			return err
		}
		if err := copyTree(ctx, r.scratch, path.Join(source, name), r.scratch, to, nil); err != nil {
			return err
		}
	}
	return nil
}

// withhold takes out of a working root what was recorded as made by the plan's
// steps and came with the code, with uncommitted changes or in a folder: what
// a step before made is replaced by what it made anew, what this step or one
// after it made is removed. An output that would be there all the same, being
// an input too, makes the comparison worthless.
func (r *reproduction) withhold(ctx context.Context, s *Step) error {
	at := filepath.Join(r.dir, filepath.FromSlash(s.Place))
	list := func() (listing, error) {
		_, files, err := r.src.Digest(ctx, at, filepath.Join(at, ".git"))
		return listingOf(files), err
	}
	have, err := list()
	if err != nil {
		return err
	}
	for _, p := range slices.Sorted(maps.Keys(have)) {
		if err := r.withholdOne(ctx, s, p, have); err != nil {
			return err
		}
	}
	if have, err = list(); err != nil {
		return err
	}
	for _, o := range s.Outputs {
		if key, err := have.key(o.Path); err != nil || key == o.Key {
			return cmpErr(err, blocked("step %d (%s, entry:%d) was given %s with the bytes that it is recorded to have made, so running it would prove nothing", s.Number, label(s), s.Entry, o.Path))
		}
	}
	return nil
}

// withholdOne does so for the file or folder at p.
func (r *reproduction) withholdOne(ctx context.Context, s *Step, p string, have listing) error {
	f, ok := have[p]
	if !ok || f.Type == typeLink || f.Type == typeFolder && !r.folderMade(p) {
		return nil // removed with the folder it was in, or of no concern
	}
	key, err := have.key(p)
	if err != nil {
		return err
	}
	at := s.Place + "/" + p
	for _, m := range r.made[key] {
		switch {
		case r.ran[m.step] && f.Type == typeFile:
			if err := r.again(ctx, m.step, key, "", s, p); err != nil || !f.Exec {
				return err
			}
			return r.executable(at)
		case !r.ran[m.step] && p == m.output.Path && !r.given(s, p):
			have.remove(p)
			return r.scratch.RemoveAll(at)
		}
	}
	return nil
}

// folderMade says whether a step of the plan made a folder at p.
func (r *reproduction) folderMade(p string) bool {
	return slices.ContainsFunc(r.needed(), func(s *Step) bool {
		return slices.ContainsFunc(s.Outputs, func(o Output) bool { return o.Path == p && !isFile(o.Key) })
	})
}

func isFile(k schema.Key) bool { return k.Algorithm() == schema.SHA256 }

// executable makes a file of the scratch folder executable.
func (r *reproduction) executable(at string) error {
	info, err := r.scratch.Lstat(at)
	if err != nil {
		return err
	}
	return r.scratch.Chmod(at, mode(info.Mode(), true))
}

// given says whether p is an input of the step, or in one.
func (r *reproduction) given(s *Step, p string) bool {
	return slices.ContainsFunc(s.Items, func(it Item) bool {
		at, err := recordedPath(s, &it)
		if err != nil || at == "." && it.Role != schema.RoleInput {
			return false
		}
		return at == "." || at == p || strings.HasPrefix(p, at+"/")
	})
}

// parents makes the folders above the outputs: which empty folders were there
// when the step ran is not recorded, and a command that writes into one is far
// more common than one that insists on making it.
func (r *reproduction) parents(s *Step) error {
	root, err := r.scratch.OpenRoot(s.Place)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, o := range s.Outputs {
		if err := makeParents(root, o.Path); err != nil {
			return blocked("step %d (%s, entry:%d) wrote %s: %v", s.Number, label(s), s.Entry, o.Path, err)
		}
	}
	return nil
}
