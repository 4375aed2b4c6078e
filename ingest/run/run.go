package run

import (
	"context"
	"fmt"
	"io"
	"maps"
	"strings"

	"github.com/retrace-ledger/retrace/schema"
)

// Store is where bytes are kept. *content.Store is one.
type Store interface {
	// PutFiles keeps the file or folder at path and says what it found.
	PutFiles(ctx context.Context, path string) (schema.Key, []schema.SnapshotFile, error)
	// Digest is the key that PutFiles would give, leaving out exclude.
	Digest(ctx context.Context, path string, exclude ...string) (schema.Key, []schema.SnapshotFile, error)
	Has(ctx context.Context, key schema.Key) (bool, error)
	// Alias makes key lead to the bytes of target.
	Alias(ctx context.Context, key, target schema.Key) error
}

// Git is what is asked of Git.
type Git interface {
	// Head describes the worktree that dir is in; nil if it is in none, or in
	// one without a commit.
	Head(ctx context.Context, dir string) (*Worktree, error)
	// Pack writes everything that checking commit out needs as a Git pack.
	Pack(ctx context.Context, dir, commit string, w io.Writer) error
	// Missing returns those of paths, relative to the worktree's root, that
	// are no files of the commit.
	Missing(ctx context.Context, dir, commit string, paths []string) ([]string, error)
}

// Worktree is the state of a Git worktree.
type Worktree struct {
	Root     string // absolute path
	Commit   string // checked out, in hex
	URI      string // of the repository, as entries name it
	Remote   string // URL of its remote as configured; empty if it has none
	OnRemote bool   // a remote-tracking branch holds the commit
	// Changed are the tracked files that differ from the commit and the
	// untracked ones that are not ignored, relative to Root with slashes.
	Changed []string
	// Deleted are the tracked files that are gone.
	Deleted []string
	// Statements describe the commit, and what files of it pin.
	Statements []schema.Statement
}

// Options of a run. Argv is required.
type Options struct {
	Argv []string
	// Dir is the working directory; empty for the process's.
	Dir string
	// Env is the environment; nil for the process's.
	Env []string
	// Stdin, Stdout and Stderr are the command's; nil for the process's.
	Stdin          io.Reader
	Stdout, Stderr io.Writer

	Inputs, Outputs []string // files or folders, absolute or relative to Dir
	Params          map[string]string
	Metrics         string   // file that the command writes: a JSON object of numbers and strings
	Secrets         []string // variables whose values are withheld
	Image           string   // the image that the command runs in
	Model           *Model

	// Exclude are paths that are never captured, such as the ledger's folder.
	Exclude []string
	// Git may be nil: then no commit is recorded.
	Git Git
	// Producer says which run made the bytes of an input where the input is, if
	// known; may be nil. The path is as recorded.
	Producer func(k schema.Key, path string) string
	// Version is that of the program that records.
	Version string
}

// Model asks for a version of a model to be named after the run.
type Model struct {
	Name    string
	Version string // empty for the next
	Path    string // one of the outputs; empty for the only one
}

// ParseModel reads NAME[:VERSION][=PATH].
func ParseModel(s string) (*Model, error) {
	m := &Model{}
	label, path, hasPath := strings.Cut(s, "=")
	name, version, hasVersion := strings.Cut(label, ":")
	m.Name, m.Version, m.Path = name, version, path
	if hasPath && path == "" || hasVersion && version == "" {
		return nil, fmt.Errorf("%q is not a model: want NAME, NAME:VERSION or NAME:VERSION=PATH", s)
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *Model) check() error {
	if err := schema.CheckModelName(m.Name); err != nil {
		return fmt.Errorf("model name: %w", err)
	}
	if strings.ContainsAny(m.Version, "@ \t\n") {
		return fmt.Errorf("%q is not a model version: no spaces, no @", m.Version)
	}
	return nil
}

// Result is what there is to record of a run.
type Result struct {
	Run  string // its ID
	Exit int    // as the shell would say it: 128+n for signal n
	// Statements are what to sign and append, in one batch: what the step used
	// first, the step itself last.
	Statements []schema.Statement
	// Naming is the model version to name in the same batch, if one was asked
	// for and the run made it.
	Naming *Naming
	// NotNamed says why there is no Naming though one was asked for.
	NotNamed string
	Gaps     []schema.GapFact
	Metrics  map[string]any
	Outputs  map[string]schema.Key // what was generated, by recorded path
}

// Naming is a model version that is to be named. Whoever holds the ledger
// chooses the version where none was given.
type Naming struct {
	Model
	Key     schema.Key
	Run     string
	Path    string // as recorded
	Metrics map[string]any
}

// Statement names the version. moved says that it pointed at other bytes
// before.
func (n *Naming) Statement(version string, moved bool) (schema.Statement, error) {
	return schema.NewStatement(schema.ModelV1, &schema.Model{
		Name: n.Name, Version: version, Run: n.Run, Path: n.Path, Moved: moved, Metrics: maps.Clone(n.Metrics),
	}, schema.Descriptor{Name: n.Name, Digest: digestSet(n.Key)})
}

func digestSet(k schema.Key) schema.DigestSet { return schema.DigestSet{k.Algorithm(): k.Hex()} }

// CommandError says that the command could not be run at all. Nothing ran and
// there is nothing to record.
type CommandError struct {
	Argv0 string
	Code  int // 126 if it cannot be run, 127 if it is not found, as shells say
	Err   error
}

func (e *CommandError) Error() string { return fmt.Sprintf("running %s: %v", e.Argv0, e.Err) }
func (e *CommandError) Unwrap() error { return e.Err }

// Record runs a command and returns what there is to record of it. An error
// means that nothing can be recorded; if the command ran, Result.Exit says how
// it ended all the same.
//
// Signals that end programs go to the command while it runs, so ctx should not
// be one that such a signal cancels.
func Record(ctx context.Context, store Store, opts Options) (Result, error) {
	p, err := Prepare(ctx, store, opts)
	if err != nil {
		return Result{}, err
	}
	ended, err := p.Exec(ctx)
	if err != nil {
		return Result{}, err
	}
	// What ran is recorded even where the caller has lost interest.
	return p.Finish(context.WithoutCancel(ctx), ended)
}
