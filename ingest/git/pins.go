package git

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/retrace-ledger/retrace/schema"
)

// Limits of what is looked into for pins.
const (
	maxPinFile  = 1 << 20 // bytes of a file that pins
	maxPointer  = 1 << 10 // bytes; Git LFS pointers are shorter
	maxTreeMemo = 1 << 16 // trees whose pins are remembered
	maxPinBytes = 2 << 20 // bytes, about, of all that is stated of one commit's pins
	maxTrees    = 512     // how deep trees may be nested
)

// pin is one thing that a tree pins.
type pin struct {
	schema.Descriptor
	// file is what the file at this place pins, where it is a file that does.
	file *pinFile
}

// pinFile is what a file pins.
type pinFile struct {
	schema.Pins
	path string
}

// statement says what the file pins. It is a function of the file and its
// path, so that it is recorded once, however many commits have it.
func (f *pinFile) statement(repository, blob string) (schema.Statement, error) {
	return schema.NewStatement(schema.PinsV1, f.Pins,
		schema.Descriptor{Name: f.path, URI: repository, Digest: schema.DigestSet{schema.GitBlob: blob}})
}

// pinReader finds what the trees of a repository pin. It remembers trees, so
// that reading a history costs what its changes cost.
type pinReader struct {
	repo  *repository
	trees map[plumbing.Hash][]pin
}

func newPinReader(repo *repository) *pinReader {
	return &pinReader{repo: repo, trees: map[plumbing.Hash][]pin{}}
}

// pins are what the commit's tree pins, by path, at most schema.MaxPins and
// maxPinBytes, and how many more there are.
func (p *pinReader) pins(c *object.Commit) ([]pin, int, error) {
	all, err := p.tree(c.TreeHash, 0)
	if err != nil {
		return nil, 0, fmt.Errorf("looking for what commit %s pins: %w", c.Hash, err)
	}
	all = slices.Clone(all)
	if err := p.submodules(c, all); err != nil {
		return nil, 0, fmt.Errorf("looking for what commit %s pins: %w", c.Hash, err)
	}
	room := maxPinBytes
	for i, x := range all {
		if room -= x.size(); room < 0 || i == schema.MaxPins {
			return all[:i], len(all) - i, nil
		}
	}
	return all, 0, nil
}

// size is about how many bytes a statement takes to say it.
func (p pin) size() int {
	const digests = 256
	n := len(p.Name) + len(p.URI) + digests
	if p.file != nil {
		for _, d := range p.file.Pins.Pins {
			n += len(d.Name) + len(d.URI) + digests
		}
	}
	return n
}

// tree are the pins below a tree, with paths relative to it. What is not here,
// in a partial clone, pins nothing.
func (p *pinReader) tree(h plumbing.Hash, depth int) ([]pin, error) {
	if pins, ok := p.trees[h]; ok {
		return pins, nil
	}
	if depth > maxTrees || !p.repo.has(h) {
		return nil, nil
	}
	t, err := readTree(p.repo, h)
	if err != nil {
		return nil, err
	}
	var pins []pin
	for _, e := range t.Entries {
		found, err := p.entry(e, depth)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.Name, err)
		}
		pins = append(pins, found...)
	}
	if len(p.trees) >= maxTreeMemo {
		clear(p.trees)
	}
	p.trees[h] = pins
	return pins, nil
}

func (p *pinReader) entry(e object.TreeEntry, depth int) ([]pin, error) {
	switch e.Mode {
	case filemode.Dir:
		below, err := p.tree(e.Hash, depth+1)
		if err != nil {
			return nil, err
		}
		pins := make([]pin, len(below))
		for i, b := range below {
			pins[i] = b.under(e.Name)
		}
		return pins, nil
	case filemode.Submodule:
		return []pin{{Descriptor: schema.Descriptor{Name: valid(e.Name), Digest: schema.DigestSet{schema.GitCommit: e.Hash.String()}}}}, nil
	case filemode.Regular, filemode.Executable, filemode.Deprecated:
		return p.file(e)
	}
	return nil, nil
}

// under is the pin as seen from the folder above.
func (p pin) under(dir string) pin {
	p.Name = path.Join(valid(dir), p.Name)
	if p.file != nil {
		p.file = &pinFile{Pins: p.file.Pins, path: p.Name}
	}
	return p
}

// file is what a file is a pin of, or what it pins.
func (p *pinReader) file(e object.TreeEntry) ([]pin, error) {
	size, err := p.repo.EncodedObjectSize(e.Hash)
	if errors.Is(err, plumbing.ErrObjectNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	read := pinParser(e.Name)
	if size > maxPinFile || (read == nil && size > maxPointer) {
		return nil, nil
	}
	raw, err := p.repo.raw(plumbing.BlobObject, e.Hash)
	if err != nil {
		return nil, err
	}
	name := valid(e.Name)
	if d, ok := pointer(raw); ok {
		d.Name = name
		return []pin{{Descriptor: d}}, nil
	}
	if read == nil {
		return nil, nil
	}
	pins, ok := read(raw)
	if !ok {
		return nil, nil
	}
	d := schema.Descriptor{Name: name, Digest: schema.DigestSet{schema.GitBlob: e.Hash.String()}}
	return []pin{{Descriptor: d, file: &pinFile{Pins: pins, path: name}}}, nil
}

// pointer reads a Git LFS pointer (git-lfs docs/spec.md): a file of under 1024
// bytes that stands in a commit for one kept elsewhere.
func pointer(raw []byte) (schema.Descriptor, bool) {
	rest, ok := bytes.CutPrefix(raw, []byte("version https://git-lfs.github.com/spec/v1\n"))
	if !ok || len(raw) > maxPointer {
		return schema.Descriptor{}, false
	}
	d := schema.Descriptor{Annotations: map[string]any{schema.AnnotationKind: "file"}}
	for line := range strings.Lines(string(rest)) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		switch key {
		case "oid":
			sum, ok := strings.CutPrefix(value, "sha256:")
			if b, err := hex.DecodeString(sum); !ok || err != nil || len(b) != 32 || strings.ToLower(sum) != sum {
				return schema.Descriptor{}, false
			}
			d.Digest = schema.DigestSet{schema.SHA256: sum}
		case "size":
			if n, err := strconv.ParseInt(value, 10, 64); err != nil || n < 0 {
				return schema.Descriptor{}, false
			}
			d.Annotations[schema.AnnotationSize] = value
		}
	}
	return d, d.Digest != nil && d.Annotations[schema.AnnotationSize] != nil
}

// submodules says of the submodules among pins where .gitmodules has them from.
// A file that does not parse says nothing.
func (p *pinReader) submodules(c *object.Commit, pins []pin) error {
	if !slices.ContainsFunc(pins, func(x pin) bool { return x.Digest[schema.GitCommit] != "" }) {
		return nil
	}
	t, err := readTree(p.repo, c.TreeHash)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(t.Entries, func(e object.TreeEntry) bool { return e.Name == ".gitmodules" && e.Mode.IsFile() })
	if i < 0 {
		return nil
	}
	size, err := p.repo.EncodedObjectSize(t.Entries[i].Hash)
	if errors.Is(err, plumbing.ErrObjectNotFound) || size > maxPinFile {
		return nil
	}
	if err != nil {
		return err
	}
	raw, err := p.repo.raw(plumbing.BlobObject, t.Entries[i].Hash)
	if err != nil {
		return err
	}
	modules := config.NewModules()
	if err := modules.Unmarshal(raw); err != nil {
		return nil
	}
	from := map[string]string{}
	for _, m := range modules.Submodules {
		from[m.Path] = m.URL
	}
	for i := range pins {
		if pins[i].Digest[schema.GitCommit] != "" {
			pins[i].URI = submoduleURL(from[pins[i].Name])
		}
	}
	return nil
}

// submoduleURL is a submodule's URL as repositories are named, without
// credentials; "" for one that is relative to the repository's own, or that no
// name can be given.
func submoduleURL(raw string) string {
	if !strings.Contains(raw, "://") { // as scp(1) writes it
		host, rest, ok := strings.Cut(raw, ":")
		if !ok || strings.Contains(host, "/") {
			return ""
		}
		raw = "ssh://" + host + "/" + strings.TrimPrefix(rest, "/")
	}
	l, err := parseURL(repositoryURL(raw))
	if err != nil {
		return ""
	}
	return l.repository
}

// fresh are those of a commit's pins that are files which its first parent does
// not have at the same place: all where that parent is not here.
func (p *pinReader) fresh(c *object.Commit, pins []pin) ([]pin, error) {
	known := map[string]string{}
	if len(c.ParentHashes) > 0 && p.repo.has(c.ParentHashes[0]) {
		parent, err := object.GetCommit(p.repo, c.ParentHashes[0])
		if err == nil {
			before, _, err := p.pins(parent)
			if err != nil {
				return nil, err
			}
			for _, b := range before {
				known[b.Name] = b.Digest[schema.GitBlob]
			}
		}
	}
	var fresh []pin
	for _, x := range pins {
		if x.file != nil && known[x.Name] != x.Digest[schema.GitBlob] {
			fresh = append(fresh, x)
		}
	}
	return fresh, nil
}
