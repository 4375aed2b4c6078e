package git

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"sigs.k8s.io/yaml"
)

// Kinds of what a state of a repository needs from elsewhere.
const (
	NeedsImage  = "image"  // REPOSITORY[:TAG][@DIGEST]
	NeedsModel  = "model"  // URI that an inference service loads
	NeedsCommit = "commit" // URL of a submodule and its commit, REPOSITORY@COMMIT
)

// Need is something that a state of a repository names and does not hold.
type Need struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
	Path string `json:"path"` // of the first file that names it
}

// Needs are what the manifests of Kubernetes in a reversal's tree, below its paths
// where it has some, and its submodules name: images, as Kustomize would set them,
// and models. Files that are larger than 1 MiB, or are no manifests, need nothing.
func (c *Clone) Needs(ctx context.Context, r *Reversal) ([]Need, error) {
	t, err := c.repo.TreeObject(r.tree)
	if err != nil {
		return nil, err
	}
	n := &needReader{renamed: map[string]string{}, seen: map[Need]bool{}}
	walker := object.NewTreeWalker(t, true, nil)
	defer walker.Close()
	for {
		name, entry, err := walker.Next()
		if errors.Is(err, io.EOF) {
			return n.result(), nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading what is put back: %w", err)
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		within := len(r.Paths) == 0 || slices.ContainsFunc(r.Paths, func(p string) bool {
			return name == path.Clean(p) || strings.HasPrefix(name, path.Clean(p)+"/")
		})
		switch {
		case entry.Mode == filemode.Submodule && within:
			n.add(Need{NeedsCommit, entry.Hash.String(), name})
		case entry.Mode.IsFile():
			if err := c.read(t, name, n, within); err != nil {
				return nil, err
			}
		}
	}
}

// read looks into one file. What Kustomize sets holds for files elsewhere too.
func (c *Clone) read(t *object.Tree, name string, n *needReader, within bool) error {
	if !isManifest(name) {
		return nil
	}
	f, err := t.File(name)
	if err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	if f.Size > maxPinFile {
		return nil
	}
	text, err := f.Contents()
	if err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	n.file([]byte(text), name, within)
	return nil
}

func isManifest(name string) bool {
	ext := path.Ext(name)
	return ext == ".yaml" || ext == ".yml" || ext == ".json"
}

// NeedsOf are what manifests name, by their paths: images, as Kustomize would set
// them, and models.
func NeedsOf(manifests map[string][]byte) []Need {
	n := &needReader{renamed: map[string]string{}, seen: map[Need]bool{}}
	for _, name := range slices.Sorted(maps.Keys(manifests)) {
		n.file(manifests[name], name, true)
	}
	return n.result()
}

type needReader struct {
	all     []Need
	seen    map[Need]bool     // without paths
	renamed map[string]string // what Kustomize puts in the place of images, by their name
	left    int
}

func (n *needReader) add(x Need) {
	key := Need{x.Kind, x.Name, ""}
	if !n.seen[key] {
		n.seen[key] = true
		n.all = append(n.all, x)
	}
}

func (n *needReader) file(raw []byte, name string, within bool) {
	for _, text := range bytes.Split(append([]byte("\n"), raw...), []byte("\n---")) {
		var doc map[string]any
		if yaml.Unmarshal(text, &doc) != nil {
			continue
		}
		kind, _ := doc["kind"].(string)
		if base := path.Base(name); kind == "Kustomization" || strings.HasPrefix(base, "kustomization.") || base == "Kustomization" {
			n.kustomize(doc)
			continue
		}
		if doc["apiVersion"] == nil || kind == "" || !within {
			continue
		}
		n.left = maxFields
		n.fields(doc, name, 0)
	}
}

func (n *needReader) kustomize(doc map[string]any) {
	images, _ := doc["images"].([]any)
	for _, x := range images {
		set, _ := x.(map[string]any)
		text := func(field string) string { s, _ := set[field].(string); return s }
		name := text("newName")
		if name == "" {
			name = text("name")
		}
		if tag := text("newTag"); tag != "" {
			name += ":" + tag
		}
		if digest := text("digest"); digest != "" {
			name += "@" + digest
		}
		if text("name") != "" {
			n.renamed[text("name")] = name
		}
	}
}

func (n *needReader) fields(v any, file string, depth int) {
	if n.left == 0 || depth > maxNesting {
		return
	}
	n.left--
	switch v := v.(type) {
	case []any:
		for _, x := range v {
			n.fields(x, file, depth+1)
		}
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			text, ok := v[name].(string)
			switch {
			case ok && name == "image" && text != "":
				n.add(Need{NeedsImage, text, file})
			case ok && (name == "storageUri" || name == "modelUri") && strings.Contains(text, "://"):
				n.add(Need{NeedsModel, text, file})
			case !ok:
				n.fields(v[name], file, depth+1)
			}
		}
	}
}

// result puts what Kustomize sets in the place of what manifests say.
func (n *needReader) result() []Need {
	all := n.all
	n.all, n.seen = nil, map[Need]bool{}
	for _, x := range all {
		if x.Kind == NeedsImage {
			if set, ok := n.renamed[bareImage(x.Name)]; ok {
				x.Name = set
			}
		}
		n.add(x)
	}
	return n.all
}

// bareImage is an image's name without tag and digest.
func bareImage(ref string) string {
	ref, _, _ = strings.Cut(ref, "@")
	if i := strings.LastIndexByte(ref, ':'); i > strings.LastIndexByte(ref, '/') {
		ref = ref[:i]
	}
	return ref
}
