package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retrace-ledger/retrace/ingest/oci"
	"github.com/retrace-ledger/retrace/ingest/run"
	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
)

// exitRunFailed is the exit status of `retrace run` where retrace itself
// failed, as env and nohup have it.
const exitRunFailed = 125

type runFlags struct {
	inputs, outputs, params, secrets []string
	model, metrics, image            string
	move                             bool
}

func (a *app) runCmd() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run [--in PATH] [--out PATH] [--model NAME] -- COMMAND…",
		Short: "Run one step and record it",
		Long: `Run a command and record it as a step: its inputs and outputs by digest (their
content is kept), the Git commit with uncommitted changes on top, the image if
given, the parameters, the command, part of the environment, when it ran and how
it ended. The ledger is not held while the command runs.

With --model, the output becomes a version of a model; without a version it is
the next integer. The same version with other bytes is refused unless --move.

What looks like a secret in parameters, arguments or environment stops the run
before it starts; --secret NAME passes a variable on and records that its value
was withheld.`,
		Example: `  retrace run --in data --out model.bin --model forecast -- python train.py
  retrace run --in model.bin --out metrics.json --metrics metrics.json -- python evaluate.py`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return runFailed(errors.New("no command given: put it behind --"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.run(context.WithoutCancel(cmd.Context()), cmd, f, args)
		},
	}
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().StringArrayVar(&f.inputs, "in", nil, "file or folder `PATH` that the command reads; may be repeated")
	cmd.Flags().StringArrayVar(&f.outputs, "out", nil, "file or folder `PATH` that the command writes; may be repeated")
	cmd.Flags().StringVar(&f.model, "model", "", "name the output `NAME[:VERSION][=PATH]`")
	cmd.Flags().StringArrayVar(&f.params, "param", nil, "parameter `NAME=VALUE`; may be repeated")
	cmd.Flags().StringVar(&f.metrics, "metrics", "", "JSON `FILE` of numbers that the command writes")
	cmd.Flags().StringArrayVar(&f.secrets, "secret", nil, "variable `NAME` whose value is withheld; may be repeated")
	cmd.Flags().StringVar(&f.image, "image", "", "image `REF` that the command runs in")
	cmd.Flags().BoolVar(&f.move, "move", false, "let an existing model version point at other bytes")
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return runFailed(err) })
	return cmd
}

// runFailed says that retrace itself failed.
func runFailed(err error) error { return &statusError{exitRunFailed, err} }

func (a *app) run(ctx context.Context, cmd *cobra.Command, f runFlags, argv []string) error {
	opts, err := f.options(ctx, argv)
	if err != nil {
		return runFailed(err)
	}
	place, err := a.runPlace(ctx)
	if err != nil {
		return runFailed(err)
	}
	defer place.close()
	opts.Exclude, opts.Git = place.exclude, gitWorktrees{}
	var b *book // opened when the command has ended
	defer func() {
		if b != nil {
			b.Close()
		}
	}()
	var openErr error
	opts.Producer = func(k schema.Key, path string) string {
		if b == nil && openErr == nil {
			b, openErr = a.open(ctx)
		}
		if openErr != nil {
			return ""
		}
		return producerOf(ctx, b, k, path)
	}
	result, err := run.Record(ctx, place.store, opts)
	var notRun *run.CommandError
	if errors.As(err, &notRun) {
		return &statusError{notRun.Code, err}
	}
	if err != nil {
		return runFailed(err)
	}
	if b == nil && openErr == nil {
		b, openErr = a.open(ctx)
	}
	if openErr != nil {
		return runFailed(fmt.Errorf("the command ended with status %d and was not recorded: %w", result.Exit, openErr))
	}
	err = b.recordRun(ctx, cmd, result, f.move)
	var taken *versionTakenError
	if errors.As(err, &taken) {
		return runFailed(fmt.Errorf("the run was recorded, and named no model version: %w", err))
	}
	if err != nil {
		return runFailed(fmt.Errorf("the command ended with status %d and was not recorded: %w", result.Exit, err))
	}
	if result.Exit != 0 {
		return &statusError{result.Exit, nil}
	}
	return nil
}

func (f runFlags) options(ctx context.Context, argv []string) (run.Options, error) {
	opts := run.Options{
		Argv: argv, Inputs: f.inputs, Outputs: f.outputs, Metrics: f.metrics, Secrets: f.secrets, Version: version(),
		Params: map[string]string{},
	}
	for _, p := range f.params {
		name, value, ok := strings.Cut(p, "=")
		if !ok || name == "" {
			return opts, fmt.Errorf("--param %s: want NAME=VALUE", p)
		}
		if _, again := opts.Params[name]; again {
			return opts, fmt.Errorf("--param %s is given twice", name)
		}
		opts.Params[name] = value
	}
	var err error
	if f.model != "" {
		if opts.Model, err = run.ParseModel(f.model); err != nil {
			return opts, err
		}
	}
	opts.Image, err = pinImage(ctx, f.image)
	return opts, err
}

// pinImage resolves a tag to the digest that it points at now.
func pinImage(ctx context.Context, ref string) (string, error) {
	if ref == "" || strings.Contains(ref, "@") {
		return ref, nil
	}
	key, found, err := oci.Registry{}.Resolve(ctx, ref)
	if err != nil {
		return "", fmt.Errorf("resolving --image %s: %w", ref, err)
	}
	if !found {
		return "", fmt.Errorf("resolving --image %s: there is no such image", ref)
	}
	repository := ref
	if i := strings.LastIndex(ref, ":"); i > strings.LastIndex(ref, "/") {
		repository = ref[:i]
	}
	return repository + "@" + string(key), nil
}

// producerOf is the newest run that made k at path. Bytes are not origin: equal
// ones made elsewhere may have nothing to do with this file, and then the use
// names no producer.
func producerOf(ctx context.Context, b *book, k schema.Key, path string) string {
	v, err := b.view(0, "")
	if err != nil {
		return ""
	}
	made, err := v.Producers(ctx, schema.Start{Key: k})
	if err != nil {
		return ""
	}
	for i := len(made) - 1; i >= 0; i-- {
		s := made[i].Step
		if s.Run != "" && slices.ContainsFunc(s.Generates, func(o schema.Output) bool { return o.Key == k && o.Path == path }) {
			return s.Run
		}
	}
	return ""
}

// maxNamingTries bounds how often a model version is chosen anew when another
// run took the one that was chosen.
const maxNamingTries = 64

// recordRun appends what a run left to record, and names the model version in
// the same batch: the cursor of the model's name moves with each version, so
// that two runs cannot take the same one. A version that is taken leaves the
// run recorded without a name, with a *versionTakenError: it happened.
func (b *book) recordRun(ctx context.Context, cmd *cobra.Command, r run.Result, move bool) error {
	label := ""
	var taken *versionTakenError
	for try := 0; ; try++ {
		statements, cursors := r.Statements, []schema.Cursor(nil)
		if r.Naming != nil {
			named, cursor, s, err := b.nameModel(ctx, r.Naming, move)
			if errors.As(err, &taken) {
				r.Naming = nil
				continue
			}
			if err != nil {
				return err
			}
			label = named
			statements = append(statements[:len(statements):len(statements)], s)
			cursors = append(cursors, cursor)
		}
		receipt, err := b.record(ctx, "run", statements, cursors...)
		if isConflict(err) && try < maxNamingTries {
			continue
		}
		if err != nil {
			return err
		}
		sayRecorded(cmd, r, label, receipt)
		if taken != nil {
			return taken
		}
		return nil
	}
}

// versionTakenError says that a model version points at other bytes already.
type versionTakenError struct {
	label      string
	have, made schema.Key
	entry      int64
}

func (e *versionTakenError) Error() string {
	return fmt.Sprintf("%s is already %s (entry %d), and this run made %s: choose another version, or give --move", e.label, e.have.Short(), e.entry, e.made.Short())
}

func sayRecorded(cmd *cobra.Command, r run.Result, label string, receipt schema.Receipt) {
	w := cmd.ErrOrStderr()
	step := receipt.Entries[len(r.Statements)-1].Index
	fmt.Fprintf(w, "retrace: recorded run:%s as step:%d", r.Run, step)
	if label != "" {
		fmt.Fprintf(w, ", made %s", label)
	}
	fmt.Fprintln(w)
	if r.NotNamed != "" {
		fmt.Fprintf(w, "retrace: no model version was named: %s\n", r.NotNamed)
	}
	for _, g := range r.Gaps {
		fmt.Fprintf(w, "retrace: gap %s: %s\n", g.Rule, printable(g.Detail))
	}
}

// nameModel chooses the version and returns its label, the cursor to move and
// the statement.
func (b *book) nameModel(ctx context.Context, n *run.Naming, move bool) (string, schema.Cursor, schema.Statement, error) {
	cursor := schema.Cursor{Source: schema.NameModel + ":" + n.Name}
	fail := func(err error) (string, schema.Cursor, schema.Statement, error) {
		return "", cursor, schema.Statement{}, err
	}
	var err error
	if cursor.From, err = b.log.Cursor(ctx, schema.DefaultNamespace, cursor.Source); err != nil {
		return fail(err)
	}
	count := 0
	if cursor.From != "" {
		if count, err = strconv.Atoi(cursor.From); err != nil {
			return fail(fmt.Errorf("cursor of %s: %w", cursor.Source, err))
		}
	}
	cursor.To = strconv.Itoa(count + 1)
	// After the cursor, not before: a version that another run takes now moves
	// the cursor, and this batch is refused instead of naming it again.
	if err := b.refresh(ctx); err != nil {
		return fail(err)
	}
	v, err := b.view(0, "")
	if err != nil {
		return fail(err)
	}
	version := n.Version
	moved := false
	if version == "" {
		version, err = nextVersion(v, n.Name)
	} else {
		moved, err = checkVersion(v, n, move)
	}
	if err != nil {
		return fail(err)
	}
	s, err := n.Statement(version, moved)
	return n.Name + "@" + version, cursor, s, err
}

// nextVersion is one more than the largest integer version of a model.
func nextVersion(v *lineage.View, name string) (string, error) {
	prefix := schema.ModelName(name, "")
	names, err := v.Names(prefix)
	if err != nil {
		return "", err
	}
	largest := 0
	for _, full := range names {
		if n, err := strconv.Atoi(strings.TrimPrefix(full, prefix)); err == nil && n > largest {
			largest = n
		}
	}
	return strconv.Itoa(largest + 1), nil
}

// checkVersion says whether an existing version would move to other bytes,
// which is refused unless asked for.
func checkVersion(v *lineage.View, n *run.Naming, move bool) (bool, error) {
	have, err := v.Name(schema.ModelName(n.Name, n.Version))
	if errors.Is(err, lineage.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if have.Key != n.Key && !move {
		return false, &versionTakenError{label: n.Name + "@" + n.Version, have: have.Key, made: n.Key, entry: have.Entry}
	}
	return have.Key != n.Key, nil
}
