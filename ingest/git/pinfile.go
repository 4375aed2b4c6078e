package git

import (
	"bytes"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/retrace-ledger/retrace/schema"
)

// pinParser returns what reads a file of this name for pins, nil if no such
// file pins anything. What it returns reports false for a file that pins
// nothing, which is also one that does not parse: a template is no manifest.
func pinParser(name string) func([]byte) (schema.Pins, bool) {
	switch {
	case name == "dvc.lock", path.Ext(name) == ".dvc":
		return readDVC
	case name == "kustomization.yaml", name == "kustomization.yml", name == "Kustomization":
		return readKustomize
	}
	switch path.Ext(name) {
	case ".yaml", ".yml", ".json":
		return readManifests
	}
	return nil
}

// pinned is pins as a statement takes them: those that are repeated once.
func pinned(format string, all []schema.Descriptor) (schema.Pins, bool) {
	p := schema.Pins{Format: format}
	type place struct {
		name string
		key  schema.Key
	}
	seen := map[place]bool{}
	for _, d := range all {
		at := place{d.Name, d.Key()}
		if seen[at] {
			continue
		}
		seen[at] = true
		if len(p.Pins) == schema.MaxPins {
			p.LeftOut++
			continue
		}
		p.Pins = append(p.Pins, d)
	}
	return p, len(p.Pins) > 0
}

// dvcOut is one output or dependency of a stage (dvc/schema.py).
type dvcOut struct {
	Path string `json:"path"`
	Hash string `json:"hash"`
	MD5  string `json:"md5"`
	Size *int64 `json:"size"`
	Repo struct {
		URL     string `json:"url"`
		RevLock string `json:"rev_lock"`
	} `json:"repo"`
}

// Digests of DVC that are the MD5 of something else than the bytes: of a
// folder's listing, and, before DVC 3, of text with its line ends made alike.
const (
	dvcFolder = "dvcDirMD5"
	dvcLegacy = "dvcMD5"
)

// readDVC reads dvc.lock and *.dvc: what each stage used and left, and data
// that was added, by MD5. That is enough to find the data, not to prove it.
func readDVC(raw []byte) (schema.Pins, bool) {
	type stage struct {
		Deps []dvcOut `json:"deps"`
		Outs []dvcOut `json:"outs"`
	}
	var doc struct {
		Deps   []dvcOut         `json:"deps"`
		Outs   []dvcOut         `json:"outs"`
		Stages map[string]stage `json:"stages"`
	}
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		return schema.Pins{}, false
	}
	stages := []stage{{doc.Deps, doc.Outs}}
	for _, name := range slices.Sorted(maps.Keys(doc.Stages)) {
		stages = append(stages, doc.Stages[name])
	}
	var all []schema.Descriptor
	for _, s := range stages {
		for _, o := range append(s.Deps, s.Outs...) {
			if d, ok := o.descriptor(); ok {
				all = append(all, d)
			}
		}
	}
	return pinned(schema.PinsDVC, all)
}

func (o dvcOut) descriptor() (schema.Descriptor, bool) {
	d := schema.Descriptor{Name: valid(o.Path)}
	if rev := o.Repo.RevLock; rev != "" { // imported from another repository
		if _, err := parseCommit(rev); err != nil {
			return d, false
		}
		d.Digest, d.URI = schema.DigestSet{schema.GitCommit: rev}, submoduleURL(o.Repo.URL)
		return d, true
	}
	sum, folder := strings.CutSuffix(o.MD5, ".dir")
	if key, err := schema.ParseKey("md5:" + sum); err != nil || key == "" {
		return d, false
	}
	switch {
	case folder:
		d.Digest = schema.DigestSet{dvcFolder: sum}
	case o.Hash == "md5":
		d.Digest = schema.DigestSet{"md5": sum}
	default:
		d.Digest = schema.DigestSet{dvcLegacy: sum}
	}
	d.Annotations = map[string]any{schema.AnnotationKind: "file"}
	if o.Size != nil && *o.Size >= 0 {
		d.Annotations[schema.AnnotationSize] = strconv.FormatInt(*o.Size, 10)
	}
	return d, true
}

// readKustomize reads the images that a kustomization sets by digest.
func readKustomize(raw []byte) (schema.Pins, bool) {
	var doc struct {
		Images []struct {
			Name    string `json:"name"`
			NewName string `json:"newName"`
			Digest  string `json:"digest"`
		} `json:"images"`
	}
	if !bytes.Contains(raw, []byte("sha")) || yaml.Unmarshal(raw, &doc) != nil {
		return schema.Pins{}, false
	}
	var all []schema.Descriptor
	for _, i := range doc.Images {
		name := i.NewName
		if name == "" {
			name = i.Name
		}
		if d, ok := schema.ImageDescriptor(name, i.Digest); ok {
			all = append(all, d)
		}
	}
	return pinned(schema.PinsKustomize, all)
}

// readManifests reads the images that objects of Kubernetes, or a pipeline that
// Kubeflow compiled, name by digest.
func readManifests(raw []byte) (schema.Pins, bool) {
	if !bytes.Contains(raw, []byte("@sha")) {
		return schema.Pins{}, false
	}
	var all []schema.Descriptor
	format := ""
	for _, text := range bytes.Split(append([]byte("\n"), raw...), []byte("\n---")) {
		var doc map[string]any
		if yaml.Unmarshal(text, &doc) != nil {
			continue
		}
		within, kind := any(doc), schema.PinsKubernetes
		if doc["deploymentSpec"] != nil {
			within, kind = doc["deploymentSpec"], schema.PinsKFP
		} else if doc["apiVersion"] == nil || doc["kind"] == nil {
			continue
		}
		look := imageReader{left: maxFields}
		look.read(within, 0)
		if all, format = append(all, look.found...), kind; look.left == 0 {
			return schema.Pins{}, false
		}
	}
	return pinned(format, all)
}

// Limits of a document that is looked into. Aliases can make a short one of
// YAML endless.
const (
	maxNesting = 64
	maxFields  = 1 << 18
)

// imageReader finds the values of all fields called image that have a digest,
// in the order of field names.
type imageReader struct {
	found []schema.Descriptor
	left  int // fields that may still be looked at
}

func (r *imageReader) read(v any, depth int) {
	if r.left == 0 || depth > maxNesting {
		r.left = 0
		return
	}
	r.left--
	switch v := v.(type) {
	case []any:
		for _, x := range v {
			r.read(x, depth+1)
		}
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			text, ok := v[name].(string)
			if !ok || name != "image" {
				r.read(v[name], depth+1)
			} else if d, ok := reference(text); ok {
				r.found = append(r.found, d)
			}
		}
	}
}

// reference is an image that is named REPOSITORY[:TAG]@DIGEST.
func reference(text string) (schema.Descriptor, bool) {
	named, hash, ok := strings.Cut(strings.TrimSpace(text), "@")
	if !ok || named == "" {
		return schema.Descriptor{}, false
	}
	return schema.ImageDescriptor(named, hash)
}
