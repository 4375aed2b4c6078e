package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/retrace-ledger/retrace/schema"
)

// RestoreOptions are how a plan is laid out. The zero value is right.
type RestoreOptions struct {
	// Overwrite lays the plan out in a folder that holds something else, or
	// over what was changed since. Only the places that the plan names are
	// replaced.
	Overwrite bool
	// NeededOnly leaves out what reproducing does not need: what the plan's
	// own steps made, images, and the resource itself.
	NeededOnly bool
	// Progress, if set, is told before each item and after the last.
	Progress func(Progress)
}

// Progress of a restoration.
type Progress struct {
	Doing string // what, in words
	Place string
	Done  int // items
	Total int
	Bytes int64 // laid out so far
}

// NotEmptyError says that the folder to restore to holds something else.
type NotEmptyError struct {
	Dir   string
	Plan  string // digest of the plan that was laid out there; empty if it is no restored place
	Holds string // a name in it
}

func (e *NotEmptyError) Error() string {
	if e.Plan != "" {
		return fmt.Sprintf("%s holds another restored place (plan %.12s)", e.Dir, e.Plan)
	}
	return fmt.Sprintf("%s is not empty (it holds %s)", e.Dir, e.Holds)
}

// Verdict is the outcome of a restoration.
type Verdict struct {
	Ref        string
	Key        schema.Key
	Name       string
	Result     string // COMPLETE or INCOMPLETE
	PlanDigest string
	Size       int64 // ledger size that the plan speaks for
	Checked    int   // items whose digest was right, read again from disk
	Bytes      int64 // of them
	Problems   []string
	NeededOnly bool
}

// Statement is the verdict as a statement to sign and append. Its subject is
// the resource, or the plan where the resource has no digest.
func (v *Verdict) Statement() (schema.Statement, error) {
	problems := shorten(v.Problems, 1000) // a statement has a limit, and the lock has them all
	if v.NeededOnly {
		problems = append(slices.Clone(problems), "only what reproducing needs was asked for")
	}
	return schema.NewStatement(schema.RestoreV1, &schema.Restore{
		Ref: v.Ref, Result: v.Result, Plan: v.PlanDigest, Size: v.Size, Checked: v.Checked, Bytes: v.Bytes, Problems: problems,
	}, subject(v.Key, v.Name, v.PlanDigest))
}

func subject(k schema.Key, name, planDigest string) schema.Descriptor {
	if k.Digested() {
		return schema.Descriptor{Name: name, Digest: schema.DigestSet{k.Algorithm(): k.Hex()}}
	}
	return schema.Descriptor{Name: "plan", Digest: schema.DigestSet{schema.SHA256: planDigest}}
}

// Restore lays plan out in dir and checks every digest afterwards, read again
// from disk. dir is made if it is not there; one that holds anything but an
// unfinished or finished restoration of the same plan is refused with a
// *NotEmptyError.
//
// Each item is fetched under a temporary name and moved to its place when its
// digest was checked. What cannot be had, or is not what was recorded, does
// not stop the rest: the verdict is then INCOMPLETE and lists it. An error
// means that the folder itself could not be worked with, or that ctx was done;
// what was fetched until then stays and restoring again goes on from there.
func Restore(ctx context.Context, plan *Plan, dir string, src Sources, opt *RestoreOptions) (*Verdict, error) {
	if opt == nil {
		opt = &RestoreOptions{}
	}
	if src.Digest == nil {
		return nil, fmt.Errorf("restoring to %s: nothing was given to digest with", dir)
	}
	if err := plan.check(); err != nil {
		return nil, fmt.Errorf("restoring to %s: the plan is not one that retrace makes: %w", dir, err)
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, fmt.Errorf("restoring to %s: %w", dir, err)
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("restoring to %s: %w", dir, err)
	}
	root, err := os.OpenRoot(abs)
	if err != nil {
		return nil, fmt.Errorf("restoring to %s: %w", dir, err)
	}
	defer root.Close()
	r := &restoration{plan: plan, src: src, opt: *opt, dir: abs, root: root, expected: map[string]listing{}, trees: map[string]string{}, whole: map[string]bool{}, problems: map[*Item]string{}}
	v, err := r.run(ctx)
	if err != nil {
		return nil, fmt.Errorf("restoring to %s: %w", dir, err)
	}
	return v, nil
}

type restoration struct {
	plan   *Plan
	digest string
	src    Sources
	opt    RestoreOptions
	dir    string // absolute
	root   *os.Root

	cache    cache
	expected map[string]listing // by place of a step, of those assembled now
	trees    map[string]string  // by place of a step, as laid out
	whole    map[string]bool    // by place of a step: nothing was missing when it was laid out
	settled  bool               // all is laid out, or its problem is known
	problems map[*Item]string
	notes    []string // problems of places, not of items
	done     int
	total    int
	checked  int
	bytes    int64
}

func (r *restoration) run(ctx context.Context) (*Verdict, error) {
	var err error
	if r.digest, err = r.plan.Digest(); err != nil {
		return nil, err
	}
	if err := r.claim(); err != nil {
		return nil, err
	}
	r.count()
	for i := range r.plan.Steps {
		if err := r.step(ctx, &r.plan.Steps[i]); err != nil {
			return nil, err
		}
	}
	for _, it := range r.singles() {
		if err := r.single(ctx, it); err != nil {
			return nil, err
		}
		r.done++
	}
	r.settled = true
	if err := r.check(ctx); err != nil {
		return nil, err
	}
	return r.finish()
}

// claim makes the folder ours: it refuses one that holds something else, takes
// up what an earlier attempt left, and leaves a lock that says INCOMPLETE.
func (r *restoration) claim() error {
	names, err := readNames(r.root, ".")
	if err != nil {
		return err
	}
	lock, err := readLock(r.root)
	switch {
	case err == nil && lock.PlanDigest == r.digest && lock.NeededOnly == r.opt.NeededOnly:
		maps.Copy(r.trees, lock.Trees)
		for place := range lock.Trees {
			r.whole[place] = lock.State == Complete
		}
	case r.opt.Overwrite:
		if err := r.root.RemoveAll(partialFolder); err != nil {
			return err
		}
	case err == nil:
		return &NotEmptyError{Dir: r.dir, Plan: lock.PlanDigest, Holds: lockName}
	case len(names) > 0:
		return &NotEmptyError{Dir: r.dir, Holds: names[0]}
	}
	for _, name := range []string{partialFolder, partialFolder + "/items", partialFolder + "/roots", partialFolder + "/done", stepsFolder, imagesFolder, outsideFolder, resourceFolder} {
		if err := r.folder(name); err != nil {
			return err
		}
	}
	if err := r.root.RemoveAll(partialFolder + "/fetch"); err != nil {
		return err
	}
	if err := r.resume(); err != nil {
		return err
	}
	return r.lock(Incomplete).write(r.root)
}

// folder makes a folder of our own, or refuses what lies there instead. Those
// outside .partial are made when they are needed.
func (r *restoration) folder(name string) error {
	info, err := r.root.Lstat(name)
	switch {
	case err == nil && !info.IsDir():
		return fmt.Errorf("%s is in the way: it is not a folder", name)
	case errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(name, partialFolder):
		return r.root.Mkdir(name, 0o777)
	case errors.Is(err, fs.ErrNotExist):
		return nil
	}
	return err
}

// resume reads which steps an interrupted attempt laid out: files named like
// them, which hold the digest of the working root and "whole" where nothing of
// it was missing.
func (r *restoration) resume() error {
	names, err := readNames(r.root, partialFolder+"/done")
	if err != nil {
		return err
	}
	for _, name := range names {
		raw, err := r.root.ReadFile(partialFolder + "/done/" + name)
		if err != nil {
			return err
		}
		if words := strings.Fields(string(raw)); len(words) > 0 {
			r.trees[stepsFolder+"/"+name] = words[0]
			r.whole[stepsFolder+"/"+name] = slices.Contains(words, "whole")
		}
	}
	return nil
}

// wanted says whether an item of a step is laid out.
func (r *restoration) wanted(it *Item) bool {
	return !r.opt.NeededOnly || it.Producer == 0
}

// singles are the items that have a place of their own, beside the steps.
func (r *restoration) singles() []*Item {
	if r.opt.NeededOnly {
		return nil
	}
	var out []*Item
	for i := range r.plan.Images {
		out = append(out, &r.plan.Images[i])
	}
	if r.plan.Resource != nil {
		out = append(out, r.plan.Resource)
	}
	return out
}

// count sums up how much there is to do, and how often each thing is used.
func (r *restoration) count() {
	r.cache = cache{r: r, left: map[cacheID]int{}, listings: map[cacheID]listing{}, sound: map[cacheID]bool{}, failed: map[cacheID]string{}}
	all := r.singles()
	for i := range r.plan.Steps {
		for j := range r.plan.Steps[i].Items {
			if it := &r.plan.Steps[i].Items[j]; r.wanted(it) {
				all = append(all, it)
			}
		}
	}
	r.total = len(all)
	for _, it := range all {
		r.cache.left[idOf(it)]++
	}
}

func (r *restoration) progress(doing string, place string) {
	if r.opt.Progress != nil {
		r.opt.Progress(Progress{Doing: doing, Place: place, Done: r.done, Total: r.total, Bytes: r.bytes})
	}
}

// fail notes why an item is not there. The first reason stands.
func (r *restoration) fail(it *Item, format string, args ...any) {
	if _, ok := r.problems[it]; !ok {
		r.problems[it] = fmt.Sprintf(format, args...)
	}
}

// single lays out an item that has a place of its own.
func (r *restoration) single(ctx context.Context, it *Item) error {
	r.progress("fetching", it.Place)
	if it.Place == "" || it.Missing != "" {
		r.cache.skip(it)
		r.fail(it, "%s", it.Missing)
		return nil
	}
	there, err := exists(r.root, it.Place)
	if err != nil {
		return err
	}
	if there && !r.opt.Overwrite {
		r.cache.skip(it)
		return nil // laid out before; checked at the end
	}
	from, err := r.cache.take(ctx, it)
	if err != nil || from == "" {
		return err
	}
	return r.settle(from, it.Place)
}

// settle moves what lies at from, in .partial, to its place.
func (r *restoration) settle(from, place string) error {
	if err := makeParents(r.root, place); err != nil {
		return err
	}
	if err := r.root.RemoveAll(place); err != nil {
		return err
	}
	return r.root.Rename(from, place)
}

// finish writes the last lock and clears up.
func (r *restoration) finish() (*Verdict, error) {
	v := &Verdict{
		Ref: r.plan.Ref, Key: r.plan.Key, Name: r.plan.Name, Result: Complete, PlanDigest: r.digest, Size: r.plan.Size,
		Checked: r.checked, Bytes: r.bytes, NeededOnly: r.opt.NeededOnly,
	}
	for _, it := range r.plan.items() {
		why, bad := r.problems[it]
		if !bad || it == r.plan.Resource && it.Producer > 0 && it.Missing != "" {
			continue
		}
		v.Problems = append(v.Problems, fmt.Sprintf("%s (%s): %s", firstOf(it.Place, it.Name, it.URI, "unnamed"), it.Key.Short(), why))
	}
	v.Problems = append(v.Problems, r.notes...)
	if len(v.Problems) > 0 {
		v.Result = Incomplete
	}
	if err := r.lock(v.Result).write(r.root); err != nil {
		return nil, err
	}
	if v.Result == Complete {
		if err := r.root.RemoveAll(partialFolder); err != nil {
			return nil, err
		}
	}
	r.progress("done", "")
	return v, nil
}

// lock is what is known now.
func (r *restoration) lock(state string) *Lock {
	l := &Lock{Version: PlanVersion, State: state, PlanDigest: r.digest, NeededOnly: r.opt.NeededOnly, Trees: r.trees, Plan: r.plan}
	for _, it := range r.plan.items() {
		if r.opt.NeededOnly && (it.Producer > 0 || it.Kind == kindOCI || it == r.plan.Resource) {
			continue
		}
		problem := r.problems[it]
		if !r.settled && problem == "" {
			problem = "not laid out yet"
		}
		l.Items = append(l.Items, LockItem{Place: it.Place, Key: it.Key, Problem: problem})
	}
	return l
}

// check reads everything again from disk and compares it with what was
// recorded.
func (r *restoration) check(ctx context.Context) error {
	for i := range r.plan.Steps {
		if err := r.checkStep(ctx, &r.plan.Steps[i]); err != nil {
			return err
		}
	}
	for _, it := range r.plan.items() {
		inRoot := it.Place == "" || strings.HasPrefix(it.Place, stepsFolder+"/")
		if _, bad := r.problems[it]; inRoot || bad {
			continue
		}
		there, err := exists(r.root, it.Place)
		if err != nil {
			return err
		}
		if !there {
			continue // was not asked for
		}
		r.progress("checking", it.Place)
		got, _, size, err := r.digestOf(ctx, it, it.Place)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		switch {
		case err != nil:
			r.fail(it, "%v", err)
		case got != it.Key:
			r.fail(it, "what lies there has the digest %s", got)
		default:
			r.checked++
			r.bytes += size
		}
	}
	return nil
}

// checkStep compares a step's working root with what was laid out there, and
// each input in it with its recorded digest.
func (r *restoration) checkStep(ctx context.Context, s *Step) error {
	there, err := exists(r.root, s.Place)
	if err != nil {
		return err
	}
	if !there {
		if len(s.Items) > 0 {
			r.notes = append(r.notes, s.Place+": is not there")
		}
		return nil
	}
	r.progress("checking", s.Place)
	got, err := r.list(ctx, s.Place)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r.notes = append(r.notes, err.Error())
		return nil
	}
	tree, err := got.digest()
	if err != nil {
		return err
	}
	if tree != r.trees[s.Place] {
		why := "was changed since it was laid out"
		if want, ok := r.expected[s.Place]; ok {
			why += ": " + strings.Join(differences(want, got), ", ")
		}
		r.notes = append(r.notes, s.Place+": "+why)
	}
	for i := range s.Items {
		it := &s.Items[i]
		if _, bad := r.problems[it]; bad || !r.wanted(it) || !strings.HasPrefix(it.Place, stepsFolder+"/") {
			continue
		}
		if err := r.checkLaid(ctx, s, it, got); err != nil {
			return err
		}
	}
	r.bytes += got.bytes()
	return nil
}

// checkLaid checks one item in a step's working root. The commit, the changes
// and an input that is the root itself lie under what was put over them: what
// they are was checked when they were fetched, and the root as a whole was
// compared with what came of it.
func (r *restoration) checkLaid(ctx context.Context, s *Step, it *Item, got listing) error {
	key, err := it.Key, error(nil)
	own := it.Kind == kindFile || it.Kind == kindFolder
	covered := slices.ContainsFunc(s.Items, func(o Item) bool {
		return o.Place == it.Place && o.Key != it.Key || strings.HasPrefix(o.Place, it.Place+"/")
	})
	switch {
	case !own && !covered:
		key, _, _, err = r.digestOf(ctx, it, it.Place)
	case own && it.Place != s.Place:
		key, err = got.key(strings.TrimPrefix(it.Place, s.Place+"/"))
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		r.fail(it, "%v", err)
	case key == "":
		r.fail(it, "is not there")
	case key != it.Key:
		r.fail(it, "what lies there has the digest %s", key)
	default:
		r.checked++
	}
	return nil
}

// list lists a working root, without its .git.
func (r *restoration) list(ctx context.Context, place string) (listing, error) {
	at := r.at(place)
	_, files, err := r.src.Digest(ctx, at, filepath.Join(at, ".git"))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", place, err)
	}
	return listingOf(files), nil
}

// at is the absolute path of a place.
func (r *restoration) at(place string) string {
	return filepath.Join(r.dir, filepath.FromSlash(path.Clean(place)))
}
