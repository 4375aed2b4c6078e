package git

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/retrace-ledger/retrace/ingest"
)

// delivery is what forges say a push was to. GitHub and Gitea name it repository,
// GitLab project.
type delivery struct {
	Repository addresses `json:"repository"`
	Project    addresses `json:"project"`
}

type addresses struct {
	CloneURL string `json:"clone_url"`
	SSHURL   string `json:"ssh_url"`
	GitHTTP  string `json:"git_http_url"`
	GitSSH   string `json:"git_ssh_url"`
}

func (a addresses) all() []string { return []string{a.CloneURL, a.SSHURL, a.GitHTTP, a.GitSSH} }

// Hook implements ingest.Hooked for deliveries of GitHub, GitLab and Gitea. A
// source without a webhook secret takes none.
func (s *Source) Hook(name string, header http.Header, body []byte) (bool, error) {
	if name != "github" && name != "gitlab" && name != "gitea" || !s.settings.Webhook.Given() {
		return false, nil
	}
	secret, err := s.settings.Webhook.Read()
	if err != nil {
		return false, fmt.Errorf("reading what deliveries are signed with: %w", err)
	}
	signed := signedBy(name, header, body, secret)
	// Of one that is signed by somebody else's secret only its address is read, to
	// say whose secret is wrong.
	var d delivery
	if err := json.Unmarshal(payload(header, body), &d); err != nil {
		return false, nil
	}
	for _, address := range append(d.Repository.all(), d.Project.all()...) {
		if address != "" && s.at.is(address) {
			if !signed {
				return false, ingest.ErrForged
			}
			return true, nil
		}
	}
	return false, nil
}

// signedBy says whether a delivery was signed with the secret, or shows it. All
// comparisons take the same time whatever was given.
func signedBy(name string, header http.Header, body []byte, secret string) bool {
	if name == "gitlab" {
		return subtle.ConstantTimeCompare([]byte(header.Get("X-Gitlab-Token")), []byte(secret)) == 1
	}
	given := strings.TrimPrefix(header.Get("X-Hub-Signature-256"), "sha256=")
	if name == "gitea" && given == "" {
		given = header.Get("X-Gitea-Signature")
	}
	mac, err := hex.DecodeString(given)
	if err != nil {
		return false
	}
	want := hmac.New(sha256.New, []byte(secret))
	want.Write(body)
	return hmac.Equal(mac, want.Sum(nil))
}

// payload is the JSON of a delivery, which GitHub can send as a form.
func payload(header http.Header, body []byte) []byte {
	if !strings.HasPrefix(header.Get("Content-Type"), "application/x-www-form-urlencoded") {
		return body
	}
	values, err := url.ParseQuery(string(body))
	if err != nil {
		return nil
	}
	return []byte(values.Get("payload"))
}

// is says whether an address that a forge gives names the repository: by host and
// path, since forges give that of HTTPS and that of SSH.
func (l *location) is(address string) bool {
	if user, rest, ok := strings.Cut(address, "@"); ok && !strings.Contains(user, "/") && !strings.Contains(address, "://") {
		host, path, _ := strings.Cut(rest, ":") // as scp writes it
		address = "ssh://" + host + "/" + path
	}
	theirs, err := url.Parse(address)
	if err != nil {
		return false
	}
	ours, err := url.Parse(l.remote)
	if err != nil || l.remote == "" {
		return false
	}
	clean := func(path string) string { return strings.ToLower(strings.TrimSuffix(strings.Trim(path, "/"), ".git")) }
	return strings.EqualFold(theirs.Hostname(), ours.Hostname()) && clean(theirs.Path) == clean(ours.Path)
}
