package run

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSecrets(t *testing.T) {
	t.Parallel()
	const gh = "ghp_012345678901234567890123456789012345"
	jwt := "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2lnbmF0dXJl"
	for _, test := range []struct {
		name   string
		argv   []string
		params map[string]string
		env    []string
		bad    bool
	}{
		{name: "a plain command", argv: []string{"python", "train.py", "--epochs=3", "--lr", "0.1"}},
		{name: "parameter by name", params: map[string]string{"api_token": "abcd1234efgh"}, bad: true},
		{name: "parameter by name, camel case", params: map[string]string{"dbPassword": "letmein"}, bad: true},
		{name: "parameter by value", params: map[string]string{"x": gh}, bad: true},
		{name: "a key", params: map[string]string{"key": "c0ffeec0ffeec0ffee99"}, bad: true},
		{name: "an access key", params: map[string]string{"access-key": "something"}, bad: true},
		{name: "a key of a table", params: map[string]string{"sort_key": "created_at"}},
		{name: "what only sounds like one", params: map[string]string{
			"max_tokens": "512", "tokenizer": "bert-base-uncased", "pad_token": "<pad>", "eos_token": "<|endoftext|>",
			"token": "42", "password_file": "/run/pw", "author": "me", "keyboard": "de", "use_token": "true", "mask_token": "[MASK]",
		}},
		{name: "option with =", argv: []string{"x", "--password=hunter2"}, bad: true},
		{name: "option and value", argv: []string{"x", "--password", "hunter2"}, bad: true},
		{name: "option without value", argv: []string{"x", "--password", "--verbose"}},
		{name: "assignment", argv: []string{"env", "DB_PASSWORD=hunter2", "x"}, bad: true},
		{name: "in a script", argv: []string{"sh", "-c", "export PGPASSWORD=x; PASSWORD=hunter2 psql"}, bad: true},
		{name: "computed in a script", argv: []string{"sh", "-c", "PASSWORD=$(cat pw) psql; curl --password $PW"}},
		{name: "header", argv: []string{"curl", "-H", "Authorization: Bearer abcdefghijkl"}, bad: true},
		{name: "JWT", argv: []string{"x", jwt}, bad: true},
		{name: "AWS", argv: []string{"x", "AKIAIOSFODNN7EXAMPLE"}, bad: true},
		{name: "PEM", argv: []string{"x", "-----BEGIN EC PRIVATE KEY-----\nabc"}, bad: true},
		{name: "a public key", argv: []string{"x", "-----BEGIN PUBLIC KEY-----\nabc"}},
		{name: "URL with password", argv: []string{"x", "postgres://me:pw@db/x"}, bad: true},
		{name: "URL with token for a name", argv: []string{"x", "https://x0123456789012345678901@example.org/r"}, bad: true},
		{name: "URL with a user", argv: []string{"x", "ssh://git@example.org/r", "git@example.org:r", "https://example.org/@scope/p"}},
		{name: "recorded variable", env: []string{"XLA_FLAGS=--token " + gh}, bad: true},
		{name: "another variable", env: []string{"GITHUB_TOKEN=" + gh}},
	} {
		opts := sh(t.TempDir(), "")
		if test.argv != nil {
			opts.Argv = test.argv
		}
		p := &Prepared{opts: opts, env: append(opts.Env, test.env...)}
		p.opts.Params = test.params
		err := p.checkSecrets(t.Context())
		var se *SecretError
		if errors.As(err, &se) != test.bad || !test.bad && err != nil {
			t.Errorf("%s: checkSecrets = %v, want refused: %v", test.name, err, test.bad)
		}
		if err != nil {
			for _, value := range []string{gh, "hunter2", "letmein", "abcd1234efgh", "c0ffee"} {
				if strings.Contains(err.Error(), value) {
					t.Errorf("%s: the error tells the secret: %v", test.name, err)
				}
			}
		}
	}
}

func TestWithheld(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	opts := sh(dir, `printf %s "$DB_PASSWORD" > seen`)
	opts.Env = append(opts.Env, "DB_PASSWORD=hunter2hunter2")
	opts.Secrets = []string{"DB_PASSWORD"}
	r, s := record(t, newStore(t), opts)
	if len(s.Secrets) != 1 || s.Secrets[0] != "DB_PASSWORD" {
		t.Errorf("Secrets = %v, want DB_PASSWORD", s.Secrets)
	}
	if seen, err := os.ReadFile(filepath.Join(dir, "seen")); string(seen) != "hunter2hunter2" {
		t.Errorf("the command saw %q, %v", seen, err)
	}
	for _, st := range r.Statements {
		raw, err := st.Encode()
		if err != nil || strings.Contains(string(raw), "hunter2") {
			t.Errorf("the secret is in a statement (%v)", err)
		}
	}
	opts.Argv = []string{"sh", "-c", "echo hunter2hunter2"}
	var se *SecretError
	if _, err := Record(t.Context(), newStore(t), opts); !errors.As(err, &se) {
		t.Errorf("Record with the withheld value as an argument = %v, want a SecretError", err)
	}
	opts = sh(dir, "true")
	opts.Secrets = []string{"NOT_SET"}
	if _, err := Record(t.Context(), newStore(t), opts); err == nil || !strings.Contains(err.Error(), "NOT_SET") {
		t.Errorf("Record with an unset secret = %v, want an error that names it", err)
	}
}

func TestSecretFile(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		".env": true, "a/.env.local": true, "a/prod.env": true, "id_rsa": true, "id_rsa.pub": false, "x/server.PEM": true, ".env.example": false,
		"credentials": true, "secrets.yaml": true, "secrets.py": false, "environment.py": false, "token.py": false, ".aws/config": true, "keys/keys.go": false,
	} {
		if got := secretFile(name); got != want {
			t.Errorf("secretFile(%s) = %v, want %v", name, got, want)
		}
	}
}
