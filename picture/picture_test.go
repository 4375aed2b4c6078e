package picture_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/lineage/lineagetest"
	"github.com/retrace-ledger/retrace/picture"
	"github.com/retrace-ledger/retrace/schema"
)

var update = flag.Bool("update", false, "write golden files")

// forecast is the lineage of the model of lineagetest.Forecast.
func forecast(t *testing.T, ref string, opt lineage.LineageOptions) *lineage.Lineage {
	t.Helper()
	log := lineagetest.New(t)
	lineagetest.Forecast(t, log)
	return ask(t, log, ref, opt)
}

func ask(t *testing.T, log *lineagetest.Log, ref string, opt lineage.LineageOptions) *lineage.Lineage {
	t.Helper()
	v := log.View(t)
	r, err := v.Resolve(ref)
	if err != nil {
		t.Fatal(err)
	}
	l, err := v.Lineage(t.Context(), r, opt)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s differs (-want +got); run go test ./picture -update if that is right:\n%s", path, diff)
	}
}

func TestGolden(t *testing.T) {
	up := forecast(t, "forecast@2", lineage.LineageOptions{})
	down := forecast(t, string(lineagetest.FileKey("weather until February")), lineage.LineageOptions{Direction: schema.Downstream})
	for _, c := range []struct {
		file string
		draw func(*bytes.Buffer) error
	}{
		{"tree.txt", func(b *bytes.Buffer) error {
			return picture.Tree(b, up, picture.TreeOptions{Unicode: true, Width: 120})
		}},
		{"tree-ascii-narrow.txt", func(b *bytes.Buffer) error { return picture.Tree(b, up, picture.TreeOptions{Width: 60}) }},
		{"tree-all-color.txt", func(b *bytes.Buffer) error {
			return picture.Tree(b, up, picture.TreeOptions{Unicode: true, Color: true, All: true})
		}},
		{"tree-down.txt", func(b *bytes.Buffer) error { return picture.Tree(b, down, picture.TreeOptions{Unicode: true}) }},
		{"forecast.dot", func(b *bytes.Buffer) error { return picture.DOT(b, up) }},
		{"forecast.mmd", func(b *bytes.Buffer) error { return picture.Mermaid(b, up) }},
		{"forecast.svg", func(b *bytes.Buffer) error { return picture.SVG(b, up) }},
		{"down.svg", func(b *bytes.Buffer) error { return picture.SVG(b, down) }},
	} {
		t.Run(c.file, func(t *testing.T) {
			var b bytes.Buffer
			if err := c.draw(&b); err != nil {
				t.Fatal(err)
			}
			golden(t, c.file, b.Bytes())
		})
	}
}
