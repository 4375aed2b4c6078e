package run

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/retrace-ledger/retrace/schema"
)

// EnvRun is the variable in which a command finds the ID of the run that it is
// part of, so that a run inside it is linked to it.
const EnvRun = "RETRACE_RUN"

// Prepared is a run whose inputs and code were looked at and kept. The command
// has not run yet.
type Prepared struct {
	Run string // its ID

	store    Store
	opts     Options
	env      []string
	dir      string // working directory, absolute and without links
	root     string // working root, the same
	worktree *Worktree
	tool     string // resolved argv[0], absolute

	inputs, outputs []*target
	metrics         *target
	deps            []schema.Descriptor // but for inputs
	extra           []schema.Statement  // the commit
	gaps            []schema.GapFact
}

// target is a declared path.
type target struct {
	path    string // absolute
	name    string // as recorded: relative to the working root, or absolute
	outside bool   // of the working root

	key   schema.Key // what it holds: of an input before, of an output after
	files []schema.SnapshotFile
	exec  bool
	host  string // where the bytes are if they could not be kept; else empty

	before  schema.Key  // of an output; empty if it was not there
	stat    fs.FileInfo // of the metrics file before; nil if it was not there
	inner   []string    // outputs inside this input
	settled schema.Key  // of an input with inner, without them

	producer string // run that made it, if known
}

// Prepare checks what is to be run, keeps inputs, commit and uncommitted
// changes in store, and looks at what the outputs hold before. It refuses,
// before anything runs, whatever would put a secret into the ledger, with an
// error that is a *[SecretError].
func Prepare(ctx context.Context, store Store, opts Options) (*Prepared, error) {
	p := &Prepared{Run: newID(), store: store, opts: opts, env: opts.Env}
	if p.env == nil {
		p.env = os.Environ()
	}
	for _, step := range []func(context.Context) error{
		p.checkOptions, p.findRoot, p.findPaths, p.checkSecrets, p.findTool,
		p.keepInputs, p.lookAtOutputs, p.keepCode, p.addTool, p.addImage, p.addParameters, p.rehearse,
	} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// newID is a random run ID.
func newID() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func (p *Prepared) gap(rule, format string, args ...any) {
	detail := strings.ToValidUTF8(fmt.Sprintf(format, args...), "\uFFFD")
	p.gaps = append(p.gaps, schema.GapFact{Rule: rule, Detail: detail})
}

// Limits that keep what is recorded of a run within one envelope.
const (
	maxPaths      = 2048
	maxParameters = 512 << 10 // bytes of command, paths, parameters and environment
	maxInline     = 64 << 10  // bytes of parameters that are carried inline once more
)

func (p *Prepared) checkOptions(context.Context) error {
	if len(p.opts.Argv) == 0 || p.opts.Argv[0] == "" {
		return errors.New("no command to run")
	}
	for i, arg := range p.opts.Argv {
		if !utf8.ValidString(arg) {
			return fmt.Errorf("argument %d, %q, is not UTF-8, so it cannot be recorded", i, arg)
		}
	}
	if n := len(p.opts.Inputs) + len(p.opts.Outputs); n > maxPaths {
		return fmt.Errorf("%d inputs and outputs; the limit is %d: declare the folders that hold them", n, maxPaths)
	}
	m := p.opts.Model
	if m == nil {
		return nil
	}
	if err := m.check(); err != nil {
		return err
	}
	if m.Path == "" && len(p.opts.Outputs) != 1 {
		return fmt.Errorf("which of %d outputs is the model %s? Say --model %s=PATH", len(p.opts.Outputs), m.Name, m.Name)
	}
	return nil
}

// findRoot settles the working directory and the working root.
func (p *Prepared) findRoot(ctx context.Context) error {
	dir := p.opts.Dir
	if dir == "" {
		dir = "."
	}
	abs, err := filepath.Abs(dir)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	if err != nil {
		return fmt.Errorf("finding the working directory: %w", err)
	}
	p.dir, p.root = abs, abs
	if p.opts.Git == nil {
		return nil
	}
	p.worktree, err = p.opts.Git.Head(ctx, abs)
	if err != nil {
		return fmt.Errorf("reading the state of Git in %s: %w", abs, err)
	}
	if p.worktree == nil {
		return nil
	}
	if p.root, err = filepath.EvalSymlinks(p.worktree.Root); err != nil {
		return fmt.Errorf("finding the Git worktree: %w", err)
	}
	return nil
}

// target settles one declared path.
func (p *Prepared) target(path string) *target {
	abs := path
	if !filepath.IsAbs(abs) {
		abs = filepath.Join(p.dir, path)
	}
	abs = filepath.Clean(abs)
	t := &target{path: abs}
	if name, ok := below(p.root, abs); ok {
		t.name = name
		return t
	}
	// The same place may have been written another way, through a link.
	if real, err := filepath.EvalSymlinks(filepath.Dir(abs)); err == nil {
		if name, ok := below(p.root, filepath.Join(real, filepath.Base(abs))); ok {
			t.name = name
			return t
		}
	}
	t.name, t.outside = filepath.ToSlash(abs), true
	return t
}

// below returns path relative to root, with slashes, if it lies below it or is
// it.
func below(root, path string) (string, bool) {
	rel, err := filepath.Rel(root, path)
	if err != nil || rel == ".." || strings.HasPrefix(rel, ".."+string(filepath.Separator)) {
		return "", false
	}
	return filepath.ToSlash(rel), true
}

// findPaths settles all declared paths. What is declared twice counts once.
func (p *Prepared) findPaths(context.Context) error {
	settle := func(paths []string) (out []*target) {
		for _, path := range paths {
			t := p.target(path)
			if !slices.ContainsFunc(out, func(o *target) bool { return o.name == t.name }) {
				out = append(out, t)
			}
		}
		return out
	}
	outputs := p.opts.Outputs
	if m := p.opts.Model; m != nil && m.Path != "" {
		outputs = append(slices.Clone(outputs), m.Path)
	}
	p.inputs, p.outputs = settle(p.opts.Inputs), settle(outputs)
	if p.opts.Metrics != "" {
		p.metrics = p.target(p.opts.Metrics)
	}
	for _, t := range p.inputs {
		if t.outside {
			p.gap("outside-root", "input %s", t.name)
		}
		for _, out := range p.outputs {
			if _, ok := below(t.path, out.path); ok && out.path != t.path {
				t.inner = append(t.inner, out.path)
			}
		}
	}
	for _, t := range p.outputs {
		if t.outside {
			p.gap("outside-root", "output %s", t.name)
		}
	}
	return nil
}

// findTool resolves argv[0] as the system will.
func (p *Prepared) findTool(context.Context) error {
	argv0 := p.opts.Argv[0]
	path := argv0
	if strings.ContainsRune(argv0, '/') || strings.ContainsRune(argv0, filepath.Separator) {
		if !filepath.IsAbs(path) {
			path = filepath.Join(p.dir, path)
		}
	}
	found, err := exec.LookPath(path)
	if err != nil {
		return commandError(argv0, err)
	}
	if p.tool, err = filepath.Abs(found); err != nil {
		return commandError(argv0, err)
	}
	return nil
}

// commandError gives err the exit status that shells give it (POSIX, Shell
// Command Language, 2.8.2).
func commandError(argv0 string, err error) error {
	code := 126
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, exec.ErrDot) {
		code = 127
	}
	var ee *exec.Error
	if errors.As(err, &ee) {
		err = ee.Err
	}
	return &CommandError{Argv0: argv0, Code: code, Err: err}
}

// keepInputs keeps the inputs as they are before the command.
func (p *Prepared) keepInputs(ctx context.Context) error {
	for _, t := range p.inputs {
		if err := p.keep(ctx, t); err != nil {
			return fmt.Errorf("input: %w", err)
		}
		if len(t.inner) == 0 {
			continue
		}
		var err error
		if t.settled, _, err = p.store.Digest(ctx, t.path, t.inner...); err != nil {
			return fmt.Errorf("input: %w", err)
		}
	}
	return nil
}

// keep puts what is at t into the store.
func (p *Prepared) keep(ctx context.Context, t *target) error {
	key, files, err := p.store.PutFiles(ctx, t.path)
	if err != nil {
		return err
	}
	t.hold(key, files)
	return nil
}

func (t *target) hold(key schema.Key, files []schema.SnapshotFile) {
	t.key, t.files = key, files
	t.exec = key.Algorithm() == schema.SHA256 && len(files) == 1 && files[0].Exec
}

// lookAtOutputs notes what the outputs hold before the command.
func (p *Prepared) lookAtOutputs(ctx context.Context) error {
	for _, t := range p.outputs {
		key, _, err := p.store.Digest(ctx, t.path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("output: %w", err)
		}
		t.before = key
	}
	if p.metrics == nil {
		return nil
	}
	info, err := os.Stat(p.metrics.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("metrics file: %w", err)
	}
	p.metrics.stat = info
	return nil
}

// addTool records the program. One that lies in the working root is kept, for
// nobody else has it.
func (p *Prepared) addTool(ctx context.Context) error {
	t := p.target(p.tool)
	d := schema.Descriptor{Name: filepath.ToSlash(p.tool), Annotations: map[string]any{schema.AnnotationRole: schema.RoleTool}}
	if t.outside {
		key, _, err := p.store.Digest(ctx, t.path)
		if err != nil {
			return fmt.Errorf("digesting the program: %w", err)
		}
		d.Digest = digestSet(key)
	} else {
		if err := p.keep(ctx, t); err != nil {
			return fmt.Errorf("keeping the program: %w", err)
		}
		d = t.descriptor(schema.RoleTool)
	}
	p.deps = append(p.deps, d)
	return nil
}

// pinned matches an image reference by digest.
var pinned = regexp.MustCompile(`^(.+)@sha256:([0-9a-f]{64})$`)

// addImage records the image. One that is named by tag has no digest: which
// bytes it stood for is then anybody's guess, and a gap.
func (p *Prepared) addImage(context.Context) error {
	ref := strings.TrimPrefix(p.opts.Image, "oci://")
	if ref == "" {
		return nil
	}
	d := schema.Descriptor{
		Name: ref, URI: "oci://" + ref,
		Annotations: map[string]any{schema.AnnotationRole: schema.RoleImage, schema.AnnotationKind: "oci"},
	}
	if m := pinned.FindStringSubmatch(ref); m != nil {
		repository := m[1]
		if slash, colon := strings.LastIndexByte(repository, '/'), strings.LastIndexByte(repository, ':'); colon > slash {
			repository = repository[:colon]
		}
		d.URI, d.Digest = "oci://"+repository, schema.DigestSet{schema.SHA256: m[2]}
	}
	p.deps = append(p.deps, d)
	return nil
}

// addParameters records the parameters as a resource, so that steps with the
// same ones meet.
func (p *Prepared) addParameters(context.Context) error {
	if len(p.opts.Params) == 0 {
		return nil
	}
	raw, err := schema.Canonical(p.opts.Params)
	if err != nil {
		return fmt.Errorf("recording the parameters: %w", err)
	}
	d := schema.Descriptor{
		Name: "parameters", Digest: digestSet(schema.BytesKey(raw)), MediaType: "application/json",
		Annotations: map[string]any{schema.AnnotationRole: schema.RoleParams, schema.AnnotationKind: "parameters"},
	}
	if len(raw) <= maxInline {
		d.Content = raw
	}
	p.deps = append(p.deps, d)
	return nil
}

// rehearse builds the statement of a run that made nothing, so that what
// cannot be recorded is found before the command runs and not after.
func (p *Prepared) rehearse(context.Context) error {
	raw, err := schema.Canonical(p.parameters())
	if err != nil {
		return fmt.Errorf("this command could not be recorded: %w", err)
	}
	if len(raw) > maxParameters {
		return fmt.Errorf("command, paths, parameters and environment have %d bytes; the limit is %d", len(raw), maxParameters)
	}
	if _, err := p.step(Ended{Started: now(), Finished: now()}, nil, nil, nil); err != nil {
		return fmt.Errorf("this command could not be recorded: %w", err)
	}
	return nil
}
