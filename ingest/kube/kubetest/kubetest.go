// Package kubetest runs a real API server of Kubernetes for tests: etcd and
// kube-apiserver, without controllers, so that what controllers would set is set
// by the test.
package kubetest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const (
	serverVersion = "v1.37.2" // as ci/kube-apiserver.sh builds it
	readyTimeout  = 90 * time.Second
)

// Token is that of a user who may do everything.
const Token = "kubetest-admin"

// Server is a running API server.
type Server struct {
	Kubeconfig string // file; its user may do everything
	URL        string

	dir  string
	http *http.Client
	stop []func()
}

// Start runs an API server for the tests of a package: TestMain calls it, and
// Stop afterwards. It returns an error that says what is missing where that is a
// program; see Need.
func Start() (*Server, error) {
	etcd, err := exec.LookPath("etcd")
	if err != nil {
		return nil, fmt.Errorf("no etcd (Debian's etcd-server): %w", err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	binary := filepath.Join(cache, "retrace-parts", "kube-apiserver-"+serverVersion, "kube-apiserver")
	if _, err := os.Stat(binary); err != nil {
		return nil, fmt.Errorf("no kube-apiserver (ci/kube-apiserver.sh builds it): %w", err)
	}
	dir, err := os.MkdirTemp("", "kubetest-")
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir, stop: []func(){func() { _ = os.RemoveAll(dir) }}}
	if err := s.start(etcd, binary); err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

// Need skips a test where there is no server, or fails it where every part has
// to be there.
func Need(t testing.TB, s *Server, err error) *Server {
	t.Helper()
	if err != nil {
		if os.Getenv("RETRACE_TEST_NOSKIP") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return s
}

// Stop ends the server and removes what it stored.
func (s *Server) Stop() {
	for i := len(s.stop) - 1; i >= 0; i-- {
		s.stop[i]()
	}
}

func (s *Server) start(etcd, binary string) error {
	ports, err := freePorts(3)
	if err != nil {
		return err
	}
	store, peer := "http://127.0.0.1:"+ports[0], "http://127.0.0.1:"+ports[1]
	if err := s.run(etcd, "--data-dir", filepath.Join(s.dir, "etcd"),
		"--listen-client-urls", store, "--advertise-client-urls", store, "--listen-peer-urls", peer,
		"--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer, "--log-level", "error"); err != nil {
		return err
	}
	key, tokens := filepath.Join(s.dir, "sa.key"), filepath.Join(s.dir, "tokens.csv")
	if err := writeKey(key); err != nil {
		return err
	}
	if err := os.WriteFile(tokens, []byte(Token+`,admin,admin-uid,"system:masters"`+"\n"), 0o600); err != nil {
		return err
	}
	s.URL = "https://127.0.0.1:" + ports[2]
	certs := filepath.Join(s.dir, "certs")
	if err := s.run(binary, "--etcd-servers="+store, "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--secure-port="+ports[2],
		"--cert-dir="+certs, "--service-account-key-file="+key, "--service-account-signing-key-file="+key, "--service-account-issuer="+s.URL,
		"--token-auth-file="+tokens, "--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/24", "--allow-privileged=true",
		"--disable-admission-plugins=ServiceAccount", "--endpoint-reconciler-type=none", "--v=0"); err != nil {
		return err
	}
	// Its certificate is its own: tests talk to a process that they started.
	s.http = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	if err := s.awaitReady(); err != nil {
		return err
	}
	s.Kubeconfig = filepath.Join(s.dir, "kubeconfig")
	return writeKubeconfig(s.Kubeconfig, s.URL)
}

func writeKubeconfig(name, address string) error {
	trust := ""
	if strings.HasPrefix(address, "https:") {
		trust = ", insecure-skip-tls-verify: true"
	}
	return os.WriteFile(name, fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: test
clusters: [{name: test, cluster: {server: %q%s}}]
users: [{name: admin, user: {token: %q}}]
contexts: [{name: test, context: {cluster: test, user: admin}}]
`, address, trust, Token), 0o600)
}

// Kubeconfig is a file that names the server at an address, such as one in front
// of the API server.
func Kubeconfig(t testing.TB, address string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "kubeconfig")
	if err := writeKubeconfig(name, address); err != nil {
		t.Fatal(err)
	}
	return name
}

// Front is something in front of an API server that can break.
type Front struct {
	URL    string
	server *httptest.Server
	broken atomic.Bool
}

// Front starts one, which ends with the test. It shows the server's token for its
// callers: without TLS they send none.
func (s *Server) Front(t testing.TB) *Front {
	t.Helper()
	behind, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(behind)
	proxy.FlushInterval = -1 // of a watch, each event at once
	proxy.Transport = s.http.Transport
	f := &Front{}
	f.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f.broken.Load() {
			http.Error(w, "broken", http.StatusInternalServerError)
			return
		}
		r.Header.Set("Authorization", "Bearer "+Token)
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(f.server.Close)
	f.URL = f.server.URL
	return f
}

// Break has it answer nothing but errors, and ends what it is answering.
func (f *Front) Break() {
	f.broken.Store(true)
	f.server.CloseClientConnections()
}

// run starts a process that ends with the server.
func (s *Server) run(program string, args ...string) error {
	log, err := os.Create(filepath.Join(s.dir, filepath.Base(program)+".log"))
	if err != nil {
		return err
	}
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, log, log
	if err := cmd.Start(); err != nil {
		log.Close()
		return err
	}
	s.stop = append(s.stop, func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
		log.Close()
	})
	return nil
}

func (s *Server) awaitReady() error {
	var last error
	for end := time.Now().Add(readyTimeout); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if _, last = s.Request(context.Background(), "GET", "/readyz", "", nil); last == nil {
			return nil
		}
	}
	raw, _ := os.ReadFile(filepath.Join(s.dir, "kube-apiserver.log"))
	return fmt.Errorf("the API server is not ready after %s: %w\n%s", readyTimeout, last, raw[max(0, len(raw)-2000):])
}

// Request sends a request and returns the answer, or an error for any status that is
// no success.
func (s *Server) Request(ctx context.Context, method, path, contentType string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.URL+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+Token)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 {
		return nil, fmt.Errorf("%s %s: %d %s", method, path, resp.StatusCode, raw)
	}
	return raw, nil
}

// Do sends a request with a body of JSON (nil for none) and fails the test
// unless it succeeds. A PATCH is a JSON merge patch.
func (s *Server) Do(t testing.TB, method, path string, body any) []byte {
	t.Helper()
	var raw []byte
	switch v := body.(type) {
	case nil:
	case []byte:
		raw = v
	default:
		var err error
		if raw, err = json.Marshal(body); err != nil {
			t.Fatal(err)
		}
	}
	contentType := "application/json"
	if method == http.MethodPatch {
		contentType = "application/merge-patch+json"
	}
	out, err := s.Request(context.Background(), method, path, contentType, raw)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Namespace makes a namespace of its own for a test.
func (s *Server) Namespace(t testing.TB, name string) string {
	t.Helper()
	name += "-" + strings.ToLower(rand.Text()[:8])
	s.Do(t, "POST", "/api/v1/namespaces", map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name}})
	return name
}

// Define installs a custom resource whose objects may hold anything, and waits
// until it is served. There is no status subresource unless one is asked for.
func (s *Server) Define(t testing.TB, group, version, plural, kind string, status bool) {
	t.Helper()
	s.define(t, group, version, plural, kind, "Namespaced", status)
}

// DefineWide is Define for objects that are in no namespace.
func (s *Server) DefineWide(t testing.TB, group, version, plural, kind string, status bool) {
	t.Helper()
	s.define(t, group, version, plural, kind, "Cluster", status)
}

func (s *Server) define(t testing.TB, group, version, plural, kind, scope string, status bool) {
	t.Helper()
	v := map[string]any{
		"name": version, "served": true, "storage": true,
		"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
	}
	if status {
		v["subresources"] = map[string]any{"status": map[string]any{}}
	}
	const crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
	_, err := s.Request(context.Background(), "POST", crds, "application/json", mustJSON(t, map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{
			"name": plural + "." + group,
			// Groups of Kubernetes itself are served with a word about who approved it.
			"annotations": map[string]any{"api-approved.kubernetes.io": "unapproved, for tests"},
		},
		"spec": map[string]any{
			"group": group, "scope": scope, "versions": []any{v},
			"names": map[string]any{"plural": plural, "singular": strings.ToLower(kind), "kind": kind, "listKind": kind + "List"},
		},
	}))
	if err != nil && !strings.Contains(err.Error(), "AlreadyExists") {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		_, err := s.Request(context.Background(), "GET", "/apis/"+group+"/"+version+"/"+plural+"?limit=1", "", nil)
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s.%s is not served: %v", plural, group, err)
		}
	}
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func writeKey(name string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600)
}

// freePorts are ports that nothing listened on a moment ago.
func freePorts(n int) ([]string, error) {
	var ports []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			return nil, err
		}
		ports = append(ports, port)
	}
	return ports, nil
}
