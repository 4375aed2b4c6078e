package git

import (
	"errors"
	"fmt"

	"github.com/go-git/go-git/v5/plumbing/transport/http"
	"github.com/go-git/go-git/v5/plumbing/transport/ssh"

	"github.com/retrace-ledger/retrace/ingest"
)

// settings are those of a place.
type settings struct {
	// Token is a password or access token for HTTPS, Username the user that goes
	// with it.
	Token    ingest.Secret `json:"token,omitzero"`
	Username string        `json:"username,omitempty"`
	// SSHKey is the file of a private key without a passphrase, KnownHosts that of
	// the hosts that are believed. Without them the SSH agent and the user's own
	// known_hosts are asked.
	SSHKey     string `json:"sshKey,omitempty"`
	KnownHosts string `json:"knownHosts,omitempty"`
	// Webhook is what deliveries of a forge are signed with, or show.
	Webhook ingest.Secret `json:"webhook,omitzero"`
	// AllowedSigners is a file of SSH keys (ssh-keygen(1), ALLOWED SIGNERS),
	// Keyring one of OpenPGP keys: those that commits are verified with.
	AllowedSigners string `json:"allowedSigners,omitempty"`
	Keyring        string `json:"keyring,omitempty"`
}

// defaultUser goes with a token: forges take any name.
const defaultUser = "git"

// check refuses settings that would be ignored at this location.
func (s *settings) check(l *location) error {
	web, shell := l.overHTTP(), l.overSSH()
	switch {
	case s.Token.Given() && !web:
		return ingest.Setting("token", errors.New("is for git+https alone"))
	case s.Username != "" && !s.Token.Given():
		return ingest.Setting("username", errors.New("goes with a token"))
	case s.Token.Given() && l.auth != nil:
		return ingest.Setting("token", errors.New("the URL holds credentials already"))
	case s.SSHKey != "" && !shell:
		return ingest.Setting("sshKey", errors.New("is for git+ssh alone"))
	case s.KnownHosts != "" && s.SSHKey == "":
		return ingest.Setting("knownHosts", errors.New("goes with sshKey"))
	}
	return nil
}

// authenticate reads the credentials anew: mounted secrets are exchanged.
func (s *settings) authenticate(l *location) error {
	switch {
	case s.Token.Given():
		token, err := s.Token.Read()
		if err != nil {
			return fmt.Errorf("reading the token for %s: %w", l.repository, err)
		}
		user := s.Username
		if user == "" {
			user = defaultUser
		}
		l.auth = &http.BasicAuth{Username: user, Password: token}
	case s.SSHKey != "":
		keys, err := ssh.NewPublicKeysFromFile(l.user, s.SSHKey, "")
		if err != nil {
			return fmt.Errorf("reading the key for %s: %w", l.repository, err)
		}
		var files []string
		if s.KnownHosts != "" {
			files = append(files, s.KnownHosts)
		}
		if keys.HostKeyCallback, err = ssh.NewKnownHostsCallback(files...); err != nil {
			return fmt.Errorf("reading the hosts that are believed for %s: %w", l.repository, err)
		}
		l.auth = keys
	}
	return nil
}
