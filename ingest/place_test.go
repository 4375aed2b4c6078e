package ingest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retrace-ledger/retrace/ingest"
)

func TestPlaceSettings(t *testing.T) {
	type settings struct {
		Region string        `json:"region"`
		Token  ingest.Secret `json:"token"`
	}
	for with, want := range map[string]string{
		"":                                    "",
		`{}`:                                  "",
		`{"region":"eu","token":{"env":"T"}}`: "",
		`{"zone":"eu"}`:                       "with.zone: there is no such setting",
		`{"token":"s3cret"}`:                  "with.token: want ingest.Secret",
		`{"token":{"value":"s3cret"}}`:        "with.token.value: there is no such setting",
	} {
		var s settings
		err := ingest.Place{With: []byte(with)}.Settings(&s)
		if got := fmt.Sprint(err); want == "" && err != nil || want != "" && got != want {
			t.Errorf("settings %s: %s, want %q", with, got, want)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("settings %s: the error shows the secret", with)
		}
	}
}

func TestSecretRead(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "token")
	if err := os.WriteFile(file, []byte(" abc\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("RETRACE_TEST_SECRET", "def")
	for _, c := range []struct {
		secret    ingest.Secret
		want, err string
	}{
		{ingest.Secret{File: file}, "abc", ""},
		{ingest.Secret{Env: "RETRACE_TEST_SECRET"}, "def", ""},
		{ingest.Secret{}, "", "no secret is given"},
		{ingest.Secret{File: file, Env: "X"}, "", "not both"},
		{ingest.Secret{Env: "RETRACE_TEST_NONE"}, "", "RETRACE_TEST_NONE is not set"},
		{ingest.Secret{File: empty}, "", "is empty"},
		{ingest.Secret{File: filepath.Join(dir, "gone")}, "", "no such file"},
	} {
		got, err := c.secret.Read()
		if got != c.want || c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%+v: %q, %v, want %q, %q", c.secret, got, err, c.want, c.err)
		}
	}
}

func TestWithoutCredentials(t *testing.T) {
	for in, want := range map[string]string{
		"https://u:p@git.example.com/a":      "https://git.example.com/a",
		"https://token@git.example.com/a":    "https://git.example.com/a",
		"ssh://git@git.example.com/a":        "ssh://git@git.example.com/a",
		"ssh://git:secret@git.example.com/a": "ssh://git@git.example.com/a",
		"git@git.example.com:a/b.git":        "git@git.example.com:a/b.git",
		"https://git.example.com/a?x=1#y":    "https://git.example.com/a?x=1#y",
	} {
		if got := ingest.WithoutCredentials(in); got != want {
			t.Errorf("WithoutCredentials(%q) = %q, want %q", in, got, want)
		}
	}
}
