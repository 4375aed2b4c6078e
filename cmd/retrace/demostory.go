package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// ok is the exit status that most commands of the story end with.
var ok = []int{0}

// prepare makes the ledger, the repository and the images.
func (d *demo) prepare(ctx context.Context) error {
	if err := d.retrace(ctx, d.root, ok, "--dir", d.path("ledger"), "init"); err != nil {
		return err
	}
	work := d.path("work")
	if err := os.MkdirAll(filepath.Join(work, "pipeline"), 0o755); err != nil {
		return err
	}
	scripts, err := fs.Glob(demoFiles, "demo/pipeline/*.star")
	if err != nil {
		return err
	}
	for _, name := range scripts {
		code, err := demoFiles.ReadFile(name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(work, "pipeline", filepath.Base(name)), code, 0o644); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(work, ".gitignore"), []byte("data/\nout/\n"), 0o644); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"init", "--quiet", "--initial-branch=main"},
		{"config", "user.name", "Demo"},
		{"config", "user.email", "demo@example.com"},
	} {
		if err := d.exec(ctx, work, ok, "git", args...); err != nil {
			return err
		}
	}
	if err := d.commit(ctx, "Forecast tomorrow's temperature"); err != nil {
		return err
	}
	return d.makeImages(ctx)
}

func (d *demo) commit(ctx context.Context, message string) error {
	fmt.Fprintf(d.out, "$ git commit -m %s\n", shellLine([]string{message}))
	if err := d.exec(ctx, d.path("work"), ok, "git", "add", "-A"); err != nil {
		return err
	}
	return d.exec(ctx, d.path("work"), ok, "git", "commit", "--quiet", "-m", message)
}

func (d *demo) watch(ctx context.Context) error {
	return d.retrace(ctx, d.path("work"), ok, "watch", "--once", ".", "oci://"+d.registry+"/demo/trainer", "oci://"+d.registry+"/demo/server")
}

// firstDays is how many days of the measurements the first version sees.
const firstDays = 1096

func (d *demo) first(ctx context.Context) error {
	if err := d.writeData(firstPart(d.data)); err != nil {
		return err
	}
	return d.pipeline(ctx)
}

// firstPart is the head line of the measurements and their first days.
func firstPart(data []byte) []byte {
	lines := bytes.SplitAfter(data, []byte("\n"))
	return bytes.Join(lines[:min(len(lines), firstDays+1)], nil)
}

func (d *demo) writeData(data []byte) error {
	if err := os.MkdirAll(d.path("work", "data"), 0o755); err != nil {
		return err
	}
	return os.WriteFile(d.path("work", "data", "weather.csv"), data, 0o644)
}

// pipeline runs the four steps under `retrace run`.
func (d *demo) pipeline(ctx context.Context) error {
	// A fresh folder: an output that a step finds there and does not change is
	// not its output.
	if err := os.RemoveAll(d.path("work", "out")); err != nil {
		return err
	}
	if err := os.MkdirAll(d.path("work", "out"), 0o755); err != nil {
		return err
	}
	steps := []struct{ flags, command []string }{
		{[]string{"--in", "data", "--out", "out/daily.csv"}, []string{"prepare.star", "data/weather.csv", "out/daily.csv"}},
		{[]string{"--in", "out/daily.csv", "--out", "out/features.csv"}, []string{"features.star", "out/daily.csv", "out/features.csv"}},
		{
			[]string{"--in", "out/features.csv", "--out", "out/model.json", "--model", "forecast", "--param", "ridge=0.1", "--image", d.trainer},
			[]string{"train.star", "out/features.csv", "out/model.json", "ridge=0.1"},
		},
		{
			[]string{"--in", "out/model.json", "--in", "out/features.csv", "--out", "out/metrics.json", "--metrics", "out/metrics.json"},
			[]string{"evaluate.star", "out/model.json", "out/features.csv", "out/metrics.json"},
		},
	}
	for _, s := range steps {
		args := append([]string{"run"}, s.flags...)
		args = append(args, "--", d.bin, "demo-step", "pipeline/"+s.command[0])
		if err := d.retrace(ctx, d.path("work"), ok, append(args, s.command[1:]...)...); err != nil {
			return err
		}
	}
	return nil
}

// addLag lets the features look at the day a week ago too.
func addLag(code string) string {
	return strings.Replace(code, "LAGS = [1, 2]", "LAGS = [1, 2, 7]", 1)
}

func (d *demo) others(ctx context.Context) error {
	if err := d.writeData(d.secondData(d.data)); err != nil {
		return err
	}
	if err := d.pipeline(ctx); err != nil {
		return err
	}
	file := d.path("work", "pipeline", "features.star")
	code, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	changed := d.thirdCode(string(code))
	if changed != string(code) {
		if err := os.WriteFile(file, []byte(changed), 0o644); err != nil {
			return err
		}
		if err := d.commit(ctx, "Look at other days too"); err != nil {
			return err
		}
	}
	if err := d.pipeline(ctx); err != nil {
		return err
	}
	return d.watch(ctx)
}

func (d *demo) ask(ctx context.Context) error {
	if err := d.retrace(ctx, d.root, ok, "models"); err != nil {
		return err
	}
	if err := d.retrace(ctx, d.root, ok, "lineage", "forecast@3"); err != nil {
		return err
	}
	return d.picture(ctx)
}

// picture writes the lineage of the third version as an SVG file.
func (d *demo) picture(ctx context.Context) (err error) {
	fmt.Fprintf(d.out, "$ retrace lineage forecast@3 -o svg >forecast-3.svg\n")
	f, err := os.Create(d.path("forecast-3.svg"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	quiet := *d
	quiet.out = f
	return quiet.exec(ctx, d.root, ok, d.bin, "lineage", "forecast@3", "-o", "svg")
}

func (d *demo) compare(ctx context.Context) error {
	if err := d.retrace(ctx, d.root, []int{0, 1}, "diff", "forecast@1", "forecast@3"); err != nil {
		return err
	}
	return d.retrace(ctx, d.root, ok, "gaps", "forecast@1")
}

func (d *demo) prove(ctx context.Context) error {
	if err := d.retrace(ctx, d.root, ok, "prove", "forecast@3", "--bundle", "forecast-3.bundle"); err != nil {
		return err
	}
	if err := copyFile(d.path("ledger", logVKeyFile), d.path(logVKeyFile), 0o644); err != nil {
		return err
	}
	return d.retrace(ctx, d.root, ok, "verify", "forecast-3.bundle", "--key", logVKeyFile)
}

func (d *demo) audit(ctx context.Context) error {
	list := d.trainer + "\n" + d.server + "\n"
	if err := os.WriteFile(d.path("running.txt"), []byte(list), 0o644); err != nil {
		return err
	}
	return d.retrace(ctx, d.root, []int{0, 1}, "audit", "--images", "running.txt", "--key", "cosign.pub")
}

func (d *demo) restore(ctx context.Context) error {
	fmt.Fprintf(d.out, "$ rm -r work\n")
	if err := os.RemoveAll(d.path("work")); err != nil {
		return err
	}
	if err := d.retrace(ctx, d.root, ok, "restore", "forecast@1", "--to", "restored"); err != nil {
		return err
	}
	return d.retrace(ctx, d.root, []int{0, 1}, "reproduce", "forecast@1", "--yes")
}

func (d *demo) damage(ctx context.Context) error {
	fmt.Fprintf(d.out, "$ cp -r ledger copy\n")
	if err := os.CopyFS(d.path("copy"), os.DirFS(d.path("ledger"))); err != nil {
		return err
	}
	file, offset, err := d.flip()
	if err != nil {
		return err
	}
	fmt.Fprintf(d.out, "(one bit of byte %d of %s is now another)\n", offset, strings.TrimPrefix(file, d.root+string(filepath.Separator)))
	return d.retrace(ctx, d.root, []int{1}, "--dir", d.path("copy"), "fsck")
}

// flip changes one bit in the middle of an envelope in the copy's store.
func (d *demo) flip() (string, int, error) {
	var file string
	offset := -1
	err := filepath.WalkDir(d.path("copy", "store"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || offset >= 0 {
			return err
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if at := bytes.LastIndex(raw, []byte(`"payload":"`)); at >= 0 {
			file, offset = path, at+200
			raw[offset] ^= 1
			return os.WriteFile(path, raw, 0o600)
		}
		return nil
	})
	if err == nil && offset < 0 {
		err = errors.New("found no envelope in the copy of the store")
	}
	return file, offset, err
}
