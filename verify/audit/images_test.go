package audit

import (
	"errors"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/retrace-ledger/retrace/schema"
)

func TestParseImages(t *testing.T) {
	digest := "sha256:" + strings.Repeat("0a", 32)
	list := "\ufeff# what runs in production\n\n" +
		"registry.example/ml/serve:v1   # the model\r\n" +
		"  registry.example:5000/ml/serve@" + digest + "\n" +
		"registry.example/ml/serve:v2@" + digest + "\t# pinned\n" +
		"#registry.example/old\n" +
		"alpine"
	got, err := ParseImages(strings.NewReader(list))
	if err != nil {
		t.Fatal(err)
	}
	want := []Image{
		{Ref: "registry.example/ml/serve:v1", Repository: "registry.example/ml/serve", Line: 3},
		{Ref: "registry.example:5000/ml/serve@" + digest, Repository: "registry.example:5000/ml/serve", Digest: schema.Key(digest), Line: 4},
		{Ref: "registry.example/ml/serve:v2@" + digest, Repository: "registry.example/ml/serve", Digest: schema.Key(digest), Line: 5},
		{Ref: "alpine", Repository: "index.docker.io/library/alpine", Line: 7},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Image{})); diff != "" {
		t.Errorf("ParseImages (-want +got):\n%s", diff)
	}
}

func TestParseImagesRefuses(t *testing.T) {
	for name, c := range map[string]struct{ list, want string }{
		"nothing":        {"", "no image"},
		"only comments":  {"# one\n\n  \n", "no image"},
		"two on a line":  {"a/b:v1 a/b:v2", "line 1"},
		"bad reference":  {"a/b:v1\nHTTP://x", "line 2"},
		"short digest":   {"\na/b@sha256:12", "line 2"},
		"bad tag":        {"a/b:v1\na/b:\x00", "line 2"},
		"long line":      {"a/b\n" + strings.Repeat("a", 2*maxLine), "line 2"},
		"too many lines": {strings.Repeat("a/b\n", maxImages+1), "10000 images"},
	} {
		if got, err := ParseImages(strings.NewReader(c.list)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %d images, %v; want an error with %q", name, len(got), err, c.want)
		}
	}
	broken := errors.New("disk on fire")
	if _, err := ParseImages(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("a file that cannot be read: %v, want %v", err, broken)
	}
}

// FuzzParseImages: no input makes it panic, and what it takes is taken again,
// each image alone, with the same meaning.
func FuzzParseImages(f *testing.F) {
	f.Add("registry.example/ml/serve:v1 # the model\nalpine\n")
	f.Add("# only a comment\n")
	f.Add("localhost:5000/a@sha256:" + strings.Repeat("0a", 32))
	f.Add("\ufeffa/b:c@sha256:" + strings.Repeat("0a", 32) + "\t#x\r\n")
	f.Fuzz(func(t *testing.T, list string) {
		images, err := ParseImages(strings.NewReader(list))
		if err != nil {
			return
		}
		if len(images) == 0 {
			t.Fatal("no image and no error")
		}
		for _, image := range images {
			again, err := ParseImages(strings.NewReader(image.Ref))
			if err != nil {
				t.Fatalf("%q was taken in a list and not alone: %v", image.Ref, err)
			}
			image.Line = 1
			if diff := cmp.Diff([]Image{image}, again, cmp.AllowUnexported(Image{})); diff != "" {
				t.Errorf("%q alone means something else (-list +alone):\n%s", image.Ref, diff)
			}
			if _, err := ParseImage(image.full); err != nil {
				t.Errorf("%q in full is %q, which does not parse: %v", image.Ref, image.full, err)
			}
		}
	})
}
