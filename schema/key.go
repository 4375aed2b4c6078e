package schema

import (
	"crypto/sha256"
	_ "crypto/sha512" // go-digest knows only the algorithms that are linked in
	"encoding/hex"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Digest algorithm names, as in-toto spells them.
const (
	SHA256       = "sha256"
	SHA384       = "sha384"
	SHA512       = "sha512"
	RetraceTree1 = "retraceTree1" // digest of a folder, see docs/formats.md
	GitCommit    = "gitCommit"
	GitTree      = "gitTree"
	GitBlob      = "gitBlob"
	chainID      = "chainID" // of layers of an image
)

// strength orders the digests by which a resource is identified when several
// are stated: the first of these that is present wins, and any other name
// comes after them in alphabetical order.
var strength = []string{
	SHA256, SHA512, SHA384, RetraceTree1, GitCommit, GitTree, "gitTag", GitBlob, "dirHash", "dirHash1",
	"sha512_256", "sha512_224", "sha3_512", "sha3_384", "sha3_256", "sha224", "sha3_224", "blake2b", "blake2s",
}

// hexLengths are the exact lengths, in hex digits, of the digests whose length
// is fixed. Others take any length up to 256: in-toto lets anyone name an
// immutable identifier of their own, such as gce_image_id, whose digits are
// not bytes.
var hexLengths = map[string][]int{
	"md5": {32}, "sha1": {40}, "sha224": {56}, RetraceTree1: {64}, "dirHash": {64}, "dirHash1": {64},
	GitCommit: {40, 64}, GitTree: {40, 64}, "gitTag": {40, 64}, GitBlob: {40, 64},
	"ripemd160": {40}, "sm3": {64}, "gost": {64}, "sha512_256": {64}, "sha512_224": {56}, "sha3_512": {128}, "sha3_384": {96}, "sha3_256": {64}, "sha3_224": {56},
}

// Key identifies a resource: "ALG:HEX" by its strongest digest, or
// "uri:URI" where nobody states a digest (which is a gap, see docs/gaps.md).
type Key string

// uriPrefix begins the keys of resources that are known by location only.
const uriPrefix = "uri:"

// URIKey is the key of a resource that nobody gave a digest for.
func URIKey(uri string) Key { return Key(uriPrefix + uri) }

// ParseKey checks that s has the form of a key with a digest.
func ParseKey(s string) (Key, error) {
	alg, hexDigits, ok := strings.Cut(s, ":")
	if !ok {
		return "", fieldErrorf("", "%q is not a digest: want ALGORITHM:HEX", s)
	}
	if err := checkDigest(alg, hexDigits); err != nil {
		return "", err
	}
	return Key(s), nil
}

// Algorithm is the part before the colon: a digest name, or "uri".
func (k Key) Algorithm() string {
	alg, _, _ := strings.Cut(string(k), ":")
	return alg
}

// Hex is the part after the colon.
func (k Key) Hex() string {
	_, h, _ := strings.Cut(string(k), ":")
	return h
}

// Digested says whether the key is a digest, so that bytes can be checked
// against it.
func (k Key) Digested() bool { return k != "" && !strings.HasPrefix(string(k), uriPrefix) }

// Short is the key as people read it in tables: twelve hex digits.
func (k Key) Short() string {
	if !k.Digested() {
		return k.Hex()
	}
	h := k.Hex()
	return k.Algorithm() + ":" + h[:min(12, len(h))]
}

// emptyKeys are the keys of content that says nothing: equal because it is
// empty, not because it came from the same place (DESIGN 12.9).
var emptyKeys = []Key{
	"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
	Key(RetraceTree1 + ":" + EmptyTree),
}

// Empty says whether the key is that of an empty file or folder. Two steps
// that touch the same empty file are not joined by it.
func (k Key) Empty() bool { return slices.Contains(emptyKeys, k) }

// BytesKey is the sha256 key of b.
func BytesKey(b []byte) Key {
	sum := sha256.Sum256(b)
	return Key(SHA256 + ":" + hex.EncodeToString(sum[:]))
}

// DigestSet maps a digest algorithm to lower-case hex, as in-toto defines it.
type DigestSet map[string]string

// Key is the identity of what the set describes: its strongest digest, or ""
// for an empty set.
func (d DigestSet) Key() Key {
	for _, alg := range strength {
		if h, ok := d[alg]; ok {
			return Key(alg + ":" + h)
		}
	}
	for _, alg := range d.algorithms() {
		return Key(alg + ":" + d[alg])
	}
	return ""
}

// Keys are all digests of the set, the identity first.
func (d DigestSet) Keys() []Key {
	first := d.Key()
	if first == "" {
		return nil
	}
	keys := []Key{first}
	for _, alg := range d.algorithms() {
		if k := Key(alg + ":" + d[alg]); k != first {
			keys = append(keys, k)
		}
	}
	return keys
}

// check validates every digest of the set.
func (d DigestSet) check() error {
	for _, alg := range d.algorithms() {
		if err := checkDigest(alg, d[alg]); err != nil {
			return under(alg, err)
		}
	}
	return nil
}

// algorithms are the names in the set, in order.
func (d DigestSet) algorithms() []string {
	names := make([]string, 0, 4)
	for alg := range d {
		names = append(names, alg)
	}
	slices.Sort(names)
	return names
}

// checkDigest follows the DigestSet rules of in-toto (spec/v1/digest_set.md).
// Which algorithms OCI registers, and how long their digests are, go-digest
// knows.
func checkDigest(alg, h string) error {
	if alg == "" || strings.ContainsAny(alg, ": \t\n") || alg == "uri" {
		return fieldErrorf("", "%q is not the name of a digest algorithm", alg)
	}
	if algorithm := digest.Algorithm(alg); algorithm.Available() {
		if len(h) != algorithm.Size()*2 || !isHex(h) {
			return fieldErrorf("", "%q is not a %s digest: want %d lower-case hex digits", clip(h), alg, algorithm.Size()*2)
		}
		return nil
	}
	if !isHex(h) {
		return fieldErrorf("", "%q is not a digest: only lower-case hex digits are allowed", clip(h))
	}
	want, fixed := hexLengths[alg]
	if fixed && !slices.Contains(want, len(h)) {
		return fieldErrorf("", "%q has %d hex digits; a %s digest has %s", clip(h), len(h), alg, lengths(want))
	}
	if !fixed && (len(h) == 0 || len(h) > 256) {
		return fieldErrorf("", "%q has %d hex digits; want 1 to 256", clip(h), len(h))
	}
	return nil
}

// isHex reports whether h has only lower-case hex digits.
func isHex(h string) bool {
	for i := range len(h) {
		if c := h[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func lengths(want []int) string {
	var s []string
	for _, n := range want {
		s = append(s, strconv.Itoa(n))
	}
	return strings.Join(s, " or ")
}

// clip shortens a value from outside for an error message.
func clip(s string) string {
	if len(s) > 80 {
		return s[:77] + "..."
	}
	return s
}
