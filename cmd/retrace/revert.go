package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strings"
	"time"

	"filippo.io/torchwood"
	"github.com/spf13/cobra"

	"github.com/retrace-ledger/retrace/graphql"
	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/git"
	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
)

const revertLong = `Put a recorded state of a GitOps repository back, as a new commit on top of a
branch: the whole tree, or --paths alone. History is never rewritten and nothing is
pushed by force. The state is that of --to (a commit, a branch or tag, or a workload:
the commit that it was deployed from), or the one that --branch had --at a TIME, as
the ledger knows it.

First everything that the old state needs is looked for: each image in its registry,
each model at its place, each submodule's commit. If something is gone, or a tag
points elsewhere than it did, nothing is pushed and the list is shown; --force pushes
all the same, and the commit and the ledger say so.

--plan shows the diff and the list. --push pushes to a new branch, or to the one that
--as names, and records what was done.`

type revertFlags struct {
	asked
	repo, branch, to, as, config string
	paths                        []string
	plan, push, force            bool
}

func (a *app) revertCmd() *cobra.Command {
	var f revertFlags
	cmd := &cobra.Command{
		Use:     "revert --repo URL --to REF --plan|--push",
		Short:   "Put a recorded state of a GitOps repository back, by a new commit",
		Long:    revertLong,
		Example: "  retrace revert --repo git+https://git.example.com/deploy --at '2h ago' --plan\n  retrace revert --repo git+https://git.example.com/deploy --to workload:prod/ml/Deployment/api \\\n    --at 2026-11-24 --paths apps/api --push",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			if f.to == "" && f.at == "" {
				return cannot(errors.New("which state? give --to REF, or --at TIME for what the branch was then"))
			}
			return a.revert(cmd, f)
		},
	}
	f.flags(cmd)
	cmd.Flags().StringVar(&f.repo, "repo", "", "`URL` of the repository, as `retrace watch` takes it")
	cmd.Flags().StringVar(&f.branch, "branch", "main", "`BRANCH` that the commit goes on top of")
	cmd.Flags().StringVar(&f.to, "to", "", "`REF` whose state is put back")
	cmd.Flags().StringArrayVar(&f.paths, "paths", nil, "put back this file or folder alone `PATH`; may be repeated")
	cmd.Flags().StringVar(&f.as, "as", "", "push to this `BRANCH`; --branch itself may be it (default a new one, revert-COMMIT)")
	cmd.Flags().StringVar(&f.config, "config", "", "retrace.yaml `FILE` with the credentials of places")
	cmd.Flags().BoolVar(&f.plan, "plan", false, "show what would be done, and change nothing")
	cmd.Flags().BoolVar(&f.push, "push", false, "push the commit, and record it")
	cmd.Flags().BoolVar(&f.force, "force", false, "push although something that the state needs is gone")
	cmd.MarkFlagRequired("repo")
	cmd.MarkFlagsOneRequired("plan", "push")
	cmd.MarkFlagsMutuallyExclusive("plan", "push")
	cmd.MarkFlagsMutuallyExclusive("plan", "force")
	return cmd
}

// reverter plans reverts for a server, of the repositories that it watches: any
// other address could be one that only the server can reach.
type reverter struct{ b *book }

// PlanRevert implements graphql.Reverts.
func (r *reverter) PlanRevert(ctx context.Context, v *lineage.View, q graphql.RevertQuery) (*graphql.RevertPlan, error) {
	if !slices.ContainsFunc(r.b.places(), func(p ingest.Place) bool { return git.SameRepository(p.URL, q.Repository) }) {
		return nil, &graphql.Error{Code: graphql.CodeForbidden, Field: "repository", Message: "this server does not watch " + q.Repository}
	}
	if strings.HasPrefix(q.To, ".") || strings.HasPrefix(q.To, "/") {
		return nil, &graphql.Error{Code: graphql.CodeBadInput, Field: "to", Message: "a path means something on the caller's machine only"}
	}
	clone, err := git.NewFetcher(r.b.env()).Clone(ctx, q.Repository)
	if err != nil {
		return nil, err
	}
	defer clone.Close()
	plan, err := r.b.planRevert(ctx, v, clone, revertFlags{branch: q.Branch, to: q.To, paths: q.Paths})
	if err != nil {
		return nil, err
	}
	out := &graphql.RevertPlan{Repository: plan.Repository, Branch: plan.Branch, Head: plan.Head, To: plan.To, Said: plan.Said, Diff: plan.Diff, Size: plan.Size}
	for _, f := range plan.Files {
		out.Files = append(out.Files, graphql.RevertFile(f))
	}
	for _, n := range plan.Needs {
		out.Needs = append(out.Needs, graphql.RevertNeed{Kind: n.Kind, Name: n.Name, Path: n.Path, Found: n.Found, Problem: n.Problem})
	}
	return out, nil
}

// reversion is a revert as it is planned, and what came of it.
type reversion struct {
	Repository string         `json:"repository"`
	Branch     string         `json:"branch"`
	Head       string         `json:"head"` // commit that the new one goes on top of
	To         string         `json:"to"`   // commit whose state is put back
	Ref        string         `json:"ref"`  // by which it was asked for
	Said       int64          `json:"said"` // entry that says that this was the state; -1 for a commit by itself
	Size       int64          `json:"size"` // of the ledger that it speaks for
	Files      []git.Reverted `json:"files"`
	Diff       string         `json:"diff"`
	Needs      []checkedNeed  `json:"needs"`
	Blocked    int            `json:"blocked"` // needs that are not met
	Commit     string         `json:"commit,omitempty"`
	Pushed     string         `json:"pushed,omitempty"` // branch
	Entry      int64          `json:"entry,omitempty"`  // that records it

	reversal *git.Reversal
}

func (a *app) revert(cmd *cobra.Command, f revertFlags) error {
	ctx := cmd.Context()
	b, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer b.Close()
	if f.config != "" {
		c, err := readConfig(f.config)
		if err != nil {
			return cannot(err)
		}
		places, err := c.places()
		if err != nil {
			return cannot(err)
		}
		b.places = fixed(places)
	}
	v, err := b.view(f.size, f.at)
	if err != nil {
		return err
	}
	clone, err := git.NewFetcher(b.env()).Clone(ctx, f.repo)
	if err != nil {
		return cannot(err)
	}
	defer clone.Close()
	r, err := b.planRevert(ctx, v, clone, f)
	if err != nil {
		return cannot(err)
	}
	if f.plan {
		if err := a.printRevert(cmd, r); err != nil {
			return err
		}
		return r.blocked()
	}
	if r.Blocked > 0 && !f.force {
		if err := a.printRevert(cmd, r); err != nil {
			return err
		}
		return r.blocked()
	}
	if len(r.Files) == 0 {
		if err := a.printRevert(cmd, r); err != nil {
			return err
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "retrace: nothing was pushed: %s is in that state already\n", f.branch)
		return nil
	}
	if err := b.pushRevert(ctx, clone, r, f); err != nil {
		return cannot(err)
	}
	return a.printRevert(cmd, r)
}

// blocked says that something which the state needs is gone.
func (r *reversion) blocked() error {
	if r.Blocked == 0 {
		return nil
	}
	return isFalse(&hinted{fmt.Errorf("%s of what that state needs %s not there as it was", count(r.Blocked, "thing", "things"), map[bool]string{true: "is", false: "are"}[r.Blocked == 1]), "--push --force pushes all the same, and the commit says so"})
}

// planRevert finds the state that is meant, what it changes, and whether what it
// needs is there.
func (b *book) planRevert(ctx context.Context, v *lineage.View, clone *git.Clone, f revertFlags) (*reversion, error) {
	r := &reversion{Repository: clone.Repository(), Branch: f.branch, Said: -1, Size: v.Size()}
	var err error
	if r.Head, err = clone.Branch(f.branch); err != nil {
		return nil, err
	}
	at := v.Time()
	if err := r.state(ctx, v, f, &at); err != nil {
		return nil, err
	}
	if !clone.Has(r.To) {
		return nil, fmt.Errorf("commit %s is on no branch or tag of %s any more", r.To, r.Repository)
	}
	if r.reversal, err = clone.PutBack(ctx, r.Head, r.To, f.paths); err != nil {
		return nil, err
	}
	r.Files, r.Diff = r.reversal.Files, r.reversal.Diff
	needs, err := clone.Needs(ctx, r.reversal)
	if err != nil {
		return nil, err
	}
	then, err := b.graph.View(lineage.At{Time: at, Size: v.Size()})
	if err != nil {
		return nil, err
	}
	for _, n := range needs {
		c := b.checkNeed(ctx, then, n)
		if c.Problem != "" {
			r.Blocked++
		}
		r.Needs = append(r.Needs, c)
	}
	return r, nil
}

// state finds the commit that is meant and, where no time was given, when it was
// live last.
func (r *reversion) state(ctx context.Context, v *lineage.View, f revertFlags, at *time.Time) error {
	r.Ref = f.to
	if f.to == "" {
		r.Ref = r.branchName()
		p, err := v.Name(r.Ref)
		if err != nil {
			return fmt.Errorf("what %s was then: %w", f.branch, err)
		}
		r.To, r.Said = p.Key.Hex(), p.Entry
		return nil
	}
	ref, err := resolve(ctx, v, f.to)
	if err != nil {
		return err
	}
	k := ref.Start.Key
	if r.Said = ref.Entry; ref.Name == "" {
		r.Said = -1
	}
	if k.Algorithm() != schema.GitCommit {
		up, _, err := v.Relations(ctx, k)
		if err != nil {
			return err
		}
		k = ""
		for _, rel := range up {
			if rel.Kind == schema.RelApplied {
				k, r.Said = rel.To, rel.Entry
			}
		}
		if k == "" {
			return fmt.Errorf("%s is no commit, and no entry says which one it was deployed from", refLabel(ref))
		}
	}
	r.To = k.Hex()
	if !at.IsZero() {
		return nil
	}
	*at, err = r.live(v, k)
	return err
}

// live is the last moment at which the branch was at commit, as the ledger knows
// it; zero if it is there now, or never was.
func (r *reversion) live(v *lineage.View, commit schema.Key) (time.Time, error) {
	history, err := v.History(r.branchName())
	if err != nil {
		return time.Time{}, err
	}
	var until time.Time
	for i, p := range history {
		if p.Key != commit || p.Deleted {
			continue
		}
		if r.Said < 0 {
			r.Said = p.Entry
		}
		if until = (time.Time{}); i+1 < len(history) {
			until = history[i+1].At.Add(-time.Nanosecond)
		}
	}
	return until, nil
}

// branchName is the name of the branch in the ledger.
func (r *reversion) branchName() string {
	return schema.NameGit + ":" + r.Repository + "#refs/heads/" + r.Branch
}

// pushRevert makes the commit, pushes it and records that.
func (b *book) pushRevert(ctx context.Context, clone *git.Clone, r *reversion, f revertFlags) error {
	branch := f.as
	if branch == "" {
		branch = "revert-" + r.To[:12]
	}
	if branch != f.branch {
		if _, err := clone.Branch(branch); err == nil {
			return fmt.Errorf("%s has a branch %s already; --as names another", r.Repository, branch)
		} else if !errors.Is(err, git.ErrNoBranch) {
			return err
		}
	}
	message, err := r.message(b.log.Checkpoint())
	if err != nil {
		return err
	}
	name, email := committer()
	if r.Commit, err = clone.Commit(r.reversal, name, email, message, time.Now()); err != nil {
		return err
	}
	if err := clone.Push(ctx, r.Commit, branch); err != nil {
		return err
	}
	r.Pushed = branch
	s, err := r.statement()
	if err != nil {
		return err
	}
	receipt, err := b.record(ctx, "revert", []schema.Statement{s})
	if err != nil {
		return fmt.Errorf("%s was pushed to %s, and could not be recorded: %w", r.Commit, branch, err)
	}
	r.Entry = receipt.Entries[0].Index
	return nil
}

// message is that of the commit.
func (r *reversion) message(note []byte) (string, error) {
	text, _, _ := strings.Cut(string(note), "\n\n") // our own log signed it
	checkpoint, err := torchwood.ParseCheckpoint(text + "\n")
	if err != nil {
		return "", fmt.Errorf("reading the newest checkpoint: %w", err)
	}
	var m strings.Builder
	what := "the state"
	if len(r.reversal.Paths) > 0 {
		what = strings.Join(r.reversal.Paths, ", ")
	}
	fmt.Fprintf(&m, "Put back %s of %s\n\n%s stood for it, as the ledger %s says.\n\n", what, r.To[:12], r.Ref, checkpoint.Origin)
	if r.Said >= 0 {
		fmt.Fprintf(&m, "Retrace-Entry: %d\n", r.Said)
	}
	fmt.Fprintf(&m, "Retrace-State: %s\nRetrace-Checkpoint: %s %d %s\n", r.To, checkpoint.Origin, checkpoint.N, checkpoint.Hash)
	for _, p := range r.problems() {
		fmt.Fprintf(&m, "Retrace-Forced: %s\n", strings.ReplaceAll(p, "\n", " "))
	}
	return m.String(), nil
}

func (r *reversion) problems() []string {
	var out []string
	for _, n := range r.Needs {
		if n.Problem != "" {
			out = append(out, n.Kind+" "+n.Name+": "+n.Problem)
		}
	}
	return out
}

// statement records the revert as a restoration whose subject is the new commit.
func (r *reversion) statement() (schema.Statement, error) {
	plan := sha256.Sum256([]byte(r.Diff))
	p := schema.Restore{Ref: r.Ref, Result: "COMPLETE", Plan: hex.EncodeToString(plan[:]), Size: r.Size, Checked: len(r.Needs), Problems: r.problems()}
	if len(p.Problems) > 0 {
		p.Result = "INCOMPLETE"
	}
	return schema.NewStatement(schema.RestoreV1, p,
		schema.Descriptor{Name: r.Pushed, URI: r.Repository, Digest: schema.DigestSet{schema.GitCommit: r.Commit}},
		schema.Descriptor{Name: "the state put back", URI: r.Repository, Digest: schema.DigestSet{schema.GitCommit: r.To}})
}

// committer is who Git says makes commits here, else who runs this.
func committer() (name, email string) {
	if name, email = git.Committer(); name != "" && email != "" {
		return name, email
	}
	name, host := "retrace", "localhost"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if h, err := os.Hostname(); err == nil {
		host = h
	}
	return name, name + "@" + host
}

func (a *app) printRevert(cmd *cobra.Command, r *reversion) error {
	w := cmd.OutOrStdout()
	if a.output == "json" {
		if r.Files == nil {
			r.Files = []git.Reverted{}
		}
		if r.Needs == nil {
			r.Needs = []checkedNeed{}
		}
		return printJSON(w, r)
	}
	t := newTable(w)
	t.row("repository", r.Repository)
	t.row("on top of", r.Branch+"  "+r.Head[:12])
	said := "asked for by itself"
	if r.Said >= 0 {
		said = fmt.Sprintf("says entry %d of %s", r.Said, r.Ref)
	}
	t.row("puts back", r.To[:12]+"  "+said)
	if err := t.flush(); err != nil {
		return err
	}
	if len(r.Needs) > 0 {
		t = newTable(w, "NEEDS", "NAME", "FOUND", "SAID IN")
		for _, n := range r.Needs {
			state := n.Found
			if n.Problem != "" {
				state = "MISSING: " + n.Problem
			}
			t.row(n.Kind, clipTo(n.Name, 90), state, n.Path)
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	switch {
	case r.Commit != "":
		fmt.Fprintf(w, "pushed %s to %s, recorded as entry %d\n", r.Commit, r.Pushed, r.Entry)
		for _, x := range r.Files {
			fmt.Fprintf(w, "  %s\n", printable(x.Path))
		}
	case len(r.Files) == 0:
		fmt.Fprintln(w, "nothing differs")
	default:
		for line := range strings.Lines(r.Diff) {
			fmt.Fprintln(w, printable(strings.TrimRight(line, "\r\n")))
		}
	}
	speaksFor(cmd.ErrOrStderr(), r.Size)
	return nil
}
