package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/retrace-ledger/retrace/schema"
)

// cacheID tells what is fetched apart.
type cacheID struct {
	kind string
	key  schema.Key
}

func idOf(it *Item) cacheID { return cacheID{it.Kind, it.Key} }

// cache is .partial/items: what was fetched and checked, and is not yet in its
// place. A thing that many steps used is fetched once.
type cache struct {
	r        *restoration
	left     map[cacheID]int // uses to come
	listings map[cacheID]listing
	sound    map[cacheID]bool   // lies in the cache and was checked by this process
	failed   map[cacheID]string // why a thing cannot be had
}

// skip counts a use that needs nothing.
func (c *cache) skip(it *Item) { c.left[idOf(it)]-- }

func (id cacheID) name() string {
	return partialFolder + "/items/" + slug(id.kind) + "-" + slug(id.key.Algorithm()) + "-" + id.key.Hex()
}

// get makes sure that the item lies in the cache, checked. The empty name says
// that it cannot be had, and that this was noted.
func (c *cache) get(ctx context.Context, it *Item) (string, error) {
	id := idOf(it)
	if why, ok := c.failed[id]; ok {
		c.r.fail(it, "%s", why)
		return "", nil
	}
	name := id.name()
	there, err := exists(c.r.root, name)
	if err != nil {
		return "", err
	}
	if there && c.sound[id] {
		return name, nil
	}
	if there {
		// An attempt before fetched it. It was checked then, but the machine may
		// have gone down since.
		got, holds, _, err := c.r.digestOf(ctx, it, name)
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		if err == nil && got == it.Key {
			c.remember(id, holds)
			return name, nil
		}
		if err := c.r.root.RemoveAll(name); err != nil {
			return "", err
		}
	}
	tmp := partialFolder + "/fetch"
	if err := c.r.root.RemoveAll(tmp); err != nil {
		return "", err
	}
	if err := c.r.fetch(ctx, it, tmp); err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		c.failed[id] = err.Error()
		c.r.fail(it, "%v", err)
		return "", c.r.root.RemoveAll(tmp)
	}
	return name, c.r.root.Rename(tmp, name)
}

// remember notes that an item in the cache is what it should be, and what it
// holds.
func (c *cache) remember(id cacheID, holds listing) {
	c.sound[id] = true
	if holds != nil {
		c.listings[id] = holds
	}
}

// take is get for one use: what comes back is the caller's to move away. It is
// no longer in the cache, so that an interruption leaves nothing there that is
// not whole.
func (c *cache) take(ctx context.Context, it *Item) (string, error) {
	id := idOf(it)
	c.left[id]--
	name, err := c.get(ctx, it)
	if err != nil || name == "" {
		return "", err
	}
	tmp := partialFolder + "/fetch"
	if err := c.r.root.RemoveAll(tmp); err != nil {
		return "", err
	}
	if c.left[id] <= 0 {
		delete(c.sound, id)
		return tmp, c.r.root.Rename(name, tmp)
	}
	return tmp, copyTree(ctx, c.r.root, name, c.r.root, tmp, nil)
}

// listing is what a cached thing holds; it lies at the given place now.
func (c *cache) listing(ctx context.Context, it *Item, at string) (listing, error) {
	id := idOf(it)
	l, ok := c.listings[id]
	var err error
	switch {
	case ok:
	case c.r.src.Fetchers[it.Kind] != nil:
		l, err = c.r.list(ctx, at)
	default:
		_, l, _, err = c.r.digestOf(ctx, it, at)
	}
	if err == nil && c.left[id] > 0 {
		c.listings[id] = l
	}
	return l, err
}

// fetch brings the item to name, which does not exist, and checks it.
func (r *restoration) fetch(ctx context.Context, it *Item, name string) error {
	if fetcher := r.src.Fetchers[it.Kind]; fetcher != nil {
		if it.Origin != OriginStore && r.src.MayFetch != nil {
			if err := r.src.MayFetch(it.resource()); err != nil {
				return err
			}
		}
		if err := r.root.Mkdir(name, 0o777); err != nil {
			return err
		}
		if err := fetcher.Fetch(ctx, it.resource(), r.at(name)); err != nil {
			return err
		}
	} else {
		if r.src.Content == nil || it.Kind != kindFile && it.Kind != kindFolder {
			return fmt.Errorf("nothing here fetches resources of the kind %q", it.Kind)
		}
		if err := r.src.Content.Fetch(ctx, it.Key, r.at(name)); err != nil {
			return err
		}
	}
	got, holds, _, err := r.digestOf(ctx, it, name)
	if err != nil {
		return err
	}
	if got != it.Key {
		return fmt.Errorf("what was fetched has the digest %s", got)
	}
	r.cache.remember(idOf(it), holds)
	return nil
}

// digestOf is the key of what lies at name, what it holds unless a Fetcher
// brought it, and its size where that is known.
func (r *restoration) digestOf(ctx context.Context, it *Item, name string) (schema.Key, listing, int64, error) {
	if fetcher := r.src.Fetchers[it.Kind]; fetcher != nil {
		key, err := fetcher.Digest(ctx, r.at(name))
		return key, nil, max(it.Bytes, 0), err
	}
	info, err := r.root.Lstat(name)
	if err != nil {
		return "", nil, 0, err
	}
	if !info.Mode().IsRegular() && !info.IsDir() {
		return "", nil, 0, fmt.Errorf("%s is neither a file nor a folder", name)
	}
	key, files, err := r.src.Digest(ctx, r.at(name))
	l := listingOf(files)
	return key, l, l.bytes(), err
}

// step lays out one working root in .partial/roots and moves it to its place.
func (r *restoration) step(ctx context.Context, s *Step) error {
	label := path.Base(s.Place)
	keep, err := r.keeps(ctx, s)
	if err != nil {
		return err
	}
	root := partialFolder + "/roots/" + label
	if err := r.root.RemoveAll(root); err != nil {
		return err
	}
	l := listing{}
	for _, it := range layers(s) { // a missing one does not stop the others
		if !r.wanted(it) {
			continue
		}
		r.progress("fetching", it.Place)
		switch {
		case it.Place == "" || it.Missing != "":
			r.cache.skip(it)
			r.fail(it, "%s", it.Missing)
		case strings.HasPrefix(it.Place, outsideFolder+"/"):
			err = r.single(ctx, it)
		case keep:
			r.cache.skip(it)
		default:
			err = r.lay(ctx, s, it, root, l)
		}
		if err != nil {
			return err
		}
		r.done++
	}
	if keep {
		return nil
	}
	return r.settleStep(s, root, l)
}

// keeps says whether the step's working root was laid out before and can stay.
// One that was changed since is somebody's work: it is never replaced unless
// told.
func (r *restoration) keeps(ctx context.Context, s *Step) (bool, error) {
	there, err := exists(r.root, s.Place)
	if err != nil || !there || r.opt.Overwrite {
		return false, err
	}
	want, laid := r.trees[s.Place]
	if !laid {
		return false, nil // moved there just before an interruption
	}
	got, err := r.list(ctx, s.Place)
	if err != nil {
		return ctx.Err() == nil, ctx.Err() // checkStep will say what is wrong
	}
	tree, err := got.digest()
	return tree != want || r.whole[s.Place], err
}

// settleStep moves an assembled working root to its place and remembers what
// it holds.
func (r *restoration) settleStep(s *Step, root string, l listing) error {
	tree, err := l.digest()
	if err != nil {
		return err
	}
	if there, err := exists(r.root, root); err != nil {
		return err
	} else if !there {
		if err := r.root.Mkdir(root, 0o777); err != nil {
			return err
		}
	}
	if err := r.settle(root, s.Place); err != nil {
		return err
	}
	r.expected[s.Place], r.trees[s.Place] = l, tree
	whole := " whole"
	for i := range s.Items {
		if _, bad := r.problems[&s.Items[i]]; bad {
			whole = ""
		}
	}
	return writeFile(r.root, partialFolder+"/done/"+path.Base(s.Place), []byte(tree+whole+"\n"))
}

// layers are the items of a step in the order in which they go over each
// other: the commit, the changes on top of it, the inputs, folders before what
// lies in them.
func layers(s *Step) []*Item {
	rank := func(it *Item) int {
		switch {
		case it.Kind == kindGit && it.Place == s.Place:
			return 0
		case it.Role == schema.RoleChanges:
			return 1
		}
		return 2
	}
	var out []*Item
	for i := range s.Items {
		out = append(out, &s.Items[i])
	}
	slices.SortStableFunc(out, func(a, b *Item) int {
		if ra, rb := rank(a), rank(b); ra != rb {
			return ra - rb
		}
		return strings.Compare(a.Place, b.Place)
	})
	return out
}

// lay puts one item into a working root that is being assembled, and notes in
// l what is there afterwards. What is wrong with the item is noted; the error
// is for all else.
func (r *restoration) lay(ctx context.Context, s *Step, it *Item, root string, l listing) error {
	from, err := r.cache.take(ctx, it)
	if err != nil || from == "" {
		return err
	}
	p, err := recordedPath(s, it)
	if err != nil {
		return err
	}
	if p == "." && it.Kind == kindGit {
		if there, err := exists(r.root, root); err != nil || there {
			return errors.Join(err, r.root.RemoveAll(from))
		}
		if err := r.root.Rename(from, root); err != nil {
			return err
		}
		files, err := r.cache.listing(ctx, it, root)
		if err == nil {
			l.addBelow(".", files)
		}
		return err
	}
	if err := r.root.MkdirAll(root, 0o777); err != nil {
		return err
	}
	below, err := r.root.OpenRoot(root)
	if err != nil {
		return err
	}
	defer below.Close()
	w := &layer{r: r, root: below, place: root, listing: l}
	switch {
	case it.Role == schema.RoleChanges && it.Kind == kindFolder:
		err = w.changes(ctx, it, from)
	default:
		err = w.input(ctx, it, from, p)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		r.fail(it, "%v", err)
	}
	return r.root.RemoveAll(from)
}

// layer puts things over a working root.
type layer struct {
	r       *restoration
	root    *os.Root // the working root
	place   string   // where that is
	listing listing
}

// changes lays uncommitted changes over the commit: what files/ holds replaces
// what is there, what deleted.json lists is removed (see package ingest/run).
func (w *layer) changes(ctx context.Context, it *Item, from string) error {
	files, err := w.r.cache.listing(ctx, it, from)
	if err != nil {
		return err
	}
	raw, err := w.r.root.ReadFile(from + "/deleted.json")
	if err != nil {
		return err
	}
	var deleted []string
	if err := json.Unmarshal(raw, &deleted); err != nil {
		return fmt.Errorf("reading deleted.json: %w", err)
	}
	for _, p := range deleted {
		if err := checkRecordedPath(p); err != nil {
			return fmt.Errorf("deleted.json: %w", err)
		}
		if err := w.clear(p); err != nil {
			return err
		}
	}
	changed := files.below("files")
	for p, f := range changed {
		if f.Type == typeFolder {
			continue
		}
		if err := checkRecordedPath(p); err != nil {
			return err
		}
		if err := w.put(from+"/files/"+p, p, f); err != nil {
			return err
		}
	}
	return nil
}

// clear removes what is at p, if its parents are folders.
func (w *layer) clear(p string) error {
	if _, ok := w.listing[p]; !ok {
		return nil
	}
	if err := w.root.RemoveAll(p); err != nil {
		return err
	}
	w.listing.remove(p)
	// Git knows no empty folders: one that is emptied was not there.
	for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
		if len(w.listing.below(dir)) > 0 {
			break
		}
		if err := w.root.Remove(dir); err != nil {
			return err
		}
		w.listing.remove(dir)
	}
	return nil
}

// put moves one file or link to p.
func (w *layer) put(from, p string, f schema.SnapshotFile) error {
	if err := makeParents(w.root, p); err != nil {
		return err
	}
	if err := w.root.RemoveAll(p); err != nil {
		return err
	}
	if err := w.r.root.Rename(from, w.place+"/"+p); err != nil {
		return err
	}
	w.listing.remove(p)
	w.listing.add(p, f)
	return nil
}

// input lays an input at its recorded path. A file that the commit has there
// already stays as it is.
func (w *layer) input(ctx context.Context, it *Item, from, p string) error {
	if p == "." {
		return w.whole(ctx, it, from)
	}
	have, there := w.listing[p]
	if it.Kind == kindFile {
		if there && have.Type == typeFile && it.Key == schema.Key(schema.SHA256+":"+have.SHA256) && (have.Exec || !it.Exec) {
			return nil
		}
		exec := it.Exec || there && have.Type == typeFile && have.Exec
		f := schema.SnapshotFile{Type: typeFile, SHA256: it.Key.Hex(), Exec: exec}
		info, err := w.r.root.Lstat(from)
		if err != nil {
			return err
		}
		f.Size = info.Size()
		if err := w.r.root.Chmod(from, mode(info.Mode(), exec)); err != nil {
			return err
		}
		return w.put(from, p, f)
	}
	files, err := w.r.cache.listing(ctx, it, from)
	if err != nil {
		return err
	}
	if err := w.put(from, p, schema.SnapshotFile{Type: typeFolder}); err != nil {
		return err
	}
	w.listing.addBelow(p, files)
	return nil
}

// mode is m with its owner's right to execute as exec says, and that of others
// as they may read.
func mode(m fs.FileMode, exec bool) fs.FileMode {
	m = m.Perm() &^ 0o111
	if exec {
		m |= (m & 0o444) >> 2
	}
	return m
}

// whole lays an input out that is the working root itself: everything there
// but the repository is replaced.
func (w *layer) whole(ctx context.Context, it *Item, from string) error {
	files, err := w.r.cache.listing(ctx, it, from)
	if err != nil {
		return err
	}
	names, err := readNames(w.root, ".")
	if err != nil {
		return err
	}
	for _, name := range names {
		if isDotGit(name) {
			continue
		}
		if err := w.root.RemoveAll(name); err != nil {
			return err
		}
		w.listing.remove(name)
	}
	if names, err = readNames(w.r.root, from); err != nil {
		return err
	}
	for _, name := range names {
		if isDotGit(name) {
			continue
		}
		if err := w.r.root.Rename(from+"/"+name, w.place+"/"+name); err != nil {
			return err
		}
	}
	for p, f := range files {
		if first, _, _ := strings.Cut(p, "/"); !isDotGit(first) {
			w.listing.add(p, f)
		}
	}
	return nil
}
