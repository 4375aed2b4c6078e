package schema

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func TestTreeVectors(t *testing.T) {
	var vectors []struct {
		What         string
		Files        []SnapshotFile
		RetraceTree1 string
	}
	readVectors(t, "retraceTree1.json", &vectors)
	if len(vectors) < 9 {
		t.Fatalf("%d vectors", len(vectors))
	}
	for _, v := range vectors {
		shuffled := slices.Clone(v.Files)
		for range 4 {
			got, err := TreeDigest(shuffled)
			if err != nil || got != v.RetraceTree1 {
				t.Errorf("%s: TreeDigest = %s, %v, want %s", v.What, got, err, v.RetraceTree1)
			}
			rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		}
	}
	if vectors[0].RetraceTree1 != EmptyTree {
		t.Errorf("EmptyTree = %s, want %s", EmptyTree, vectors[0].RetraceTree1)
	}
}

// TestTreeDigestTellsFoldersApart changes one thing at a time.
func TestTreeDigestTellsFoldersApart(t *testing.T) {
	base := []SnapshotFile{
		{Path: "a", Type: "file", Size: 4, SHA256: hex64},
		{Path: "d", Type: "folder"},
		{Path: "l", Type: "link", Target: "a"},
	}
	changes := map[string]func(f []SnapshotFile) []SnapshotFile{
		"nothing":              func(f []SnapshotFile) []SnapshotFile { return f },
		"a name":               func(f []SnapshotFile) []SnapshotFile { f[0].Path = "b"; return f },
		"the executable bit":   func(f []SnapshotFile) []SnapshotFile { f[0].Exec = true; return f },
		"a size":               func(f []SnapshotFile) []SnapshotFile { f[0].Size = 5; return f },
		"content":              func(f []SnapshotFile) []SnapshotFile { f[0].SHA256 = empty; return f },
		"a link's target":      func(f []SnapshotFile) []SnapshotFile { f[2].Target = "d"; return f },
		"a folder for a link":  func(f []SnapshotFile) []SnapshotFile { f[2] = SnapshotFile{Path: "l", Type: "folder"}; return f },
		"no folder":            func(f []SnapshotFile) []SnapshotFile { return []SnapshotFile{f[0], f[2]} },
		"a file more":          func(f []SnapshotFile) []SnapshotFile { return append(f, SnapshotFile{Path: "z", Type: "folder"}) },
		"a file in the folder": func(f []SnapshotFile) []SnapshotFile { f[0].Path = "d/a"; return f },
	}
	seen := map[string]string{}
	for what, change := range changes {
		got, err := TreeDigest(change(slices.Clone(base)))
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if other, ok := seen[got]; ok {
			t.Errorf("a change of %s and one of %s have the same digest", what, other)
		}
		seen[got] = what
	}
}

func TestTreeDigestRefuses(t *testing.T) {
	file := func(path string) SnapshotFile { return SnapshotFile{Path: path, Type: "file", SHA256: hex64} }
	for want, files := range map[string][]SnapshotFile{
		`path: "a" is listed twice`:                              {file("a"), file("a")},
		`path: "../a" is not a clean relative path`:              {file("../a")},
		`path: "/etc/passwd" is absolute`:                        {file("/etc/passwd")},
		`path: "a/../b" is not a clean relative path`:            {file("a/../b")},
		`path: "a//b" is not a clean relative path`:              {file("a//b")},
		`path: "a/" is not a clean relative path`:                {file("a/")},
		`path: "./a" is not a clean relative path`:               {file("./a")},
		`path: is empty`:                                         {file("")},
		`path: "a\x00b" holds a NUL byte`:                        {file("a\x00b")},
		`type: "socket" of "a" is none of file, folder and link`: {{Path: "a", Type: "socket"}},
		`sha256: "` + hex40 + `" of "a" is not a SHA-256 digest`: {{Path: "a", Type: "file", SHA256: hex40}},
		`sha256: "" of "a" is not a SHA-256 digest`:              {{Path: "a", Type: "file"}},
		`size: -1 of "a" is negative`:                            {{Path: "a", Type: "file", Size: -1, SHA256: hex64}},
	} {
		if got, err := TreeDigest(files); message(err) != want {
			t.Errorf("TreeDigest(%v) = %s, %v, want %s", files, got, err, want)
		}
	}
}

func FuzzTreeDigest(f *testing.F) {
	f.Add("data", "data/x.csv", int64(4), true)
	f.Add("a-b", "a/b", int64(0), false)
	f.Add("..", "/", int64(-1), false)
	f.Fuzz(func(t *testing.T, one, two string, size int64, exec bool) {
		files := []SnapshotFile{
			{Path: one, Type: "file", Size: size, Exec: exec, SHA256: hex64},
			{Path: two, Type: "link", Target: one},
		}
		a, errA := TreeDigest(files)
		slices.Reverse(files)
		b, errB := TreeDigest(files)
		if a != b || (errA == nil) != (errB == nil) {
			t.Errorf("the order of files matters: %s %v, %s %v", a, errA, b, errB)
		}
		if errA == nil && (strings.HasPrefix(one, "/") || slices.Contains(strings.Split(one, "/"), "..") || size < 0) {
			t.Errorf("TreeDigest takes the path %q with size %d", one, size)
		}
	})
}
