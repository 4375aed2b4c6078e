package main

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify/audit"
)

const bundleReadme = `An audit by retrace, for whoever wants to check it with no network.

  audit.html   the verdicts, with pictures: open it in a browser
  audit.json   the same, for programs
  N-verdict.bundle, N-lineage.bundle
               the proof of workload N's verdict, and of what its lineage says

Get log.vkey, the public key of the ledger, from elsewhere than this file, and check
each proof with it:

  for f in *.bundle; do retrace verify "$f" --key log.vkey; done

What is only here is what the auditor's machine saw: that the cluster ran this, that
the manifests are these, that the registry has these signatures.
`

// writeAuditBundle writes all that an outside auditor needs into one zip file.
func writeAuditBundle(ctx context.Context, name string, b *book, verdicts []audit.WorkloadVerdict, entries []int64) error {
	v, err := b.view(0, "") // with the verdicts
	if err != nil {
		return err
	}
	var out bytes.Buffer
	z := zip.NewWriter(&out)
	add := func(name string, content []byte) error {
		w, err := z.Create(name)
		if err == nil {
			_, err = w.Write(content)
		}
		return err
	}
	page, err := renderAuditPage(ctx, v, b.origin(), verdicts, entries)
	if err != nil {
		return err
	}
	list := make([]workloadVerdictJSON, len(verdicts))
	for i := range verdicts {
		list[i] = workloadVerdictJSON{verdicts[i], entries[i]}
	}
	raw, err := json.MarshalIndent(map[string]any{"size": v.Size(), "workloads": list}, "", "  ")
	if err != nil {
		return err
	}
	if err := errors.Join(add("README.txt", []byte(bundleReadme)), add("audit.html", page), add("audit.json", raw)); err != nil {
		return err
	}
	for i, verdict := range verdicts {
		for part, ref := range auditProofs(verdict, entries[i]) {
			bundle, err := prove(ctx, b, v, ref, lineage.LineageOptions{})
			if err != nil {
				return fmt.Errorf("proving what is said of %s: %w", verdict.Workload, err)
			}
			raw, err := bundle.Marshal()
			if err != nil {
				return err
			}
			if err := add(fmt.Sprintf("%d-%s.bundle", i+1, part), raw); err != nil {
				return err
			}
		}
	}
	if err := z.Close(); err != nil {
		return err
	}
	return os.WriteFile(name, out.Bytes(), 0o600)
}

// auditProofs are what is proved of one verdict, where it is of a recorded state.
func auditProofs(v audit.WorkloadVerdict, entry int64) map[string]lineage.Ref {
	proofs := map[string]lineage.Ref{}
	if v.State != "" {
		proofs["lineage"] = lineage.Ref{Text: string(v.State), Start: schema.Start{Key: v.State}, Entry: -1}
	}
	if entry >= 0 {
		proofs["verdict"] = lineage.Ref{Text: fmt.Sprintf("entry:%d", entry), Entry: entry}
	}
	return proofs
}
