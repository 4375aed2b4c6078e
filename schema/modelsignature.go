package schema

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"strconv"
	"strings"
)

// Predicate types of signatures on models by the OpenSSF (ossf/model-signing-spec).
const (
	ModelSignatureV1 = "https://model_signing/signature/v1.0"
	// ModelDigestsV01 is what the first releases of the reference signed: each
	// file is a subject, and the predicate says nothing.
	ModelDigestsV01 = "https://model_signing/Digests/v0.1"
)

// ModelSignature is an OpenSSF Model Signing v1.0 predicate: the files of a
// model. The one subject is the model; its sha256 is over the raw digests of
// the resources in the order in which they are listed.
type ModelSignature struct {
	Resources     []ModelResource    `json:"resources"`
	Serialization ModelSerialization `json:"serialization"`
}

// ModelResource is a file of a signed model or, with the method "shards", a
// part of one.
type ModelResource struct {
	Name      string `json:"name"` // path below the model's folder; of a shard PATH:START:END
	Algorithm string `json:"algorithm"`
	Digest    string `json:"digest"` // hex
}

// ModelSerialization says how the digests were made.
type ModelSerialization struct {
	Method        string   `json:"method"` // "files" or "shards"
	HashType      string   `json:"hash_type"`
	AllowSymlinks bool     `json:"allow_symlinks,omitzero"`
	IgnorePaths   []string `json:"ignore_paths,omitempty"`
	ShardSize     int64    `json:"shard_size,omitzero"` // bytes; of the method "shards"
}

func (m *ModelSignature) check() error {
	if len(m.Resources) == 0 {
		return fieldErrorf("resources", "missing or empty; they are the files that are signed")
	}
	if len(m.Resources) > MaxSubjects {
		return fieldErrorf("resources", "lists %d; the limit is %d", len(m.Resources), MaxSubjects)
	}
	switch m.Serialization.Method {
	case "files", "shards":
	case "":
		return fieldErrorf("serialization.method", "missing; want files or shards")
	default:
		return fieldErrorf("serialization.method", "%q is neither files nor shards", clip(m.Serialization.Method))
	}
	if m.Serialization.HashType == "" {
		return fieldErrorf("serialization.hash_type", "missing")
	}
	seen := map[string]bool{}
	for i, r := range m.Resources {
		field := "resources." + strconv.Itoa(i)
		file, start, end, ok := r.name(m.Serialization.Method)
		switch {
		case r.Name == "":
			return fieldErrorf(field+".name", "missing")
		case !ok:
			return fieldErrorf(field+".name", "%q is not the name of a shard: want PATH:START:END", clip(r.Name))
		case !isBelow(file):
			return fieldErrorf(field+".name", "%q is not a path below the model's folder", clip(r.Name))
		case start > end:
			return fieldErrorf(field+".name", "%q ends before it starts", clip(r.Name))
		case seen[r.Name]:
			return fieldErrorf(field+".name", "%q is listed twice", clip(r.Name))
		case r.Algorithm == "":
			return fieldErrorf(field+".algorithm", "missing")
		case r.Digest == "":
			return fieldErrorf(field+".digest", "missing")
		}
		seen[r.Name] = true
		if err := checkDigest(r.algorithm(), r.Digest); err != nil {
			return under(field+".digest", err)
		}
		if len(r.Digest)%2 != 0 {
			return fieldErrorf(field+".digest", "%q has half a byte", clip(r.Digest))
		}
	}
	return nil
}

// name is the file that a resource is, and for a shard which part of it.
func (r ModelResource) name(method string) (file string, start, end int64, ok bool) {
	if method != "shards" {
		return r.Name, 0, 0, true
	}
	rest, last, ok := cutLast(r.Name)
	if !ok {
		return "", 0, 0, false
	}
	file, first, ok := cutLast(rest)
	if !ok {
		return "", 0, 0, false
	}
	start, err := strconv.ParseInt(first, 10, 64)
	if err != nil || start < 0 {
		return "", 0, 0, false
	}
	end, err = strconv.ParseInt(last, 10, 64)
	return file, start, end, err == nil
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// algorithm is that of the digest. The reference appends the size of shards to
// it.
func (r ModelResource) algorithm() string {
	alg, _, _ := strings.Cut(r.Algorithm, "-sharded-")
	return alg
}

// isBelow says whether p is a path with forward slashes that stays below the
// folder it starts from.
func isBelow(p string) bool {
	return p != "" && p != "." && !strings.ContainsRune(p, 0) && !strings.HasPrefix(p, "/") && path.Clean(p) == p && p != ".." && !strings.HasPrefix(p, "../")
}

// root is the digest of the model: SHA-256 over the raw digests in the order in
// which they are listed, by whatever algorithm they are.
func (m *ModelSignature) root() string {
	h := sha256.New()
	for _, r := range m.Resources {
		raw, _ := hex.DecodeString(r.Digest) // check has looked at it
		h.Write(raw)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// modelSignature reads which files make the signed model. A file that is signed
// in several shards has no digest of its own, and is not noted.
func (b *factBuilder) modelSignature(s Statement, p *ModelSignature) error {
	if len(s.Subject) != 1 {
		return fieldErrorf("subject", "has %d; a signed model is one", len(s.Subject))
	}
	stated := s.Subject[0].Digest[SHA256]
	switch root := p.root(); {
	case s.Subject[0].Name == "":
		return fieldErrorf("subject.0.name", "missing; it is the name of the model's folder")
	case stated == "":
		return fieldErrorf("subject.0.digest.sha256", "missing; it is the digest of the model")
	case stated != root:
		return fieldErrorf("subject.0.digest.sha256", "is not the digest of the resources listed, %s", root)
	}
	model := b.subjects(s, "model")
	shards := map[string]int{}
	for _, r := range p.Resources {
		file, _, _, _ := r.name(p.Serialization.Method)
		shards[file]++
	}
	for _, r := range p.Resources {
		file, start, end, _ := r.name(p.Serialization.Method)
		k := Key(r.algorithm() + ":" + r.Digest)
		if shards[file] > 1 || start != 0 || k.Empty() {
			continue
		}
		size := int64(-1)
		if p.Serialization.Method == "shards" {
			size = end
		}
		to := b.add(Resource{Key: k, Kind: "file", Name: file, Digests: DigestSet{r.algorithm(): r.Digest}, Size: size})
		b.relate(model, to, RelPartOf, false)
	}
	b.f.Summary = fmt.Sprintf("signature on the model %s: %d files", s.Subject[0].Name, len(shards))
	return nil
}
