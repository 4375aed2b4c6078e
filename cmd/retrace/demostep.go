package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	starjson "go.starlark.net/lib/json"
	starmath "go.starlark.net/lib/math"
	"go.starlark.net/starlark"
	"go.starlark.net/syntax"
)

// demoStepCmd runs one script of the demo's pipeline. The scripts are
// Starlark, so that the demo has real code in a real repository and needs no
// interpreter but this program.
func demoStepCmd() *cobra.Command {
	return &cobra.Command{
		Use:    "demo-step SCRIPT [ARG…]",
		Short:  "Run a script of the demo's pipeline",
		Hidden: true,
		Args:   cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return runScript(args[0], args[1:])
		},
	}
}

// runScript executes a Starlark file with args, read, write, json and math.
func runScript(file string, args []string) error {
	list := starlark.NewList(nil)
	for _, a := range args {
		if err := list.Append(starlark.String(a)); err != nil {
			return err
		}
	}
	globals := starlark.StringDict{
		"args":  list,
		"read":  starlark.NewBuiltin("read", scriptRead),
		"write": starlark.NewBuiltin("write", scriptWrite),
		"json":  starjson.Module,
		"math":  starmath.Module,
	}
	thread := &starlark.Thread{Name: file, Print: func(_ *starlark.Thread, msg string) { fmt.Println(msg) }}
	_, err := starlark.ExecFileOptions(&syntax.FileOptions{}, thread, file, nil, globals)
	return err
}

func scriptRead(_ *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	var path string
	if err := starlark.UnpackPositionalArgs(b.Name(), args, kwargs, 1, &path); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(path)
	return starlark.String(text), err
}

func scriptWrite(_ *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	var path, text string
	if err := starlark.UnpackPositionalArgs(b.Name(), args, kwargs, 2, &path, &text); err != nil {
		return nil, err
	}
	return starlark.None, os.WriteFile(path, []byte(text), 0o644)
}
