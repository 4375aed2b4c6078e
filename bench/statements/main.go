// Command statements prints what is stated of synthetic models, as JSON Lines
// that retrace record takes: for each of them six steps and a name, model-0 and
// on.
//
//	go run ./statements 3000 >statements.jsonl
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	lineagebench "github.com/retrace-ledger/retrace/lineage/bench"
)

func main() {
	if err := run(os.Stdout, os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "statements: %v\n", err)
		os.Exit(2)
	}
}

func run(w io.Writer, args []string) error {
	if len(args) != 1 {
		return errors.New("want the number of models")
	}
	models, err := strconv.Atoi(args[0])
	if err != nil || models < 1 {
		return fmt.Errorf("%q: want a number of models", args[0])
	}
	all, err := lineagebench.Statements(models)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(w)
	for _, of := range all {
		for _, s := range of {
			line, err := s.Encode()
			if err != nil {
				return err
			}
			out.Write(line)
			out.WriteByte('\n')
		}
	}
	return out.Flush()
}
