package lineage_test

import (
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/lineage/lineagetest"
	"github.com/retrace-ledger/retrace/schema"
)

func folder(t *testing.T, files ...schema.SnapshotFile) schema.Statement {
	t.Helper()
	tree, err := schema.TreeDigest(files)
	if err != nil {
		t.Fatal(err)
	}
	s := schema.Snapshot{Source: "dir:///data", Count: len(files), Files: files}
	return lineagetest.Statement(t, schema.SnapshotV1, s, schema.Descriptor{Name: "data", Digest: schema.DigestSet{schema.RetraceTree1: tree}})
}

func TestChanges(t *testing.T) {
	log := lineagetest.New(t)
	sum := func(content string) string { return lineagetest.FileKey(content).Hex() }
	left := folder(t, schema.SnapshotFile{Path: "a", Type: "file", Size: 1, SHA256: sum("a")}, schema.SnapshotFile{Path: "b", Type: "file", Size: 2, SHA256: sum("b")}, schema.SnapshotFile{Path: "l", Type: "link", Target: "a"})
	right := folder(t, schema.SnapshotFile{Path: "b", Type: "file", Size: 3, SHA256: sum("c")}, schema.SnapshotFile{Path: "c", Type: "file", Size: 4, SHA256: sum("a")}, schema.SnapshotFile{Path: "l", Type: "link", Target: "b"})
	image := func(content, base string) schema.Statement {
		return lineagetest.Statement(t, schema.ImageV1, schema.Image{Repository: "r", MediaType: "m", Labels: map[string]string{"version": content, "same": "x"},
			Layers: []schema.Blob{{Digest: "sha256:" + sum(base), MediaType: "m", Size: 7}, {Digest: "sha256:" + sum("app"), MediaType: "m", Size: 8}}}, lineagetest.Image("r", content))
	}
	one, two := image("1", "old base"), image("2", "new base")
	bom := func(of schema.Statement, document string) schema.Statement {
		return lineagetest.Statement(t, schema.CycloneDX, jsontext.Value(document), of.Subject[0])
	}
	for _, s := range []schema.Statement{left, right, one, two,
		bom(one, `{"bomFormat":"CycloneDX","components":[{"type":"library","name":"openssl","version":"3.0.11","purl":"pkg:deb/debian/openssl@3.0.11?arch=amd64"},{"type":"library","name":"zlib","version":"1.3"}]}`),
	} {
		log.Add(s)
	}
	lone := log.View(t)
	log.Add(lineagetest.Statement(t, schema.SPDX+"/v2.3", jsontext.Value(`{"spdxVersion":"SPDX-2.3","packages":[{"name":"openssl","versionInfo":"3.0.15","externalRefs":[{"referenceCategory":"PACKAGE-MANAGER","referenceType":"purl","referenceLocator":"pkg:deb/debian/openssl@3.0.15"}]},{"name":"zlib","versionInfo":"1.3"}]}`), two.Subject[0]))
	log.AddUnsigned(bom(two, `{"bomFormat":"CycloneDX","components":[{"type":"library","name":"says anybody"}]}`))
	v := log.View(t)
	key := func(s schema.Statement) schema.Key { return s.Subject[0].Key() }
	for name, c := range map[string]struct {
		left, right schema.Key
		want        []lineage.Change
	}{
		"folders": {key(left), key(right), []lineage.Change{
			{Path: "a", Left: "sha256:" + sum("a"), LeftSize: 1, RightSize: -1},
			{Path: "b", Left: "sha256:" + sum("b"), Right: "sha256:" + sum("c"), LeftSize: 2, RightSize: 3},
			{Path: "c", Right: "sha256:" + sum("a"), LeftSize: -1, RightSize: 4},
			{Path: "l", Left: "link to a", Right: "link to b", LeftSize: -1, RightSize: -1},
		}},
		"images": {key(one), key(two), []lineage.Change{
			{Path: "label version", Left: "1", Right: "2", LeftSize: -1, RightSize: -1},
			{Path: "layer 1", Left: "sha256:" + sum("old base"), Right: "sha256:" + sum("new base"), LeftSize: 7, RightSize: 7},
			{Path: "package pkg:deb/debian/openssl", Left: "3.0.11", Right: "3.0.15", LeftSize: -1, RightSize: -1},
		}},
		"the same":     {key(left), key(left), nil},
		"not recorded": {key(left), lineagetest.FileKey("nobody knows it"), nil},
	} {
		got, err := v.Changes(t.Context(), log.Entry, c.left, c.right)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	// Where one side alone has an SBOM, nothing is said of packages.
	got, err := lone.Changes(t.Context(), log.Entry, key(one), key(two))
	if err != nil || len(got) != 2 {
		t.Errorf("changes with one SBOM: %v, %v; want label and layer", got, err)
	}
}
