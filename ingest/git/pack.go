package git

import (
	"bufio"
	"compress/zlib"
	"context"
	"crypto/sha1" // Git's object format, gitformat-pack(5)
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	gogit "github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/storage/filesystem"
)

// maxPackObjects is how many objects the header of a pack can count.
const maxPackObjects = 1<<32 - 1

// Pack writes the commit, its trees and its blobs as one Git pack, without
// history: all that it takes to lay the commit out again. dir is anywhere in a
// worktree or a bare repository. The same commit gives the same bytes: objects
// are whole, stored and not compressed, in the order in which the tree lists
// them. Submodules are not in it.
func Pack(ctx context.Context, dir, commit string, w io.Writer) error {
	h, err := parseCommit(commit)
	if err != nil {
		return err
	}
	root, err := findRoot(dir)
	if err != nil {
		return err
	}
	repo, err := openLocal(root)
	if err != nil {
		return err
	}
	return errors.Join(repo.pack(ctx, h, w), repo.close())
}

// parseCommit takes the full ID of a commit.
func parseCommit(commit string) (plumbing.Hash, error) {
	if len(commit) == 64 {
		return plumbing.ZeroHash, errSHA256
	}
	if !plumbing.IsHash(commit) {
		return plumbing.ZeroHash, fmt.Errorf("%.100q is not the ID of a commit: want 40 hex digits", commit)
	}
	return plumbing.NewHash(commit), nil
}

// packed is one object to pack.
type packed struct {
	hash plumbing.Hash
	kind plumbing.ObjectType
}

func (r *repository) pack(ctx context.Context, commit plumbing.Hash, w io.Writer) error {
	objects, err := r.contents(ctx, commit)
	if err != nil {
		return err
	}
	if len(objects) > maxPackObjects {
		return fmt.Errorf("packing commit %s: %d objects; a pack holds %d", commit, len(objects), uint32(maxPackObjects))
	}
	buffered := bufio.NewWriterSize(w, 256<<10)
	sum := sha1.New()
	out := io.MultiWriter(buffered, sum)
	// gitformat-pack(5): signature, version 2, count, then the objects.
	head := binary.BigEndian.AppendUint32([]byte("PACK"), 2)
	head = binary.BigEndian.AppendUint32(head, uint32(len(objects)))
	if _, err := out.Write(head); err != nil {
		return fmt.Errorf("packing commit %s: %w", commit, err)
	}
	deflate, err := zlib.NewWriterLevel(out, zlib.NoCompression)
	if err != nil {
		return err
	}
	for _, o := range objects {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := r.packObject(o, out, deflate); err != nil {
			return fmt.Errorf("packing commit %s: %s %s: %w", commit, o.kind, o.hash, err)
		}
	}
	if _, err := buffered.Write(sum.Sum(nil)); err != nil {
		return fmt.Errorf("packing commit %s: %w", commit, err)
	}
	return buffered.Flush()
}

// contents lists the commit, its trees and its blobs, each once.
func (r *repository) contents(ctx context.Context, commit plumbing.Hash) ([]packed, error) {
	c, err := object.GetCommit(r, commit)
	if err != nil {
		return nil, fmt.Errorf("reading commit %s: %w", commit, err)
	}
	objects := []packed{{commit, plumbing.CommitObject}}
	seen := map[plumbing.Hash]bool{}
	var add func(tree plumbing.Hash) error
	add = func(tree plumbing.Hash) error {
		if seen[tree] {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		seen[tree] = true
		objects = append(objects, packed{tree, plumbing.TreeObject})
		t, err := object.GetTree(r, tree)
		if err != nil {
			return fmt.Errorf("reading tree %s: %w", tree, err)
		}
		for _, e := range t.Entries {
			switch {
			case e.Mode == filemode.Submodule:
			case e.Mode == filemode.Dir:
				if err := add(e.Hash); err != nil {
					return err
				}
			case !seen[e.Hash]:
				seen[e.Hash] = true
				objects = append(objects, packed{e.Hash, plumbing.BlobObject})
			}
		}
		return nil
	}
	return objects, add(c.TreeHash)
}

// packTypes are the object types of gitformat-pack(5).
var packTypes = map[plumbing.ObjectType]byte{plumbing.CommitObject: 1, plumbing.TreeObject: 2, plumbing.BlobObject: 3}

// packObject writes one object to w, its content through deflate.
func (r *repository) packObject(p packed, w io.Writer, deflate *zlib.Writer) error {
	o, err := r.EncodedObject(p.kind, p.hash)
	if err != nil {
		return err
	}
	rd, err := o.Reader()
	if err != nil {
		return err
	}
	defer rd.Close()
	// Type in three bits; size in four, then seven at a time, lowest first.
	size := uint64(o.Size())
	head := []byte{packTypes[p.kind]<<4 | byte(size&15)}
	for size >>= 4; size > 0; size >>= 7 {
		head[len(head)-1] |= 0x80
		head = append(head, byte(size&0x7f))
	}
	if _, err := w.Write(head); err != nil {
		return err
	}
	deflate.Reset(w)
	n, err := io.Copy(deflate, rd)
	if err != nil {
		return err
	}
	if n != o.Size() {
		return fmt.Errorf("has %d bytes, its header says %d", n, o.Size())
	}
	return deflate.Close()
}

// Unpack lays out in dir, an existing empty folder, the commit that Pack wrote
// to r, and returns its ID. Every object is hashed on the way.
func Unpack(ctx context.Context, r io.Reader, dir string) (string, error) {
	layout, err := layOut(ctx, dir, plumbing.ZeroHash, func(w io.Writer) error {
		_, err := io.Copy(w, &contextReader{ctx, r})
		return err
	})
	if err != nil {
		return "", err
	}
	return layout.Commit, nil
}

// contextReader ends with the context's error when that is done.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r *contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// layOut makes a repository in dir of the pack that write writes, and checks
// its one commit out. That is want, unless want is zero.
func layOut(ctx context.Context, dir string, want plumbing.Hash, write func(io.Writer) error) (*Layout, error) {
	r, err := gogit.PlainInit(dir, false)
	if err != nil {
		return nil, fmt.Errorf("making a repository in %s: %w", dir, err)
	}
	s, ok := r.Storer.(*filesystem.Storage)
	if !ok {
		return nil, fmt.Errorf("making a repository in %s: it is kept in a %T", dir, r.Storer)
	}
	defer s.Close()
	if err := receive(s, write); err != nil {
		return nil, fmt.Errorf("writing the objects of %s: %w", dir, err)
	}
	c, err := onlyCommit(s)
	if err != nil {
		return nil, fmt.Errorf("looking for the commit in %s: %w", dir, err)
	}
	if want != plumbing.ZeroHash && c.Hash != want {
		return nil, fmt.Errorf("looking for commit %s in %s: found %s", want, dir, c.Hash)
	}
	if len(c.ParentHashes) > 0 {
		if err := s.SetShallow([]plumbing.Hash{c.Hash}); err != nil {
			return nil, fmt.Errorf("marking the history of %s as cut off: %w", dir, err)
		}
	}
	layout, err := checkOut(ctx, s, c, dir)
	if err != nil {
		return nil, fmt.Errorf("checking out commit %s in %s: %w", c.Hash, dir, err)
	}
	// HEAD comes last: until then, the folder does not pass for laid out.
	if err := s.SetReference(plumbing.NewHashReference(plumbing.HEAD, c.Hash)); err != nil {
		return nil, fmt.Errorf("pointing HEAD of %s at %s: %w", dir, c.Hash, err)
	}
	return layout, nil
}

// receive stores a pack, whose objects are hashed as they come.
func receive(s *filesystem.Storage, write func(io.Writer) error) error {
	w, err := s.PackfileWriter()
	if err != nil {
		return err
	}
	return errors.Join(write(w), w.Close())
}

// onlyCommit is the commit of a repository that has one.
func onlyCommit(s *filesystem.Storage) (*object.Commit, error) {
	it, err := s.IterEncodedObjects(plumbing.CommitObject)
	if err != nil {
		return nil, err
	}
	var found *object.Commit
	err = it.ForEach(func(o plumbing.EncodedObject) error {
		if found != nil {
			return fmt.Errorf("there are several: %s and %s", found.Hash, o.Hash())
		}
		found, err = object.DecodeCommit(s, o)
		return err
	})
	if err == nil && found == nil {
		err = errors.New("there is none")
	}
	return found, err
}
