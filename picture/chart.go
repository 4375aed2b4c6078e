package picture

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
)

// Chart is a picture of how something depends on a size, whose axis is
// logarithmic.
type Chart struct {
	Title string // what is on the upright axis, with its unit
	Lines []Line
}

// Line is one line of a chart, its points from left to right.
type Line struct {
	Name   string
	Points []Point
	Goal   bool // drawn dashed: not measured, but aimed at
}

// Point is where a line passes. X is more than 0.
type Point struct{ X, Y float64 }

// Sizes of a chart, in user units.
const (
	chartWidth  = 420.0
	chartHeight = 226.0
	chartLeft   = 62.0 // room for the labels of the upright axis
	chartTop    = 52.0 // for its title and legend
	chartBottom = 40.0
	chartRight  = 18.0
)

// Charts draws charts in two columns under a title, all over the same sizes.
// The file stands alone: no scripts, no fonts, no references.
func Charts(w io.Writer, title string, charts []Chart) error {
	d := &chartDrawing{out: bufio.NewWriter(w)}
	const columns = 2
	rows := (len(charts) + columns - 1) / columns
	width, height := columns*chartWidth+2*margin, float64(rows)*chartHeight+2*margin+24
	d.f(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" width="%.0f" height="%.0f" role="img" font-family="system-ui,sans-serif">`+"\n", width, height, width, height)
	d.f("<title>%s</title>\n%s\n", escaped(title), chartStyle)
	d.f(`<rect class="ground" width="%.0f" height="%.0f"/><text class="head" x="%.0f" y="%.0f">%s</text>`+"\n", width, height, margin, margin+6, escaped(title))
	for i, c := range charts {
		d.f(`<g transform="translate(%.1f %.1f)">`, margin+float64(i%columns)*chartWidth, margin+24+float64(i/columns)*chartHeight)
		d.chart(c)
		d.f("</g>\n")
	}
	d.f("</svg>\n")
	return d.out.Flush()
}

const chartStyle = `<style>
.ground{fill:#fff}.head{font-size:17px;font-weight:600;fill:#1c2733}.title{font-size:13px;font-weight:600;fill:#1c2733}
.label{font-size:11px;fill:#56616d}.grid{stroke:#e3e7eb;stroke-width:1}.line{fill:none;stroke-width:2;stroke-linejoin:round}.goal{stroke-dasharray:5 4;stroke-width:1.5}
.c0{stroke:#1d66c2}.c1{stroke:#c4540a}.c2{stroke:#23803a}.c3{stroke:#6d35c2}.cg{stroke:#69737f}
.d0{fill:#1d66c2}.d1{fill:#c4540a}.d2{fill:#23803a}.d3{fill:#6d35c2}
@media(prefers-color-scheme:dark){.ground{fill:#14191f}.head,.title{fill:#e8edf2}.label{fill:#9aa6b2}.grid{stroke:#2b333c}
.c0{stroke:#6fa8f5}.c1{stroke:#f0945a}.c2{stroke:#69c681}.c3{stroke:#b48cf2}.cg{stroke:#97a3b0}
.d0{fill:#6fa8f5}.d1{fill:#f0945a}.d2{fill:#69c681}.d3{fill:#b48cf2}}
</style>`

// chartColors is how many lines have a colour of their own.
const chartColors = 4

type chartDrawing struct{ out *bufio.Writer }

func (d *chartDrawing) f(format string, args ...any) { fmt.Fprintf(d.out, format, args...) }

func (d *chartDrawing) chart(c Chart) {
	var xs, ys []float64
	for _, l := range c.Lines {
		for _, p := range l.Points {
			xs, ys = append(xs, math.Log10(p.X)), append(ys, p.Y)
		}
	}
	d.f(`<text class="title" x="0" y="14">%s</text>`, escaped(c.Title))
	if len(xs) == 0 {
		return
	}
	low, high := slices.Min(xs), slices.Max(xs)
	if high-low < 0.1 {
		low, high = low-0.5, high+0.5
	}
	step := niceStep(slices.Max(ys))
	top := step * math.Max(1, math.Ceil(slices.Max(ys)/step))
	x := func(v float64) float64 {
		return chartLeft + (math.Log10(v)-low)/(high-low)*(chartWidth-chartLeft-chartRight-16)
	}
	y := func(v float64) float64 {
		return chartHeight - chartBottom - v/top*(chartHeight-chartBottom-chartTop)
	}
	for v := 0.0; v <= top*1.001; v += step {
		d.f(`<path class="grid" d="M%.1f %.1fH%.1f"/><text class="label" text-anchor="end" x="%.1f" y="%.1f">%s</text>`, chartLeft, y(v), chartWidth-chartRight, chartLeft-7, y(v)+4, Short(v))
	}
	for power := math.Ceil(low - 1e-9); power <= high+1e-9; power++ {
		v := math.Pow(10, power)
		d.f(`<text class="label" text-anchor="middle" x="%.1f" y="%.1f">%s</text>`, x(v), chartHeight-chartBottom+16, Short(v))
	}
	at := 0.0
	color := 0
	for _, l := range c.Lines {
		class := "cg goal"
		if !l.Goal {
			class = "c" + strconv.Itoa(color%chartColors)
		}
		d.f(`<path class="line %s" d="M%.1f 30h20"/><text class="label" x="%.1f" y="34">%s</text>`, class, at, at+26, escaped(l.Name))
		at += 26 + textWidth(l.Name, smallSize) + 16
		path := ""
		for i, p := range l.Points {
			verb := "L"
			if i == 0 {
				verb = "M"
			}
			path += fmt.Sprintf("%s%.1f %.1f", verb, x(p.X), y(p.Y))
		}
		d.f(`<path class="line %s" d="%s"/>`, class, path)
		if l.Goal {
			continue
		}
		for _, p := range l.Points {
			d.f(`<circle class="d%d" cx="%.1f" cy="%.1f" r="2.6"><title>%s: %s at %s</title></circle>`, color%chartColors, x(p.X), y(p.Y), escaped(l.Name), Short(p.Y), Short(p.X))
		}
		color++
	}
}

// niceStep is a distance of grid lines, of which about four reach most.
func niceStep(most float64) float64 {
	if most <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(most/4)))
	for _, m := range []float64{1, 2, 2.5, 5} {
		if most/4 <= m*power {
			return m * power
		}
	}
	return 10 * power
}

// Short writes a number for a label: 10k, 2.5M, 0.5.
func Short(v float64) string {
	for _, unit := range []struct {
		of   float64
		name string
	}{{1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if v >= unit.of*0.9999 {
			return strconv.FormatFloat(v/unit.of, 'g', 3, 64) + unit.name
		}
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}
