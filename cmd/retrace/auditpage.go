package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"strings"
	"time"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/picture"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify/audit"
)

//go:embed auditpage.html
var auditPage string

// page is a report of verdicts that stands alone: no scripts, nothing loaded.
type page struct {
	Title, Date     string
	Version, Origin string
	Size            int64
	Workloads       []pageWorkload
}

type pageWorkload struct {
	workloadVerdictJSON
	Pictures []pagePicture
}

type pagePicture struct {
	Of  string
	SVG template.HTML
}

// renderAuditPage is the page of an audit.
func renderAuditPage(ctx context.Context, v *lineage.View, origin string, verdicts []audit.WorkloadVerdict, entries []int64) ([]byte, error) {
	t, err := template.New("audit").Parse(auditPage)
	if err != nil {
		return nil, err
	}
	p := page{Title: "Audit of " + count(len(verdicts), "workload", "workloads"), Date: time.Now().UTC().Format(time.RFC3339), Version: version(), Origin: origin, Size: v.Size()}
	for i, verdict := range verdicts {
		w := pageWorkload{workloadVerdictJSON: workloadVerdictJSON{verdict, entries[i]}}
		if w.Pictures, err = pictures(ctx, v, verdict); err != nil {
			return nil, err
		}
		p.Workloads = append(p.Workloads, w)
	}
	var out bytes.Buffer
	err = t.Execute(&out, p)
	return out.Bytes(), err
}

// pictures draws the lineage of a workload, or of each of its images where what
// runs is not a recorded state.
func pictures(ctx context.Context, v *lineage.View, verdict audit.WorkloadVerdict) ([]pagePicture, error) {
	of := []schema.Key{verdict.State}
	if verdict.State == "" {
		of = nil
		for _, image := range verdict.Images {
			of = append(of, image.Digest)
		}
	}
	var out []pagePicture
	for _, k := range of {
		if k == "" {
			continue
		}
		l, err := v.Lineage(ctx, lineage.Ref{Text: k.Short(), Start: schema.Start{Key: k}, Entry: -1}, lineage.LineageOptions{})
		if errors.Is(err, lineage.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var svg strings.Builder
		err = picture.SVG(&svg, l)
		var large *picture.TooLargeError
		switch {
		case errors.As(err, &large):
			out = append(out, pagePicture{Of: fmt.Sprintf("lineage of %s: %v", k.Short(), err)})
			continue
		case err != nil:
			return nil, err
		}
		out = append(out, pagePicture{"lineage of " + k.Short(), template.HTML(withoutProlog(svg.String()))}) //nolint:gosec // picture escapes what it draws
	}
	return out, nil
}

// withoutProlog is an SVG as it stands in HTML.
func withoutProlog(svg string) string {
	if i := strings.Index(svg, "<svg"); i > 0 {
		return svg[i:]
	}
	return svg
}
