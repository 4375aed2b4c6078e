package git

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/retrace-ledger/retrace/ingest"
)

// newKey is a key with its file.
func newKey(t *testing.T) (ssh.Signer, string) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "id_ed25519")
	write(t, name, string(pem.EncodeToMemory(block)))
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer, name
}

// serveSSH has a real git upload-pack answer over SSH those who hold a key.
func serveSSH(t *testing.T, host ssh.Signer, allowed ssh.PublicKey) string {
	t.Helper()
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if !bytes.Equal(key.Marshal(), allowed.Marshal()) {
			return nil, io.EOF
		}
		return nil, nil
	}}
	config.AddHostKey(host)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go answerSSH(conn, config)
		}
	}()
	return listener.Addr().String()
}

func answerSSH(conn net.Conn, config *ssh.ServerConfig) {
	defer conn.Close()
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for c := range channels {
		channel, requests, err := c.Accept()
		if err != nil {
			return
		}
		for r := range requests {
			if r.Type != "exec" {
				_ = r.Reply(r.Type == "env", nil)
				continue
			}
			_ = r.Reply(true, nil)
			var command struct{ Line string }
			_ = ssh.Unmarshal(r.Payload, &command)
			dir := strings.Trim(strings.TrimPrefix(command.Line, "git-upload-pack "), "'")
			pack := exec.Command("git", "upload-pack", dir)
			pack.Stdin, pack.Stdout = channel, channel
			status := make([]byte, 4)
			if pack.Run() != nil {
				status[3] = 1
			}
			_, _ = channel.SendRequest("exit-status", false, status)
			channel.Close()
		}
	}
}

// TestSSH reads a repository with a key from a file, from a host that is known,
// and not from one that is not.
func TestSSH(t *testing.T) {
	dir := newRepository(t)
	host, _ := newKey(t)
	user, keyFile := newKey(t)
	address := serveSSH(t, host, user.PublicKey())
	stranger, strangerFile := newKey(t)
	known := filepath.Join(t.TempDir(), "known_hosts")
	read := func(keyFile string, hostKey ssh.PublicKey) (int, error) {
		write(t, known, knownhosts.Line([]string{knownhosts.Normalize(address)}, hostKey)+"\n")
		with, err := json.Marshal(map[string]string{"sshKey": keyFile, "knownHosts": known})
		if err != nil {
			t.Fatal(err)
		}
		src, _, err := Open(t.Context(), ingest.Place{URL: "git+ssh://git@" + address + dir, With: with}, ingest.Env{})
		if err != nil {
			t.Fatal(err)
		}
		facts := 0
		for e, err := range src.Observe(t.Context(), "") {
			if err != nil {
				return facts, err
			}
			if e.Fact() {
				facts++
			}
		}
		return facts, nil
	}
	if n, err := read(keyFile, host.PublicKey()); err != nil || n != 2 {
		t.Errorf("with the key: %d facts, %v; want a commit and a ref", n, err)
	}
	if _, err := read(strangerFile, host.PublicKey()); err == nil {
		t.Error("a key that is not allowed reads")
	}
	if _, err := read(keyFile, stranger.PublicKey()); err == nil {
		t.Error("a host with another key is believed")
	}
}
