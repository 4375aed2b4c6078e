package picture

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestCharts(t *testing.T) {
	var b bytes.Buffer
	err := Charts(&b, "growth <of> & a ledger", []Chart{
		{Title: "appends a second", Lines: []Line{
			{Name: "10k", Points: []Point{{1e3, 50000}, {1e4, 61000}}},
			{Name: "goal", Goal: true, Points: []Point{{1e3, 40000}, {1e4, 40000}}},
		}},
		{Title: "one size only", Lines: []Line{{Name: "a", Points: []Point{{1e4, 0.5}}}}},
		{Title: "nothing"},
		{Title: "zero", Lines: []Line{{Name: "z", Points: []Point{{1, 0}, {10, 0}}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	circles, dashed := 0, 0
	for d := xml.NewDecoder(bytes.NewReader(b.Bytes())); ; {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("not well-formed: %v\n%s", err, b.String())
		}
		start, ok := tok.(xml.StartElement)
		if !ok {
			continue
		}
		if start.Name.Local == "circle" {
			circles++
		}
		for _, a := range start.Attr {
			if a.Name.Local == "class" && strings.Contains(a.Value, "goal") {
				dashed++
			}
			if strings.Contains(a.Value, "NaN") || strings.Contains(a.Value, "Inf") {
				t.Errorf("%s has %s=%q", start.Name.Local, a.Name.Local, a.Value)
			}
		}
	}
	if circles != 5 || dashed != 2 { // a line of the goal, and its sample in the legend
		t.Errorf("%d points and %d dashed lines, want 5 and 2", circles, dashed)
	}
}

func TestShort(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.25: "0.25", 999: "999", 1000: "1k", 62500: "62.5k", 1e6: "1M", 2.5e9: "2.5G"} {
		if got := Short(v); got != want {
			t.Errorf("Short(%v) = %q, want %q", v, got, want)
		}
	}
}

func TestNiceStep(t *testing.T) {
	for most, want := range map[float64]float64{0: 1, 4: 1, 7: 2, 10: 2.5, 100: 25, 61000: 20000} {
		if got := niceStep(most); got != want {
			t.Errorf("niceStep(%v) = %v, want %v", most, got, want)
		}
	}
}
