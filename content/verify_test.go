package content

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// copyDir copies a store, as another process would find it.
func copyDir(t *testing.T, src string) string {
	t.Helper()
	dst := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(dst, os.DirFS(src)); err != nil {
		t.Fatal(err)
	}
	return dst
}

func filesOf(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			out = append(out, p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func verify(t *testing.T, dir string) (Verified, []string, error) {
	t.Helper()
	var found []string
	v, err := open(t, dir).Verify(t.Context(), func(f Finding) { found = append(found, f.String()) })
	return v, found, err
}

// filled is a store with some content.
func filled(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	s := open(t, dir)
	big := make([]byte, 300_000)
	for i := range big {
		big[i] = byte(i * i >> 7)
	}
	files := map[string]string{"big": string(big)}
	for i := range 8 {
		files[fmt.Sprintf("d/f%d", i)] = strings.Repeat(fmt.Sprintf("line %d\n", i), i*7)
	}
	mustPut(t, s, write(t, files))
	mustPut(t, s, filepath.Join(write(t, map[string]string{"single": "of its own\n"}), "single"))
	return dir
}

func TestVerify(t *testing.T) {
	t.Parallel()
	dir := filled(t)
	v, found, err := verify(t, dir)
	if err != nil || len(found) > 0 || v.Keys != 11 || v.Bytes < 300_000 {
		t.Errorf("Verify = %+v, %v, %v, want 11 sound keys", v, found, err)
	}
	v, found, err = verify(t, filepath.Join(t.TempDir(), "absent"))
	if err != nil || len(found) > 0 || v.Keys != 0 {
		t.Errorf("Verify of a store that was never written to = %+v, %v, %v, want nothing", v, found, err)
	}
}

// Any byte of any file of the store may rot.
func TestVerifyFindsFlips(t *testing.T) {
	t.Parallel()
	dir := filled(t)
	flips := 2
	if testing.Short() {
		flips = 1
	}
	for n, name := range filesOf(t, dir) {
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for i := range min(flips, len(raw)) {
			at := (len(raw)-1)*i - n*7%max(1, len(raw)/flips)*(i%2) // the first, and one near the end
			t.Run(fmt.Sprintf("%s/%d", rel, at), func(t *testing.T) {
				t.Parallel()
				c := copyDir(t, dir)
				flipped := slices.Clone(raw)
				flipped[at] ^= 1 << (n % 7)
				if err := os.WriteFile(filepath.Join(c, rel), flipped, 0o600); err != nil {
					t.Fatal(err)
				}
				if v, found, err := verify(t, c); len(found) == 0 || err != nil {
					t.Errorf("Verify = %+v, %v, want a finding", v, err)
				}
			})
		}
	}
}

// What is found says which key is concerned.
func TestVerifyNamesKey(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	s := open(t, dir)
	key := mustPut(t, s, filepath.Join(write(t, map[string]string{"f": strings.Repeat("precious\n", 500)}), "f"))
	for _, name := range filesOf(t, filepath.Join(dir, "blobs")) {
		if !strings.HasPrefix(filepath.Base(filepath.Dir(name)), "p") {
			continue
		}
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for i := range raw {
			raw[i] ^= 1
		}
		if err := os.WriteFile(name, raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, found, err := verify(t, dir)
	if err != nil || !slices.ContainsFunc(found, func(f string) bool { return strings.HasPrefix(f, string(key)) }) {
		t.Errorf("Verify found %q, %v, want a finding about %s", found, err, key)
	}
	var damage *DamageError
	dst := filepath.Join(t.TempDir(), "f")
	if err := open(t, dir).Fetch(t.Context(), key, dst); !errors.As(err, &damage) {
		t.Errorf("Fetch = %v, want a DamageError", err)
	}
	if _, err := os.Lstat(dst); err == nil {
		t.Errorf("Fetch left damaged bytes behind")
	}
}
