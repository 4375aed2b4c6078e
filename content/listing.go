package content

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/retrace-ledger/retrace/schema"
)

// member is one line of the object that stands for a folder. In a page, its
// path is a name without slashes.
type member struct {
	schema.SnapshotFile
	Object string `json:"object,omitempty"` // handle of a file's bytes, or of a folder's page
}

// page is the object that stands for a folder: what is directly in it. So a
// folder of which one file changed shares all pages with the one before but
// those from that file up to the top. Stores of before pages have one list of
// all members instead.
type page struct {
	Version int      `json:"v"`
	Members []member `json:"members"`
}

// Limits of what is read as a folder.
const (
	maxMembers = 20_000_000
	maxDepth   = 2048
)

// maxPages is how many pages a store remembers.
const maxPages = 1 << 18

// remember notes the pages that a session wrote, once they are durable.
func (s *Store) remember(w *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pages)+len(w.pages) > maxPages {
		s.pages = map[[sha256.Size]byte]string{}
	}
	maps.Copy(s.pages, w.pages)
}

// list writes the pages of a folder.
func (s *Store) list(ctx context.Context, w *session, files []schema.SnapshotFile, added map[schema.Key]record) (record, error) {
	folder := record{kind: kindFolder}
	in := map[string][]member{} // by the folder that they are in
	for _, f := range files {
		m := member{SnapshotFile: f}
		m.Path = path.Base(f.Path)
		if f.Type == typeFile {
			key := schema.Key(schema.SHA256 + ":" + f.SHA256)
			r, ok := added[key]
			if !ok {
				r, ok = s.keys.peek(key)
			}
			if !ok {
				return folder, fmt.Errorf("%s of %s %w, though it was a moment ago", key, f.Path, ErrNotKept)
			}
			m.Object = r.handle
			folder.size += f.Size
		}
		dir := path.Dir(f.Path)
		in[dir] = append(in[dir], m)
	}
	// Files are in order of their paths, so that a folder stands before what is
	// in it: backwards, its page is written when all in it are.
	for _, f := range slices.Backward(files) {
		if f.Type != typeFolder {
			continue
		}
		handle, err := s.writePage(ctx, w, in[f.Path])
		if err != nil {
			return folder, err
		}
		above := in[path.Dir(f.Path)]
		i, _ := slices.BinarySearchFunc(above, path.Base(f.Path), func(m member, name string) int { return strings.Compare(m.Path, name) })
		above[i].Object = handle
	}
	var err error
	folder.handle, err = s.writePage(ctx, w, in["."])
	return folder, err
}

// writePage writes one page, unless this store wrote the same before and nothing
// was collected since: asking kopia for each of many pages whether it has it
// takes longer the more sessions wrote its index.
func (s *Store) writePage(ctx context.Context, w *session, members []member) (string, error) {
	raw, err := json.Marshal(page{Version: 1, Members: members})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(raw)
	s.mu.Lock()
	handle, ok := s.pages[sum]
	s.mu.Unlock()
	if ok {
		return handle, nil
	}
	if handle, ok := w.pages[sum]; ok {
		return handle, nil
	}
	handle, err = w.write(ctx, pages, 0, func(dst io.Writer) error {
		_, err := dst.Write(raw)
		return err
	})
	if err == nil {
		w.pages[sum] = handle
	}
	return handle, err
}

// members reads the listing of a folder and checks it against the folder's key.
func (r *repository) members(ctx context.Context, key schema.Key, handle string) ([]member, error) {
	members, err := r.listing(ctx, handle)
	if err != nil {
		return nil, damage(ctx, key, err)
	}
	for i := range members {
		if members[i].Type == typeFolder {
			members[i].Object = ""
		}
	}
	if err := checkMembers(key, members); err != nil {
		return nil, &DamageError{Key: key, Reason: err.Error()}
	}
	return members, nil
}

// listing reads all members of a folder, in bytewise order of their paths. Of
// those that are folders, it says which object is their page.
func (r *repository) listing(ctx context.Context, handle string) ([]member, error) {
	p, err := r.page(ctx, handle)
	if err != nil {
		return nil, err
	}
	if p.Version == 0 {
		return p.Members, nil
	}
	var all []member
	if err := r.below(ctx, "", p, &all, 0); err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b member) int { return strings.Compare(a.Path, b.Path) })
	return all, nil
}

func (r *repository) below(ctx context.Context, dir string, p page, all *[]member, depth int) error {
	if depth > maxDepth || len(*all)+len(p.Members) > maxMembers {
		return errors.New("its listing is deeper or longer than any that is written")
	}
	for _, m := range p.Members {
		name := m.Path
		m.Path = path.Join(dir, name)
		*all = append(*all, m)
		if m.Type != typeFolder {
			continue
		}
		if name == "" || name == "." || name == ".." || strings.Contains(name, "/") {
			return fmt.Errorf("its listing has a folder with the name %q", name)
		}
		next, err := r.page(ctx, m.Object)
		if err != nil {
			return err
		}
		if next.Version == 0 {
			return errors.New("its listing leads to one of another form")
		}
		if err := r.below(ctx, m.Path, next, all, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// page reads one page, or the list of all members that older stores have, as a
// page of version 0.
func (r *repository) page(ctx context.Context, handle string) (page, error) {
	rd, err := r.open(ctx, handle)
	if err != nil {
		return page{}, err
	}
	defer rd.Close()
	raw, err := io.ReadAll(&contextReader{ctx, rd})
	if err != nil {
		return page{}, err
	}
	var p page
	if len(raw) > 0 && raw[0] == '[' {
		err := json.Unmarshal(raw, &p.Members)
		return p, err
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return p, err
	}
	if p.Version != 1 {
		return p, fmt.Errorf("its listing has version %d, which this program does not know", p.Version)
	}
	return p, nil
}
