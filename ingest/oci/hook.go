package oci

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/retrace-ledger/retrace/ingest"
)

// settings are those of a place.
type settings struct {
	// Token is a password or access token for the registry, Username the user that
	// goes with it. Without them the configuration of Docker and its helpers are
	// asked.
	Token    ingest.Secret `json:"token,omitzero"`
	Username string        `json:"username,omitempty"`
	// Webhook is what the registry's notifications show in their Authorization
	// header: the whole of it, or what follows "Bearer ".
	Webhook ingest.Secret `json:"webhook,omitzero"`
}

// defaultUser goes with a token where the registry takes any name.
const defaultUser = "token"

// check refuses settings that would be ignored.
func (s *settings) check() error {
	if s.Username != "" && !s.Token.Given() {
		return ingest.Setting("username", errors.New("goes with a token"))
	}
	return nil
}

// credentials are read anew: mounted secrets are exchanged.
func (s *settings) credentials() (remote.Option, error) {
	if !s.Token.Given() {
		return remote.WithAuthFromKeychain(authn.DefaultKeychain), nil
	}
	token, err := s.Token.Read()
	if err != nil {
		return nil, fmt.Errorf("reading the token: %w", err)
	}
	user := s.Username
	if user == "" {
		user = defaultUser
	}
	return remote.WithAuth(authn.FromConfig(authn.AuthConfig{Username: user, Password: token})), nil
}

// notification is the envelope that the CNCF's registry sends
// (distribution/distribution, docs/content/about/notifications.md).
type notification struct {
	Events []struct {
		Action string `json:"action"`
		Target struct {
			Repository string `json:"repository"`
		} `json:"target"`
	} `json:"events"`
}

// Hook implements ingest.Hooked for a registry's notifications. A source without
// a webhook secret takes none: they are not signed.
func (s *Source) Hook(name string, header http.Header, body []byte) (bool, error) {
	if name != "registry" || !s.settings.Webhook.Given() {
		return false, nil
	}
	secret, err := s.settings.Webhook.Read()
	if err != nil {
		return false, fmt.Errorf("reading what notifications show: %w", err)
	}
	given := header.Get("Authorization")
	shown := subtle.ConstantTimeCompare([]byte(given), []byte(secret))|subtle.ConstantTimeCompare([]byte(strings.TrimPrefix(given, "Bearer ")), []byte(secret)) == 1
	var n notification
	if err := json.Unmarshal(body, &n); err != nil {
		return false, nil
	}
	for _, e := range n.Events {
		if slices.Contains([]string{"push", "mount", "delete"}, e.Action) && e.Target.Repository == s.repo.RepositoryStr() {
			if !shown {
				return false, ingest.ErrForged
			}
			return true, nil
		}
	}
	return false, nil
}
