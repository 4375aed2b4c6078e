package main

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// newCertificate writes a certificate for 127.0.0.1 and its key to dir, and
// returns the certificate.
func newCertificate(t *testing.T, dir string) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "retrace"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"tls.crt": {Type: "CERTIFICATE", Bytes: der}, "tls.key": {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// elsewhere is a caller from another machine, who believes one certificate.
type elsewhere struct {
	address string
	client  *http.Client
}

func callFrom(t *testing.T, address string, believed *x509.Certificate) *elsewhere {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(believed)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, DisableKeepAlives: true}
	return &elsewhere{address: "https://" + address, client: &http.Client{Transport: transport, Timeout: 10 * time.Second}}
}

// call returns the status of a request and what was answered.
func (e *elsewhere) call(t *testing.T, method, path, token, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, e.address+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := e.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(raw)
}

// TestFromElsewhere calls a server over TLS: what needs no token, what each role
// may and may not, a namespace that a recorder has not, tokens that expire and
// are revoked while it runs, and a certificate that is renewed.
func TestFromElsewhere(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	done(t, dir, "init")
	cert := newCertificate(t, dir)
	address := freeAddress(t)
	config := filepath.Join(dir, "retrace.yaml")
	if err := os.WriteFile(config, []byte("tls: {listen: '"+address+"', cert: tls.crt, key: tls.key}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	done(t, dir, "config", "check", config)
	defer serveConfigured(t, dir, config)()
	outside := callFrom(t, address, cert)

	token := func(name string, more ...string) string {
		t.Helper()
		return strings.TrimSpace(done(t, dir, append([]string{"tokens", "create", name}, more...)...))
	}
	reader, recorder := token("notebook", "--role", "reader"), token("ci", "--role", "recorder", "--namespace", "default")
	elsewhereOnly := token("other", "--role", "recorder", "--namespace", "team-b")
	admin := token("ops", "--role", "admin")
	note, err := os.ReadFile(filepath.Join(dir, writeNote(t, dir, 1, 10)))
	if err != nil {
		t.Fatal(err)
	}
	const query = `{"query":"{ checkpoint { size } }"}`
	const mutation = `{"query":"mutation { record(statement: {}) { id } }"}`
	for _, c := range []struct {
		who, method, path, token, body string
		want                           int
	}{
		{"anybody", "GET", "/checkpoint", "", "", 200},
		{"anybody", "GET", "/healthz", "", "", 200},
		{"anybody", "GET", "/metrics", "", "", 401},
		{"anybody", "POST", "/graphql", "", query, 401},
		{"anybody", "GET", "/v1/entries?from=0", "", "", 401},
		{"a wrong token", "GET", "/v1/entries?from=0", reader + "x", "", 401},
		{"a reader", "POST", "/graphql", reader, query, 200},
		{"a reader", "GET", "/v1/entries?from=0", reader, "", 200},
		{"a reader", "GET", "/v1/sources", reader, "", 200},
		{"a reader", "POST", "/v1/statements", reader, string(note), 403},
		{"a reader", "POST", "/graphql", reader, mutation, 401},
		{"a reader", "GET", "/v1/backup", reader, "", 403},
		{"a recorder", "POST", "/v1/statements", recorder, string(note), 200},
		{"a recorder", "POST", "/graphql", recorder, query, 403},
		{"a recorder", "POST", "/v1/erasures", recorder, "{}", 403},
		{"a recorder of another namespace", "POST", "/v1/statements", elsewhereOnly, string(note), 403},
		{"an admin", "GET", "/v1/backup", admin, "", 200},
		{"an admin", "POST", "/graphql", admin, query, 200},
	} {
		if status, body := outside.call(t, c.method, c.path, c.token, c.body); status != c.want {
			t.Errorf("%s: %s %s = %d, want %d: %.200s", c.who, c.method, c.path, status, c.want, body)
		}
	}
	if out := done(t, dir, "log", "-n", "1", "-o", "json"); !strings.Contains(out, `"token:ci"`) {
		t.Errorf("the entry does not say whose token it came with: %s", out)
	}

	agentFromElsewhere(t, dir, address, token)

	done(t, dir, "tokens", "revoke", "notebook")
	if status, _ := outside.call(t, "POST", "/graphql", reader, query); status != 401 {
		t.Errorf("a revoked token = %d, want 401", status)
	}
	brief := token("brief", "--role", "reader", "--for", "1s")
	time.Sleep(1100 * time.Millisecond)
	if status, _ := outside.call(t, "POST", "/graphql", brief, query); status != 401 {
		t.Errorf("an expired token = %d, want 401", status)
	}
	if raw, err := os.ReadFile(filepath.Join(dir, dirName, "tokens.json")); err != nil || bytes.Contains(raw, []byte(recorder)) {
		t.Errorf("the file of tokens holds one in full (%v)", err)
	}

	renewed := callFrom(t, address, newCertificate(t, dir))
	if status, _ := renewed.call(t, "GET", "/checkpoint", "", ""); status != 200 {
		t.Errorf("under the renewed certificate: %d", status)
	}
}

// agentFromElsewhere has an agent on another machine run a step, ask what it made
// and bring that back, with the roles for it and no more.
func agentFromElsewhere(t *testing.T, dir, address string, token func(string, ...string) string) {
	t.Helper()
	records, restores := token("agent", "--role", "reader", "--role", "recorder"), token("back", "--role", "reader,restorer,recorder")
	work := t.TempDir()
	if err := os.WriteFile(filepath.Join(work, "in"), []byte("bytes\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	config := t.TempDir()
	agent := func(token string, args ...string) (string, error) {
		cmd := retraceCommand(t, work, append([]string{"--server", "https://" + address}, args...)...)
		cmd.Env = append(cmd.Env, "RETRACE_TOKEN="+token, "SSL_CERT_FILE="+filepath.Join(dir, "tls.crt"), "XDG_CONFIG_HOME="+config)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := agent(records, "run", "--in", "in", "--out", "out", "--model", "far", "--", "cp", "in", "out"); err != nil {
		t.Fatalf("an agent that may record: %v\n%s", err, out)
	}
	if out, err := agent(records, "lineage", "far"); err != nil || !strings.Contains(out, "cp in out") {
		t.Errorf("asking for what it made: %v\n%s", err, out)
	}
	if out, err := agent(records, "restore", "far", "--to", "denied"); err == nil {
		t.Errorf("an agent that may not read bytes restored:\n%s", out)
	}
	if out, err := agent(restores, "restore", "far", "--to", "back"); err != nil || !strings.Contains(out, "COMPLETE") {
		t.Errorf("restoring from elsewhere: %v\n%s", err, out)
	}
	onlyReads := token("reads", "--role", "reader,restorer")
	if out, err := agent(onlyReads, "run", "--in", "in", "--out", "other", "--", "cp", "in", "other"); err == nil {
		t.Errorf("an agent that may not record did:\n%s", out)
	}
}

// serveConfigured starts a server with a configuration that has a listener for
// callers from elsewhere, and returns what stops it.
func serveConfigured(t *testing.T, dir, config string) (stop func()) {
	t.Helper()
	cmd := retraceCommand(t, dir, "serve", "--listen", "127.0.0.1:0", "--config", config)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = func() {
		_ = cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the server ended with %v", err)
		}
	}
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "callers from elsewhere") {
			go func() { _, _ = io.Copy(io.Discard, stderr) }()
			return stop
		}
	}
	t.Fatal("the server ended without listening for callers from elsewhere")
	return nil
}
