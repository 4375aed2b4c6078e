package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

//go:embed demo/weather.csv demo/pipeline
var demoFiles embed.FS

func (a *app) demoCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Tell the whole story on this machine, on real parts, in under a minute",
		Long: `Tell the whole story on this machine: a Git repository with a forecasting
pipeline, an OCI registry with two images, real weather measurements, three
versions of a model. Then ask what produced them, prove it, audit, delete, restore,
reproduce, and damage a copy. Every line that begins with $ is a command that you
can run too. It needs git and no network, and leaves everything in
./retrace-demo-N, or in --dir.`,
		Example: "  retrace demo",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			named := ""
			if f := cmd.Flag("dir"); f.Changed {
				named = f.Value.String()
			}
			root, err := demoDir(named)
			if err != nil {
				return cannot(err)
			}
			self, err := os.Executable()
			if err != nil {
				return cannot(err)
			}
			d := &demo{root: root, out: cmd.OutOrStdout(), self: self, start: time.Now()}
			if d.data, err = demoFiles.ReadFile("demo/weather.csv"); err != nil {
				return cannot(err)
			}
			d.secondData = func(data []byte) []byte { return data }
			d.thirdCode = addLag
			return d.run(cmd.Context())
		},
	}
}

// demoDir makes the folder of a demo: the one named, or the first of
// retrace-demo-1, -2, … that is free.
func demoDir(named string) (string, error) {
	if named != "" {
		path, err := filepath.Abs(named)
		if err != nil {
			return "", err
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return "", err
		}
		return path, os.Mkdir(path, 0o755)
	}
	for n := 1; ; n++ {
		path, err := filepath.Abs(fmt.Sprintf("retrace-demo-%d", n))
		if err != nil {
			return "", err
		}
		if err := os.Mkdir(path, 0o755); !errors.Is(err, fs.ErrExist) {
			return path, err
		}
	}
}

// demo is one telling of the story. Everything it shows is what commands
// printed.
type demo struct {
	root  string // absolute
	out   io.Writer
	self  string // this program
	start time.Time

	data []byte // the measurements
	// secondData and thirdCode make the second version's data out of the
	// first's, and the third version's features.star out of the second's.
	secondData func(data []byte) []byte
	thirdCode  func(code string) string

	bin      string // copy of this program, so that the tools of the steps stay
	registry string // host:port
	trainer  string // image by digest
	server   string
}

func (d *demo) path(elem ...string) string {
	return filepath.Join(append([]string{d.root}, elem...)...)
}

func (d *demo) run(ctx context.Context) (err error) {
	chapters := []struct {
		title string
		tell  func(context.Context) error
	}{
		{"A ledger, a Git repository with a pipeline, a registry with two images", d.prepare},
		{"Watch the repository and the registry", d.watch},
		{"Version 1 of the model: four steps, each a process, each recorded", d.first},
		{"Version 2: more data. Version 3: one line of code changed", d.others},
		{"What produced version 3?", d.ask},
		{"Why does version 3 differ from version 1? What stands in the way of going back?", d.compare},
		{"Prove it to somebody who has the public key and nothing else", d.prove},
		{"Are these two images what was recorded, and signed?", d.audit},
		{"Delete the working folder. Restore version 1 and run its steps again", d.restore},
		{"Flip one byte in a copy of the ledger", d.damage},
	}
	if err := d.copySelf(); err != nil {
		return cannot(err)
	}
	stop, err := d.startRegistry()
	if err != nil {
		return cannot(err)
	}
	defer func() { err = errors.Join(err, stop()) }()
	for i, c := range chapters {
		fmt.Fprintf(d.out, "\n%d. %s\n\n", i+1, d.bold(c.title))
		if err := c.tell(ctx); err != nil {
			return cannot(fmt.Errorf("demo, part %d: %w", i+1, err))
		}
	}
	d.farewell()
	return nil
}

func (d *demo) bold(s string) string {
	if colour(d.out) {
		return "\x1b[1m" + s + "\x1b[0m"
	}
	return s
}

// copySelf puts this program where it stays: `go run` deletes its own, and the
// steps name it by path and digest.
func (d *demo) copySelf() error {
	if err := os.Mkdir(d.path("bin"), 0o755); err != nil {
		return err
	}
	d.bin = d.path("bin", "retrace")
	return copyFile(d.self, d.bin, 0o755)
}

func copyFile(from, to string, mode fs.FileMode) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	_, err = io.Copy(out, in)
	return err
}

// retrace shows and runs a command of this program in dir, on the demo's
// ledger. want are the exit statuses that let the story go on.
func (d *demo) retrace(ctx context.Context, dir string, want []int, args ...string) error {
	fmt.Fprintf(d.out, "$ retrace %s\n", shellLine(d.shorten(args)))
	return d.exec(ctx, dir, want, d.bin, args...)
}

func (d *demo) exec(ctx context.Context, dir string, want []int, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "RETRACE_DIR="+d.path("ledger"), "RETRACE_SERVER=", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1")
	cmd.Stdout, cmd.Stderr = d.out, d.out
	err := cmd.Run()
	var ended *exec.ExitError
	status := 0
	if errors.As(err, &ended) {
		status = ended.ExitCode()
	} else if err != nil {
		return err
	}
	for _, w := range want {
		if status == w {
			return nil
		}
	}
	return fmt.Errorf("%s %s ended with status %d", filepath.Base(name), strings.Join(args, " "), status)
}

// shorten shows paths below the demo's folder relative to it.
func (d *demo) shorten(args []string) []string {
	out := make([]string, len(args))
	for i, a := range args {
		out[i] = strings.ReplaceAll(a, d.bin, "retrace")
		out[i] = strings.ReplaceAll(out[i], d.root+string(filepath.Separator), "")
	}
	return out
}

// shellLine quotes words for a shell where they need it.
func shellLine(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = w
		if w == "" || strings.ContainsAny(w, " \t\n'\"$`\\*?[]{}()<>|&;#~!") {
			quoted[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
	}
	return strings.Join(quoted, " ")
}

func (d *demo) farewell() {
	fmt.Fprintf(d.out, "\n%s in %s. The ledger stays in %s. To go on:\n\n", d.bold("Done"), time.Since(d.start).Round(100*time.Millisecond), d.root)
	shown, err := filepath.Rel(workingDir(), d.root)
	if err != nil || strings.HasPrefix(shown, "..") {
		shown = d.root
	} else {
		shown = "." + string(filepath.Separator) + shown
	}
	retrace := shellLine([]string{filepath.Join(shown, "bin", "retrace")})
	if !strings.HasPrefix(retrace, "'") && !filepath.IsAbs(retrace) {
		retrace = "." + string(filepath.Separator) + retrace
	}
	ledger := shellLine([]string{filepath.Join(shown, "ledger")})
	fmt.Fprintf(d.out, "  %s --dir %s show forecast@3\n", retrace, ledger)
	fmt.Fprintf(d.out, "  %s --dir %s lineage forecast@1 --tools\n", retrace, ledger)
	fmt.Fprintf(d.out, "  %s --dir %s log\n\n", retrace, ledger)
}

func workingDir() string {
	dir, err := os.Getwd()
	if err != nil {
		return "."
	}
	return dir
}
