package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/sigstore/cosign/v2/pkg/cosign"

	"github.com/retrace-ledger/retrace/keys"
	"github.com/retrace-ledger/retrace/ledger/witness/witnesstest"
	"github.com/retrace-ledger/retrace/schema"
)

var update = flag.Bool("update", false, "rewrite what the scripts in testdata compare with")

// TestMain makes this test binary the retrace that the scripts execute, so
// that they run real processes of the code under test.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"retrace": main})
}

// TestScripts runs the stories in testdata, one a file, named after the
// command that they are about.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               setupScript,
		Condition:           condition,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":   scriptExits,
			"corrupt": scriptCorrupt,
			"json":    scriptJSON,
			"sign":    scriptSign,
			"witness": scriptWitness,

			"cosign-keys": scriptCosignKeys,
		},
	})
}

// setupScript makes what git and the clock say the same everywhere.
func setupScript(env *testscript.Env) error {
	env.Values[witnessKey{}] = new(witnesstest.Witness)
	env.Vars = append(env.Vars,
		"TZ=UTC",
		"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=ada@example.com", "GIT_AUTHOR_DATE=2026-11-03T14:00:00Z",
		"GIT_COMMITTER_NAME=Ada", "GIT_COMMITTER_EMAIL=ada@example.com", "GIT_COMMITTER_DATE=2026-11-03T14:00:00Z",
	)
	return nil
}

// condition knows two: [root], and [missing:PROGRAM], for scripts that skip
// for want of a program. RETRACE_TEST_NOSKIP=1 makes the want a failure.
func condition(name string) (bool, error) {
	program, isMissing := strings.CutPrefix(name, "missing:")
	switch {
	case name == "race":
		return raced, nil
	case name == "root":
		return os.Geteuid() == 0, nil
	case !isMissing:
		return false, fmt.Errorf("unknown condition %s", name)
	}
	_, err := exec.LookPath(program)
	if err != nil && os.Getenv("RETRACE_TEST_NOSKIP") == "1" {
		return false, err
	}
	return err != nil, nil
}

// scriptExits runs a command that has to end with this status:
//
//	exits 2 retrace verify missing.bundle --key log.vkey
func scriptExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS COMMAND…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		got = ended.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("%s ended with status %d, want %d", strings.Join(args[1:], " "), got, want)
	}
}

// scriptCorrupt flips a bit of one byte of a file: at an offset, counted from
// the end if negative, or behind the last place where a text stands. Of the
// files that a pattern matches, it takes the first that is long enough or has
// the text:
//
//	corrupt ledger/store/*.vlog 5000
//	corrupt model.bundle '"payload":"'
func scriptCorrupt(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: corrupt FILE OFFSET|TEXT")
	}
	files, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	for _, file := range files {
		raw, err := os.ReadFile(file)
		ts.Check(err)
		at, err := strconv.Atoi(args[1])
		if err != nil {
			if at = bytes.LastIndex(raw, []byte(args[1])); at >= 0 {
				at += len(args[1])
			}
		} else if at < 0 {
			at += len(raw)
		}
		if at < 0 || at >= len(raw) {
			continue
		}
		raw[at] ^= 1
		ts.Logf("flipped a bit of byte %d of %s", at, file)
		ts.Check(os.WriteFile(file, raw, 0o600))
		return
	}
	ts.Fatalf("no file %s has a byte at %s", args[0], args[1])
}

// scriptSign signs statements as somebody else does, each into a DSSE envelope
// beside it. The key is made on first use:
//
//	sign ci statement.json	# makes ci.key, ci.pub, statement.json.dsse
func scriptSign(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: sign NAME STATEMENT…")
	}
	file := ts.MkAbs(args[0] + ".key")
	k, err := keys.Load(file)
	if errors.Is(err, os.ErrNotExist) {
		k, err = keys.Generate()
		ts.Check(err)
		ts.Check(k.Create(file))
		public, err := k.PublicPEM()
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(args[0]+".pub"), []byte(public), 0o644))
	} else {
		ts.Check(err)
	}
	for _, name := range args[1:] {
		docs, err := schema.ParseDocument([]byte(ts.ReadFile(name)))
		ts.Check(err)
		env, err := k.SignStatement(docs[0].Statement)
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(name+".dsse"), env.Raw, 0o644))
	}
}

// scriptCosignKeys makes key files with cosign's own package and the password
// "correct horse": cosign.key and other.key as `cosign generate-key-pair` does,
// log-cosign.key as `cosign import-key-pair` does with an Ed25519 key.
func scriptCosignKeys(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: cosign-keys")
	}
	password := func(bool) ([]byte, error) { return []byte("correct horse"), nil }
	for _, name := range []string{"cosign.key", "other.key"} {
		pair, err := cosign.GenerateKeyPair(password)
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(name), pair.PrivateBytes, 0o600))
	}
	k, err := keys.Generate()
	ts.Check(err)
	ts.Check(k.Create(ts.MkAbs("log.pem")))
	pair, err := cosign.ImportKeyPair(ts.MkAbs("log.pem"), password)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs("log-cosign.key"), pair.PrivateBytes, 0o600))
}

// scriptJSON looks into JSON: the value at a path matches a pattern, or is
// kept in a variable. A number in a path is an index, len the length of a
// list.
//
//	json stdout models.0.name '^forecast$'
//	json stdout models.0.key -set KEY
func scriptJSON(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: json FILE PATH PATTERN | json FILE PATH -set VARIABLE")
	}
	var v any
	if err := json.Unmarshal([]byte(ts.ReadFile(args[0])), &v); err != nil {
		ts.Fatalf("%s is not JSON: %v", args[0], err)
	}
	got, ok := lookUp(v, strings.Split(args[1], "."))
	if args[2] == "-set" {
		if !ok {
			ts.Fatalf("%s: nothing at %s", args[0], args[1])
		}
		ts.Setenv(args[3], got)
		return
	}
	match, err := regexp.MatchString(args[2], got)
	ts.Check(err)
	if (ok && match) == neg {
		ts.Fatalf("%s: %s is %q (there: %v), pattern %s", args[0], args[1], got, ok, args[2])
	}
}

func lookUp(v any, path []string) (string, bool) {
	for _, step := range path {
		switch at := v.(type) {
		case map[string]any:
			next, ok := at[step]
			if !ok {
				return "", false
			}
			v = next
		case []any:
			if step == "len" {
				v = float64(len(at))
				continue
			}
			i, err := strconv.Atoi(step)
			if err != nil || i < 0 || i >= len(at) {
				return "", false
			}
			v = at[i]
		default:
			return "", false
		}
	}
	if s, ok := v.(string); ok {
		return s, true
	}
	raw, err := json.Marshal(v, json.Deterministic(true))
	return string(raw), err == nil
}
