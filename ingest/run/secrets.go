package run

import (
	"context"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/retrace-ledger/retrace/ingest"
)

// SecretError says that recording the run would have put a secret into the
// ledger, from which nothing can be taken back. It names the place and never
// the value. Nothing ran.
type SecretError struct {
	Where string // such as "argument 3" or "parameter api_token"
	Why   string
	Hint  string
}

func (e *SecretError) Error() string {
	return fmt.Sprintf("%s looks like a secret (%s); nothing was run or recorded. %s", e.Where, e.Why, e.Hint)
}

// checkSecrets holds everything that would be signed to one rule (DESIGN
// 12.18).
func (p *Prepared) checkSecrets(context.Context) error {
	if err := p.checkWithheld(); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(p.opts.Params)) {
		if err := p.checkPair("parameter "+name, name, p.opts.Params[name]); err != nil {
			return err
		}
	}
	if err := p.checkArgv(); err != nil {
		return err
	}
	env := recorded(p.env)
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if why := ingest.SecretValue(env[name]); why != "" {
			return &SecretError{"variable " + name, "its value is " + why, "Unset it for this run."}
		}
	}
	if w := p.worktree; w != nil && ingest.SecretValue(w.Remote) != "" {
		return &SecretError{"the URL of the Git remote", "it holds credentials",
			"Take them out with `git remote set-url`, and leave them to a credential helper."}
	}
	return nil
}

// checkWithheld checks that the variables to withhold are set, and that their
// values do not stand elsewhere.
func (p *Prepared) checkWithheld() error {
	for _, name := range p.opts.Secrets {
		value, ok := getenv(p.env, name)
		if !ok || strings.ContainsAny(name, "= ") {
			return fmt.Errorf("secret %s: no variable of this name is set", name)
		}
		if slices.Contains(recordedNames, name) || strings.HasPrefix(name, recordedPrefix) {
			return fmt.Errorf("secret %s: this variable is always recorded; pass the secret in another", name)
		}
		if len(value) < 6 {
			continue // too short to tell from chance
		}
		for i, arg := range p.opts.Argv {
			if strings.Contains(arg, value) {
				return p.withheldElsewhere(fmt.Sprintf("argument %d", i), name)
			}
		}
		for param, v := range p.opts.Params {
			if strings.Contains(v, value) {
				return p.withheldElsewhere("parameter "+param, name)
			}
		}
	}
	return nil
}

func (p *Prepared) withheldElsewhere(where, name string) error {
	return &SecretError{where, "it holds the value of " + name, "Let the command read it from the variable instead."}
}

func (p *Prepared) checkArgv() error {
	for i, arg := range p.opts.Argv {
		where := fmt.Sprintf("argument %d", i)
		if why := ingest.SecretValue(arg); why != "" {
			return &SecretError{where, "it holds " + why, hint("NAME")}
		}
		// Of a script on the command line, the words.
		if words := strings.Fields(arg); len(words) > 1 {
			if err := p.checkWords(func(int) string { return where }, words, code); err != nil {
				return err
			}
		}
	}
	return p.checkWords(func(i int) string { return fmt.Sprintf("argument %d", i) }, p.opts.Argv, nil)
}

// code says whether a word of a script is computed rather than written out.
func code(value string) bool { return strings.ContainsAny(value, "$`(){}[]") }

// checkWords looks for NAME=VALUE, --NAME=VALUE and --NAME VALUE.
func (p *Prepared) checkWords(where func(int) string, words []string, skip func(string) bool) error {
	for i, word := range words {
		option := strings.HasPrefix(word, "-")
		name, value, assigned := strings.Cut(strings.TrimLeft(word, "-"), "=")
		if assigned && len(strings.Fields(word)) > 1 {
			continue // a script, whose words are looked at by themselves
		}
		if !assigned && option && i+1 < len(words) && !strings.HasPrefix(words[i+1], "-") {
			value, assigned = words[i+1], true
		}
		if !assigned || !namePattern.MatchString(name) {
			continue
		}
		value = strings.Trim(value, `"';`)
		if skip != nil && skip(value) {
			continue
		}
		if err := p.checkPair(where(i)+", "+name, name, value); err != nil {
			return err
		}
	}
	return nil
}

func (p *Prepared) checkPair(where, name, value string) error {
	if why := ingest.SecretValue(value); why != "" {
		return &SecretError{where, "its value is " + why, hint("NAME")}
	}
	if why := ingest.SecretName(name, value); why != "" {
		return &SecretError{where, why, hint(strings.ToUpper(strings.ReplaceAll(name, "-", "_")))}
	}
	return nil
}

// hint says how to go on.
func hint(name string) string {
	return fmt.Sprintf("Put it into an environment variable that the command reads, and name that with --secret %s: then it is passed on and recorded as withheld.", name)
}

var namePattern = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]{0,63}$`)

// secretPatterns are names of files that hold secrets, matched against the
// last element of a path in lower case.
var secretPatterns = []string{
	".env", ".env.*", "*.env", ".netrc", "_netrc", ".npmrc", ".pypirc", ".pgpass", ".htpasswd", ".git-credentials", ".dockercfg",
	"id_rsa", "id_dsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.kdbx", "*.keystore",
	"credentials", "credentials.json", "credentials.csv", "*secret.json", "*secrets.json", "*secret.yaml", "*secrets.yaml", "*secret.yml", "*secrets.yml",
	"secrets.toml", "*token.json", "kubeconfig", "*service-account*.json", "*service_account*.json",
}

// secretFile says whether the name of a file says that it holds secrets.
func secretFile(name string) bool {
	base := strings.ToLower(path.Base(name))
	if dir := strings.ToLower(path.Dir(name)); slices.Contains(strings.Split(dir, "/"), ".ssh") || slices.Contains(strings.Split(dir, "/"), ".aws") {
		return true
	}
	if strings.HasSuffix(base, ".example") || strings.HasSuffix(base, ".sample") || strings.HasSuffix(base, ".template") || strings.HasSuffix(base, ".pub") {
		return false
	}
	return slices.ContainsFunc(secretPatterns, func(p string) bool {
		ok, err := path.Match(p, base)
		return ok && err == nil
	})
}
