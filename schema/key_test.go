package schema

import (
	"strings"
	"testing"
)

const (
	hex40  = "a94a8fe5ccb19ba61c4c0873d391e987982fbbd3"
	hex64  = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
	empty  = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	hex128 = hex64 + hex64
)

func TestParseKey(t *testing.T) {
	for s, want := range map[string]string{
		"sha256:" + hex64:                     "",
		"sha512:" + hex128:                    "",
		"gitCommit:" + hex40:                  "",
		"gitCommit:" + hex64:                  "", // SHA-256 object format
		"retraceTree1:" + hex64:               "",
		"gce_image_id:8970095005306000053":    "", // odd number of digits: an ID, not bytes
		"sha256":                              `"sha256" is not a digest: want ALGORITHM:HEX`,
		"":                                    `"" is not a digest: want ALGORITHM:HEX`,
		":" + hex64:                           `"" is not the name of a digest algorithm`,
		"uri:file:///x":                       `"uri" is not the name of a digest algorithm`,
		"sha256:" + hex40:                     `"` + hex40 + `" is not a sha256 digest: want 64 lower-case hex digits`,
		"sha256:" + strings.ToUpper(hex64):    `"` + strings.ToUpper(hex64) + `" is not a sha256 digest: want 64 lower-case hex digits`,
		"sha256:" + hex64 + "0":               `"` + hex64 + `0" is not a sha256 digest: want 64 lower-case hex digits`,
		"sha512:" + hex64:                     `"` + hex64 + `" is not a sha512 digest: want 128 lower-case hex digits`,
		"gitCommit:" + hex40[:39]:             `"` + hex40[:39] + `" has 39 hex digits; a gitCommit digest has 40 or 64`,
		"gitCommit:" + hex40[:39] + "Z":       `"` + hex40[:39] + `Z" is not a digest: only lower-case hex digits are allowed`,
		"retraceTree1:" + hex40:               `"` + hex40 + `" has 40 hex digits; a retraceTree1 digest has 64`,
		"mine:":                               `"" has 0 hex digits; want 1 to 256`,
		"mine:" + strings.Repeat("ab", 200):   `"` + strings.Repeat("ab", 38) + `a..." has 400 hex digits; want 1 to 256`,
		"sha256:../../" + hex64[:58]:          `"../../` + hex64[:58] + `" is not a sha256 digest: want 64 lower-case hex digits`,
		"my alg:" + hex64:                     `"my alg" is not the name of a digest algorithm`,
		"sha256:" + hex64[:32] + ":" + "aaaa": `"` + hex64[:32] + `:aaaa" is not a sha256 digest: want 64 lower-case hex digits`,
	} {
		k, err := ParseKey(s)
		if got := message(err); got != want {
			t.Errorf("ParseKey(%q)\n got: %s\nwant: %s", s, got, want)
		}
		if err == nil && string(k) != s {
			t.Errorf("ParseKey(%q) = %q", s, k)
		}
	}
}

// message is the text of err, "" for none.
func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestKeyParts(t *testing.T) {
	for _, tt := range []struct {
		key        Key
		alg, short string
		digested   bool
		empty      bool
	}{
		{"sha256:" + hex64, "sha256", "sha256:9f86d081884c", true, false},
		{"sha256:" + empty, "sha256", "sha256:e3b0c44298fc", true, true},
		{RetraceTree1 + ":" + EmptyTree, "retraceTree1", "retraceTree1:3371c0688dcf", true, true},
		{"gce_image_id:897", "gce_image_id", "gce_image_id:897", true, false},
		{URIKey("s3://b/k?version=1"), "uri", "s3://b/k?version=1", false, false},
		{"", "", "", false, false},
	} {
		if got := tt.key.Algorithm(); got != tt.alg {
			t.Errorf("%q.Algorithm() = %q, want %q", tt.key, got, tt.alg)
		}
		if got := tt.key.Short(); got != tt.short {
			t.Errorf("%q.Short() = %q, want %q", tt.key, got, tt.short)
		}
		if got := tt.key.Digested(); got != tt.digested {
			t.Errorf("%q.Digested() = %v, want %v", tt.key, got, tt.digested)
		}
		if got := tt.key.Empty(); got != tt.empty {
			t.Errorf("%q.Empty() = %v, want %v", tt.key, got, tt.empty)
		}
	}
}

func TestStrongestDigest(t *testing.T) {
	for _, tt := range []struct {
		set  DigestSet
		want Key
	}{
		{DigestSet{"sha1": hex40, "sha256": hex64}, "sha256:" + hex64},
		{DigestSet{"gitTree": hex40, "gitCommit": hex40}, "gitCommit:" + hex40},
		{DigestSet{"gitCommit": hex40, "retraceTree1": hex64}, "retraceTree1:" + hex64},
		{DigestSet{"zz": "00", "aa": "11"}, "aa:11"},
		{DigestSet{"zz": "00", "gitBlob": hex40}, "gitBlob:" + hex40},
		{nil, ""},
	} {
		if got := tt.set.Key(); got != tt.want {
			t.Errorf("%v.Key() = %q, want %q", tt.set, got, tt.want)
		}
		if keys := tt.set.Keys(); len(keys) != len(tt.set) || len(keys) > 0 && keys[0] != tt.want {
			t.Errorf("%v.Keys() = %v, want %d beginning with %q", tt.set, keys, len(tt.set), tt.want)
		}
	}
}

func FuzzParseKey(f *testing.F) {
	for _, s := range []string{"sha256:" + hex64, "gitCommit:" + hex40, "uri:x", "a:b:c", "sha256:" + empty, ":", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		k, err := ParseKey(s)
		if err != nil {
			return
		}
		if string(k) != s || k.Algorithm()+":"+k.Hex() != s || !k.Digested() {
			t.Errorf("ParseKey(%q) = %q: %q, %q, digested %v", s, k, k.Algorithm(), k.Hex(), k.Digested())
		}
		if again := (DigestSet{k.Algorithm(): k.Hex()}); again.Key() != k || again.check() != nil {
			t.Errorf("a set of %q has the key %q and the error %v", s, again.Key(), again.check())
		}
	})
}
