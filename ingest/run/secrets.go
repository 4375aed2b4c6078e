package run

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode"
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
		if why := secretValue(env[name]); why != "" {
			return &SecretError{"variable " + name, "its value is " + why, "Unset it for this run."}
		}
	}
	if w := p.worktree; w != nil && secretValue(w.Remote) != "" {
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
		if why := secretValue(arg); why != "" {
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
	if why := secretValue(value); why != "" {
		return &SecretError{where, "its value is " + why, hint("NAME")}
	}
	if why := secretName(name, value); why != "" {
		return &SecretError{where, why, hint(strings.ToUpper(strings.ReplaceAll(name, "-", "_")))}
	}
	return nil
}

// hint says how to go on.
func hint(name string) string {
	return fmt.Sprintf("Put it into an environment variable that the command reads, and name that with --secret %s: then it is passed on and recorded as withheld.", name)
}

var namePattern = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]{0,63}$`)

// Names by their last word or two, as in api_token, --dbPassword, AUTH-KEY.
// Only the end of a name says what its value is: a token_file is a path and
// max_tokens a number.
var (
	secretWords = []string{
		"password", "passwd", "passphrase", "pwd", "secret", "secrets", "token", "apikey", "credential", "credentials",
		"authtoken", "accesskey", "secretkey", "privatekey", "bearer",
	}
	secretKeys = []string{"api", "access", "secret", "private", "auth", "signing", "encryption", "master", "account", "service", "license"}
)

// secretName says why a value under this name is taken for a secret, or
// nothing. Values that cannot be one are let through.
func secretName(name, value string) string {
	if harmless(value) {
		return ""
	}
	words := split(name)
	if len(words) == 0 {
		return ""
	}
	last := words[len(words)-1]
	switch {
	case slices.Contains(secretWords, last):
		if last == "token" && !random(value) {
			return "" // of a vocabulary, such as pad_token=<pad>
		}
		return "its name ends in " + last
	case last != "key":
		return ""
	case len(words) > 1 && slices.Contains(secretKeys, words[len(words)-2]):
		return "its name ends in " + words[len(words)-2] + " key"
	case len(value) >= 20 && random(value):
		return "its name ends in key and its value looks random"
	}
	return ""
}

var keyPattern = regexp.MustCompile(`^[A-Za-z0-9+/=_.-]{8,}$`)

// random says whether a value is written as keys are: letters and digits mixed,
// or long, and no words or markup.
func random(value string) bool {
	if !keyPattern.MatchString(value) {
		return false
	}
	mixed := strings.ContainsAny(value, "0123456789") && strings.IndexFunc(value, unicode.IsLetter) >= 0
	return mixed || len(value) >= 24 && !strings.ContainsAny(value, "0123456789_-./")
}

func harmless(value string) bool {
	switch strings.ToLower(value) {
	case "", "true", "false", "yes", "no", "on", "off", "none", "null", "nil", "0", "1":
		return true
	}
	return false
}

// split takes a name apart into lower-case words.
func split(name string) []string {
	var b strings.Builder
	var before rune
	for _, r := range name {
		if unicode.IsUpper(r) && unicode.IsLower(before) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
		before = r
	}
	return strings.FieldsFunc(b.String(), func(r rune) bool { return r == '_' || r == '-' || r == '.' })
}

// form is how some secret is written.
type form struct {
	name    string
	pattern *regexp.Regexp
}

// forms are secrets that are known by how they are written, wherever they
// stand.
var forms = []form{
	{"a private key", regexp.MustCompile(`-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----`)},
	{"an AWS access key", regexp.MustCompile(`\b(AKIA|ASIA)[0-9A-Z]{16}\b`)},
	{"a GitHub token", regexp.MustCompile(`\b(gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,})`)},
	{"a GitLab token", regexp.MustCompile(`\bglpat-[A-Za-z0-9_-]{20,}`)},
	{"a Slack token", regexp.MustCompile(`\bxox[abeoprs]-[A-Za-z0-9-]{10,}`)},
	{"a Hugging Face token", regexp.MustCompile(`\bhf_[A-Za-z0-9]{30,}`)},
	{"a Google API key", regexp.MustCompile(`\bAIza[0-9A-Za-z_-]{35}`)},
	{"an API key", regexp.MustCompile(`\bsk-[A-Za-z0-9_-]*[A-Za-z0-9]{20,}`)},
	{"an npm token", regexp.MustCompile(`\bnpm_[A-Za-z0-9]{36}`)},
	{"a JSON web token", regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*`)},
	{"a bearer token", regexp.MustCompile(`(?i)\bauthorization:\s*(bearer|basic|token)\s+\S{8,}`)},
	{"a storage key", regexp.MustCompile(`(?i)\b(AccountKey|SharedAccessSignature|SharedAccessKey)=\S{16,}`)},
	{"a signed URL", regexp.MustCompile(`(?i)[?&](X-Amz-Signature|X-Goog-Signature|sig)=[A-Za-z0-9%+/=_-]{16,}`)},
}

var urlPattern = regexp.MustCompile(`[a-zA-Z][a-zA-Z0-9+.-]*://[^\s/?#"'<>]*@[^\s"'<>]+`)

// secretValue names what kind of secret stands in s, or nothing.
func secretValue(s string) string {
	for _, f := range forms {
		if f.pattern.MatchString(s) {
			return f.name
		}
	}
	for _, raw := range urlPattern.FindAllString(s, -1) {
		u, err := url.Parse(raw)
		if err != nil || u.User == nil {
			continue
		}
		if _, has := u.User.Password(); has || strings.HasPrefix(u.Scheme, "http") && len(u.User.Username()) >= 20 {
			return "a URL with credentials"
		}
	}
	return ""
}

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
