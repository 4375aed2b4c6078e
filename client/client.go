package client

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/retrace-ledger/retrace/schema"
)

// Client calls one server.
type Client struct {
	base  string // URL without a slash at its end
	token string
	http  *http.Client
}

// New returns a client of the server at rawURL. Without a token it can only
// ask.
func New(rawURL, token string) (*Client, error) {
	u, err := url.Parse(rawURL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("%q is not the address of a server: want http://HOST:PORT", rawURL)
	}
	if u.Scheme == "http" && token != "" && !isLoopback(u.Hostname()) {
		return nil, fmt.Errorf("refusing to send a token to %s without TLS", u.Host)
	}
	transport := &http.Transport{Proxy: nil, MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute}
	if u.Scheme == "https" {
		transport.Proxy = http.ProxyFromEnvironment
	}
	refuse := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Client{base: strings.TrimSuffix(rawURL, "/"), token: token, http: &http.Client{Transport: transport, CheckRedirect: refuse}}, nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// discoverTimeout is how long a server may take to show that it is there.
const discoverTimeout = 2 * time.Second

// Discover returns a client of the server that runs for the ledger in dir, or
// an error that is ErrNoServer. An address that a killed server left behind
// counts as none.
func Discover(ctx context.Context, dir string) (*Client, error) {
	name := filepath.Join(dir, AddressFile)
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNoServer
	}
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s is readable by others (mode %04o): its token is not secret any more; stop the server and remove the file", name, info.Mode().Perm())
	}
	raw, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var a Address
	if err := json.Unmarshal(raw, &a); err != nil || a.Address == "" || a.Token == "" {
		return nil, fmt.Errorf("%s is not what a server writes; remove it", name)
	}
	if !alive(a.PID) {
		return nil, fmt.Errorf("%w: process %d, which %s names, has ended", ErrNoServer, a.PID, name)
	}
	c, err := New(a.Address, a.Token)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, discoverTimeout)
	defer cancel()
	if _, err := c.Checkpoint(ctx); err != nil {
		if errors.Is(err, syscall.ECONNREFUSED) {
			return nil, fmt.Errorf("%w at %s, which %s names", ErrNoServer, a.Address, name)
		}
		return nil, fmt.Errorf("asking the server at %s: %w", a.Address, err)
	}
	return c, nil
}

// alive says whether a process of this number runs.
func alive(pid int) bool {
	if pid <= 0 {
		return false
	}
	p, err := os.FindProcess(pid)
	if err != nil {
		return false
	}
	err = p.Signal(syscall.Signal(0))
	return err == nil || errors.Is(err, fs.ErrPermission)
}

// Address is the URL of the server.
func (c *Client) Address() string { return c.base }

// do sends a request and returns a response that is a success. The caller
// closes its body.
func (c *Client) do(ctx context.Context, method, path, contentType string, body io.Reader, size int64) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if size >= 0 {
		req.ContentLength = size
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		defer resp.Body.Close()
		return nil, refusal(resp)
	}
	return resp, nil
}

func (c *Client) get(ctx context.Context, path string) (*http.Response, error) {
	return c.do(ctx, http.MethodGet, path, "", nil, -1)
}

// maxAnswer bounds what is read into memory at once.
const maxAnswer = 256 << 20 // bytes

func readAll(resp *http.Response, limit int64) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading the answer to %s: %w", resp.Request.URL.Path, err)
	}
	if int64(len(raw)) > limit {
		return nil, fmt.Errorf("the answer to %s is larger than %d bytes", resp.Request.URL.Path, limit)
	}
	return raw, nil
}

// Append records b, whole or not at all, as the ledger itself would. Sending
// the same batch again is harmless. A batch whose cursor is not where it says is
// refused with an *Error that has a Cursor.
func (c *Client) Append(ctx context.Context, b schema.Batch) (schema.Receipt, error) {
	wire := Batch{Namespace: b.Namespace, Source: b.Source, Submitter: b.Submitter, Cursors: b.Cursors, Envelopes: []jsontext.Value{}}
	for _, e := range b.Envelopes {
		wire.Envelopes = append(wire.Envelopes, jsontext.Value(`"`+base64.StdEncoding.EncodeToString(e.Raw)+`"`))
	}
	raw, err := jsonv2.Marshal(wire)
	if err != nil {
		return schema.Receipt{}, err
	}
	resp, err := c.do(ctx, http.MethodPost, "/v1/statements", "application/json", bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		return schema.Receipt{}, fmt.Errorf("recording: %w", err)
	}
	defer resp.Body.Close()
	var r schema.Receipt
	if err := decode(resp, &r); err != nil {
		return schema.Receipt{}, fmt.Errorf("recording: %w", err)
	}
	if len(r.Entries) != len(b.Envelopes) {
		return schema.Receipt{}, fmt.Errorf("recording: the receipt names %d entries for %d envelopes", len(r.Entries), len(b.Envelopes))
	}
	return r, nil
}

func decode(resp *http.Response, v any) error {
	raw, err := readAll(resp, maxAnswer)
	if err != nil {
		return err
	}
	if err := jsonv2.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("the answer to %s is not understood: %w", resp.Request.URL.Path, err)
	}
	return nil
}

// Cursor is how far source has been read in namespace; "" if never.
func (c *Client) Cursor(ctx context.Context, namespace, source string) (string, error) {
	q := url.Values{"source": {source}}
	if namespace != "" {
		q.Set("namespace", namespace)
	}
	resp, err := c.get(ctx, "/v1/cursor?"+q.Encode())
	if err != nil {
		return "", fmt.Errorf("asking how far %s was read: %w", source, err)
	}
	defer resp.Body.Close()
	var a CursorAnswer
	if err := decode(resp, &a); err != nil {
		return "", fmt.Errorf("asking how far %s was read: %w", source, err)
	}
	return a.Cursor, nil
}

// Sources is how the sources are doing that the server watches.
func (c *Client) Sources(ctx context.Context) ([]SourceState, error) {
	resp, err := c.get(ctx, "/v1/sources")
	if err != nil {
		return nil, fmt.Errorf("asking how the sources are doing: %w", err)
	}
	defer resp.Body.Close()
	var states []SourceState
	if err := decode(resp, &states); err != nil {
		return nil, fmt.Errorf("asking how the sources are doing: %w", err)
	}
	return states, nil
}

// maxNote is how large a checkpoint may be (C2SP tlog-checkpoint notes are a
// few hundred bytes).
const maxNote = 64 << 10

// Checkpoint is the newest signed note of the log. Its signature is not
// checked here.
func (c *Client) Checkpoint(ctx context.Context) ([]byte, error) {
	resp, err := c.get(ctx, "/checkpoint")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return readAll(resp, maxNote)
}

// Confront shows the server a checkpoint of its log that is held here. It is
// nil if the log holds it, and ErrContradicted if it does not: then the server
// has kept the note and writes no more. Any other error means that the server
// could not be told.
func (c *Client) Confront(ctx context.Context, note []byte) error {
	resp, err := c.do(ctx, http.MethodPost, "/v1/checkpoint", "text/plain; charset=utf-8", bytes.NewReader(note), int64(len(note)))
	var refused *Error
	if errors.As(err, &refused) && refused.Status == http.StatusConflict {
		return fmt.Errorf("%w: %w", ErrContradicted, err)
	}
	if err != nil {
		return fmt.Errorf("showing the server a checkpoint: %w", err)
	}
	return resp.Body.Close()
}

// ErrContradicted says that a server's log does not hold a checkpoint that its
// own key signed.
var ErrContradicted = errors.New("the log does not hold the checkpoint")

// Size is the newest signed size.
func (c *Client) Size(ctx context.Context) (int64, error) {
	l, err := c.Ledger(ctx)
	if err != nil {
		return 0, err
	}
	return l.Size(), nil
}

// Query asks the GraphQL API and decodes the data of the answer into out. An
// answer with errors is an error, a *QueryError.
func (c *Client) Query(ctx context.Context, query string, variables map[string]any, out any) error {
	raw, err := json.Marshal(map[string]any{"query": query, "variables": variables})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+"/graphql", bytes.NewReader(raw))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/graphql-response+json")
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/graphql-response+json") {
		return refusal(resp)
	}
	var answer struct {
		Data   json.RawMessage `json:"data"`
		Errors []GraphQLError  `json:"errors"`
	}
	body, err := readAll(resp, maxAnswer)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("the answer to a query is not understood: %w", err)
	}
	if len(answer.Errors) > 0 {
		return &QueryError{Errors: answer.Errors}
	}
	return json.Unmarshal(answer.Data, out)
}

// GraphQLError is one error of a GraphQL answer.
type GraphQLError struct {
	Message    string `json:"message"`
	Path       []any  `json:"path"`
	Extensions struct {
		Code  string `json:"code"`
		Field string `json:"field"`
	} `json:"extensions"`
}

// QueryError is a GraphQL answer with errors.
type QueryError struct{ Errors []GraphQLError }

func (e *QueryError) Error() string {
	s := e.Errors[0].Message
	if n := len(e.Errors) - 1; n > 0 {
		s += " (and " + strconv.Itoa(n) + " more)"
	}
	return s
}
