package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/retrace-ledger/retrace/ingest/git"
	"github.com/retrace-ledger/retrace/ingest/kube"
	"github.com/retrace-ledger/retrace/ingest/kubernetes"
	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify/audit"
)

// workloadAudit says which workloads are audited, and against what.
type workloadAudit struct {
	kubeconfig, context, cluster string
	namespaces                   []string
	workload, at                 string
	files                        []string
	repo, branch, html, bundle   string
}

func (w *workloadAudit) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&w.kubeconfig, "kubeconfig", "", "audit what runs in the cluster of this `FILE`")
	cmd.Flags().StringVar(&w.context, "context", "", "its `CONTEXT` (default the current one)")
	cmd.Flags().StringVar(&w.cluster, "cluster", "", "`NAME` of the cluster in the ledger (default the context's, or the only one)")
	cmd.Flags().StringArrayVar(&w.namespaces, "namespace", nil, "only this `NAMESPACE`; may be repeated")
	cmd.Flags().StringVar(&w.workload, "workload", "", "audit what the ledger saw this `WORKLOAD` run: CLUSTER/NAMESPACE/KIND/NAME")
	cmd.Flags().StringVar(&w.at, "at", "", "with --workload: at this `TIME`")
	cmd.Flags().StringArrayVarP(&w.files, "filename", "f", nil, "audit the images in this `FILE` or folder; with --kubeconfig, compare with it")
	cmd.Flags().StringVar(&w.repo, "repo", "", "compare with the manifests in this repository, by `URL`, at the commit deployed")
	cmd.Flags().StringVar(&w.branch, "branch", "main", "with --repo: the `BRANCH` that those commits have to be on")
	cmd.Flags().StringVar(&w.bundle, "bundle", "", "also write page, verdicts and proofs to this zip `FILE`")
	cmd.Flags().StringVar(&w.html, "html", "", "also write the verdicts as one page, with pictures, to this `FILE`")
}

// asks says whether workloads are to be audited.
func (w *workloadAudit) asks() bool { return w.kubeconfig != "" || w.workload != "" }

// run audits workloads and ends the command with the worst verdict.
func (w *workloadAudit) run(cmd *cobra.Command, a *app, auditor *audit.Auditor) error {
	ctx := cmd.Context()
	b, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer b.Close()
	v, err := b.view(0, w.at)
	if err != nil {
		return err
	}
	records := &imageRecords{v: v}
	auditor.Ledger, auditor.Models = records, records
	if err := heed(ctx, b, v, auditor); err != nil {
		return err
	}
	list, err := w.list(ctx, b, v)
	if err != nil {
		return cannot(err)
	}
	if w.repo != "" {
		if err := w.againstRepository(ctx, b, v, list); err != nil {
			return cannot(err)
		}
	}
	if len(w.files) > 0 {
		manifests, err := readManifests(w.files)
		if err != nil {
			return cannot(err)
		}
		for i := range list {
			list[i].compare(manifests, strings.Join(w.files, ", "))
		}
	}
	var verdicts []audit.WorkloadVerdict
	for _, one := range list {
		verdict, err := auditor.Workload(ctx, one.Workload)
		if err != nil {
			return cannot(err)
		}
		verdicts = append(verdicts, verdict)
	}
	entries, err := b.recordWorkloads(ctx, auditor.Policy, verdicts)
	if err != nil {
		return cannot(err)
	}
	if w.html != "" {
		page, err := renderAuditPage(ctx, v, b.origin(), verdicts, entries)
		if err == nil {
			err = os.WriteFile(w.html, page, 0o600)
		}
		if err != nil {
			return cannot(err)
		}
	}
	if w.bundle != "" {
		if err := writeAuditBundle(ctx, w.bundle, b, verdicts, entries); err != nil {
			return cannot(err)
		}
	}
	return a.printWorkloads(cmd, v.Size(), verdicts, entries)
}

// observed is a workload with the object that a cluster shows, if one was asked.
type observed struct {
	audit.Workload
	object []byte
}

// list is what is to be audited: from a cluster, or from the ledger's own history.
func (w *workloadAudit) list(ctx context.Context, b *book, v *lineage.View) ([]observed, error) {
	if w.workload != "" {
		one, err := b.recordedWorkload(ctx, v, strings.TrimPrefix(w.workload, schema.NameWorkload+":"))
		return []observed{{Workload: one}}, err
	}
	cluster, err := w.clusterName(v)
	if err != nil {
		return nil, err
	}
	watched, err := v.Names(schema.NameWorkload + ":" + cluster + "/")
	if err != nil {
		return nil, err
	}
	namespaces := w.namespaces
	if len(namespaces) == 0 {
		namespaces = []string{""}
	}
	var list []observed
	for _, namespace := range namespaces {
		running, odd, err := kubernetes.Read(ctx, kube.Settings{Kubeconfig: w.kubeconfig, Context: w.context}, cluster, namespace)
		if err != nil {
			return nil, err
		}
		for _, r := range running {
			one := observed{audit.Workload{Deployment: r.Deployment}, r.Object}
			if err := b.seen(ctx, v, &one.Workload, len(watched) > 0); err != nil {
				return nil, err
			}
			list = append(list, one)
		}
		for _, o := range odd {
			list = append(list, observed{Workload: audit.Workload{Deployment: schema.Deployment{Workload: cluster + "/" + o.Object}, Found: []audit.Reason{
				{Check: audit.CheckState, Result: audit.Unknown, Entry: -1, Detail: "it could not be read: " + o.Reason.Error()}}}})
		}
	}
	if len(list) == 0 {
		return nil, errors.New("nothing runs there: an audit of nothing passes nothing")
	}
	return list, nil
}

// clusterName is how the ledger knows the cluster.
func (w *workloadAudit) clusterName(v *lineage.View) (string, error) {
	if w.cluster != "" {
		return w.cluster, nil
	}
	names, err := v.Names(schema.NameWorkload + ":")
	if err != nil {
		return "", err
	}
	known := map[string]bool{}
	for _, n := range names {
		cluster, _, _ := strings.Cut(strings.TrimPrefix(n, schema.NameWorkload+":"), "/")
		known[cluster] = true
	}
	switch {
	case w.context != "":
		return w.context, nil
	case len(known) == 1:
		return slices.Collect(maps.Keys(known))[0], nil
	}
	return "", &hinted{fmt.Errorf("the ledger knows %s: which one is it?", count(len(known), "cluster", "clusters")), "say --cluster NAME, as in kubernetes://NAME"}
}

// recordedWorkload is what the ledger saw a workload run at the view's time.
func (b *book) recordedWorkload(ctx context.Context, v *lineage.View, name string) (audit.Workload, error) {
	p, err := v.Name(schema.NameWorkload + ":" + name)
	if err != nil {
		return audit.Workload{}, err
	}
	d, err := b.deployment(ctx, p.Entry)
	if err != nil {
		return audit.Workload{}, err
	}
	w := audit.Workload{Deployment: d, State: p.Key}
	w.Found = append(w.Found, audit.Reason{Check: audit.CheckState, Result: audit.Note, Entry: p.Entry, Detail: fmt.Sprintf("as entry %d (%s) saw it at %s", p.Entry, p.Evidence, when(p.At))})
	return w, nil
}

func (b *book) deployment(ctx context.Context, index int64) (schema.Deployment, error) {
	var d schema.Deployment
	e, err := b.log.Entry(ctx, index)
	if err != nil {
		return d, err
	}
	s, err := e.Envelope.Statement()
	if err != nil {
		return d, fmt.Errorf("entry %d: %w", index, err)
	}
	return d, schema.DecodePredicate(s, true, &d)
}

// seen compares what runs with what the ledger saw last.
func (b *book) seen(ctx context.Context, v *lineage.View, w *audit.Workload, watched bool) error {
	add := func(result audit.Result, entry int64, format string, args ...any) {
		w.Found = append(w.Found, audit.Reason{Check: audit.CheckState, Result: result, Entry: entry, Detail: fmt.Sprintf(format, args...)})
	}
	p, err := v.Name(schema.NameWorkload + ":" + w.Workload)
	switch {
	case errors.Is(err, lineage.ErrNotFound) && watched:
		add(audit.Fail, -1, "the ledger watches this cluster and has no record of this workload")
		return nil
	case errors.Is(err, lineage.ErrNotFound):
		add(audit.Note, -1, "the ledger does not watch this cluster")
		return nil
	case err != nil:
		return err
	}
	d, err := b.deployment(ctx, p.Entry)
	if err != nil {
		return err
	}
	live, err := schema.Canonical(known(w.Deployment))
	if err != nil {
		return err
	}
	last, err := schema.Canonical(known(d))
	switch {
	case err != nil:
		return err
	case p.Evidence == schema.Claimed:
		add(audit.Unknown, p.Entry, "only a claim tells of it (entry %d)", p.Entry)
	case string(live) != string(last):
		add(audit.Unknown, p.Entry, "it runs something else than entry %d saw; whoever watches it has not seen this yet", p.Entry)
	default:
		w.State = p.Key
		add(audit.Pass, p.Entry, "as entry %d (%s) saw it at %s", p.Entry, p.Evidence, when(p.At))
	}
	return nil
}

// known is what counts of a state: who changed the object, and what was stated
// before, does not.
func known(d schema.Deployment) schema.Deployment {
	return schema.Deployment{Workload: d.Workload, UID: d.UID, Models: d.Models, Containers: d.Containers, Revision: d.Revision}
}

// againstRepository checks each workload against the commit that it was deployed
// from.
func (w *workloadAudit) againstRepository(ctx context.Context, b *book, v *lineage.View, list []observed) error {
	clone, err := git.NewFetcher(b.env()).Clone(ctx, w.repo)
	if err != nil {
		return err
	}
	defer clone.Close()
	manifests := map[string]map[string][]byte{}
	for i := range list {
		one := &list[i]
		add := func(result audit.Result, format string, args ...any) {
			one.Found = append(one.Found, audit.Reason{Check: audit.CheckCommit, Result: result, Entry: -1, Detail: fmt.Sprintf(format, args...)})
		}
		r := one.Revision
		if r == nil {
			add(audit.Unknown, "nobody says which commit it was deployed from")
			continue
		}
		on, err := clone.OnBranch(r.Commit, w.branch)
		switch {
		case err != nil:
			return err
		case !on:
			add(audit.Fail, "commit %s, which %s says it was deployed from, is not on %s of %s", r.Commit[:12], r.By, w.branch, clone.Repository())
		case r.Claimed:
			add(audit.Unknown, "commit %s is on %s, and only %s says that it was deployed from it", r.Commit[:12], w.branch, r.By)
		default:
			add(audit.Pass, "commit %s is on %s, and %s deployed it", r.Commit[:12], w.branch, r.By)
		}
		if by, ok, err := b.reverted(v, r.Commit); err != nil {
			return err
		} else if ok {
			one.Found = append(one.Found, audit.Reason{Check: audit.CheckCommit, Result: audit.Note, Entry: by, Detail: fmt.Sprintf("that commit put an earlier state back, as entry %d says", by)})
		}
		if one.object == nil || !clone.Has(r.Commit) {
			continue
		}
		if manifests[r.Commit] == nil {
			if manifests[r.Commit], err = clone.Manifests(r.Commit); err != nil {
				return err
			}
		}
		one.compare(manifests[r.Commit], "commit "+r.Commit[:12])
	}
	return nil
}

// reverted is the entry that says that a commit was a revert, if one does.
func (b *book) reverted(v *lineage.View, commit string) (int64, bool, error) {
	about, err := v.About(schema.Key(schema.GitCommit + ":" + commit))
	for _, e := range about {
		if e.PredicateType == schema.RestoreV1 && e.Source == "revert" && e.Evidence.Trusted() {
			return e.Index, true, err
		}
	}
	return -1, false, err
}

// compare checks the object against its manifest among files.
func (one *observed) compare(files map[string][]byte, where string) {
	add := func(result audit.Result, format string, args ...any) {
		one.Found = append(one.Found, audit.Reason{Check: audit.CheckManifest, Result: result, Entry: -1, Detail: fmt.Sprintf(format, args...)})
	}
	if one.object == nil {
		return
	}
	file, doc := findManifest(files, one.Workload.Workload)
	switch {
	case doc == nil:
		add(audit.Fail, "%s has no manifest of it", where)
	case kustomized(files, file):
		add(audit.Unknown, "%s in %s is set by Kustomize; compare with what it renders: kustomize build … | retrace audit --kubeconfig … -f -", file, where)
	default:
		differ, err := audit.Drift(doc, one.object)
		switch {
		case err != nil:
			add(audit.Unknown, "%s in %s: %v", file, where, err)
		case len(differ) > 0:
			add(audit.Fail, "it is not as %s in %s has it: %s", file, where, strings.Join(differ, "; "))
		default:
			add(audit.Pass, "it is as %s in %s has it", file, where)
		}
	}
}

// findManifest is the document of a workload among files, as JSON.
func findManifest(files map[string][]byte, workload string) (string, []byte) {
	parts := strings.Split(workload, "/") // CLUSTER/NAMESPACE/KIND/NAME
	if len(parts) != 4 {
		return "", nil
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		for _, text := range bytes.Split(append([]byte("\n"), files[name]...), []byte("\n---")) {
			var head struct {
				APIVersion string `json:"apiVersion"`
				Kind       string `json:"kind"`
				Metadata   struct {
					Name      string `json:"name"`
					Namespace string `json:"namespace"`
				} `json:"metadata"`
			}
			if yaml.Unmarshal(text, &head) != nil || head.APIVersion == "" || head.Kind != parts[2] || head.Metadata.Name != parts[3] {
				continue
			}
			if ns := head.Metadata.Namespace; ns != "" && ns != parts[1] {
				continue
			}
			if doc, err := yaml.YAMLToJSON(text); err == nil {
				return name, doc
			}
		}
	}
	return "", nil
}

// kustomized says whether a folder above file has a kustomization, so that what is
// deployed is not what the file says.
func kustomized(files map[string][]byte, file string) bool {
	for dir := path.Dir(file); ; dir = path.Dir(dir) {
		for _, base := range []string{"kustomization.yaml", "kustomization.yml"} {
			if _, ok := files[path.Join(dir, base)]; ok {
				return true
			}
		}
		if dir == "." || dir == "/" {
			return false
		}
	}
}

// readManifests reads files and the folders below those that are folders; "-" is
// standard input.
func readManifests(names []string) (map[string][]byte, error) {
	out := map[string][]byte{}
	for _, name := range names {
		info, err := os.Stat(name)
		if name == "-" || err == nil && !info.IsDir() {
			raw, err := readFileOrStdin(name, maxDocument)
			if err != nil {
				return nil, err
			}
			out[name] = raw
			continue
		}
		if err != nil {
			return nil, err
		}
		err = filepath.WalkDir(name, func(at string, d fs.DirEntry, err error) error {
			ext := filepath.Ext(at)
			if err != nil || d.IsDir() || ext != ".yaml" && ext != ".yml" && ext != ".json" {
				return err
			}
			out[filepath.ToSlash(at)], err = os.ReadFile(at)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: no manifests there", strings.Join(names, ", "))
	}
	return out, nil
}

// recordWorkloads appends a verification summary for each verdict that has one, and
// returns their entries: -1 for a verdict without.
func (b *book) recordWorkloads(ctx context.Context, policy audit.Policy, verdicts []audit.WorkloadVerdict) ([]int64, error) {
	entries := make([]int64, len(verdicts))
	for i, verdict := range verdicts {
		entries[i] = -1
		if b.observer == nil {
			continue
		}
		s, ok, err := policy.WorkloadStatement(verdict, thisVerifier(), time.Now())
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		receipt, err := b.record(ctx, "audit", []schema.Statement{s})
		if err != nil {
			return nil, err
		}
		entries[i] = receipt.Entries[0].Index
	}
	return entries, nil
}

func thisVerifier() schema.Verifier {
	return schema.Verifier{ID: schema.RunBuilder, Version: map[string]string{"retrace": version()}}
}

// origin is the name of the log.
func (b *book) origin() string {
	name, _, _ := strings.Cut(string(b.log.Checkpoint()), "\n")
	return name
}

type workloadVerdictJSON struct {
	audit.WorkloadVerdict
	Entry int64 `json:"entry"` // of the signed summary; -1 if there is none
}

func (a *app) printWorkloads(cmd *cobra.Command, size int64, verdicts []audit.WorkloadVerdict, entries []int64) error {
	var results []audit.Result
	out := []workloadVerdictJSON{}
	for i, v := range verdicts {
		results = append(results, v.Result)
		out = append(out, workloadVerdictJSON{v, entries[i]})
	}
	if a.output == "json" {
		if err := printJSON(cmd.OutOrStdout(), map[string]any{"size": size, "workloads": out}); err != nil {
			return err
		}
	} else {
		w := cmd.OutOrStdout()
		for _, v := range out {
			fmt.Fprintf(w, "%-7s  %s\n", v.Result, printable(v.Workload))
			printReasons(w, "  ", v.Reasons)
			for _, image := range v.Images {
				fmt.Fprintf(w, "  %-7s  %s  %s\n", image.Result, printable(image.Container), printable(image.Ref))
				printReasons(w, "    ", image.Reasons)
			}
			if v.Entry >= 0 {
				fmt.Fprintf(w, "  recorded as entry %d\n", v.Entry)
			}
		}
		speaksFor(cmd.ErrOrStderr(), size)
	}
	switch audit.Exit(results...) {
	case audit.ExitPass:
		return nil
	case audit.ExitFail:
		return isFalse(nil)
	}
	return cannot(errors.New("at least one workload could not be checked"))
}
