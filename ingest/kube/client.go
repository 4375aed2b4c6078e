package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Settings say how a cluster is reached. The zero value is the service account
// of the pod that retrace runs in.
type Settings struct {
	// Kubeconfig is a file as kubectl reads it.
	Kubeconfig string `json:"kubeconfig,omitempty"`
	// Context is one of its contexts, its current one if empty; without a file, one
	// of the user's own, as kubectl finds it.
	Context string `json:"context,omitempty"`
}

// config loads the settings. It does not ask the cluster.
func (s Settings) config() (*rest.Config, error) {
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: s.Kubeconfig}
	switch {
	case s.Kubeconfig != "":
	case s.Context != "":
		rules = clientcmd.NewDefaultClientConfigLoadingRules()
	default:
		return rest.InClusterConfig()
	}
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		rules,
		&clientcmd.ConfigOverrides{CurrentContext: s.Context},
	).ClientConfig()
}

// Type is a type of objects.
type Type struct {
	Group   string // "" for the core group
	Version string
	Plural  string // as in paths, such as "deployments"
	Kind    string
}

// String is the type as kubectl names it, such as "deployments.apps".
func (t Type) String() string { return strings.TrimSuffix(t.Plural+"."+t.Group, ".") }

// root is the path that lists what the type's group and version has.
func (t Type) root() string {
	if t.Group == "" {
		return "/api/" + t.Version
	}
	return "/apis/" + t.Group + "/" + t.Version
}

// path is that of the objects in namespace; "" for all.
func (t Type) path(namespace string) string {
	if namespace == "" {
		return path.Join(t.root(), t.Plural)
	}
	return path.Join(t.root(), "namespaces", namespace, t.Plural)
}

// Meta is what all objects have.
type Meta struct {
	Namespace         string            `json:"namespace"`
	Name              string            `json:"name"`
	UID               string            `json:"uid"`
	ResourceVersion   string            `json:"resourceVersion"`
	Labels            map[string]string `json:"labels"`
	Annotations       map[string]string `json:"annotations"`
	CreationTimestamp string            `json:"creationTimestamp"`
	OwnerReferences   []Owner           `json:"ownerReferences"`
}

// Owner is an object that another belongs to.
type Owner struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Name       string `json:"name"`
	UID        string `json:"uid"`
	Controller bool   `json:"controller"`
}

// key orders objects as the API server lists them.
func (m *Meta) key() string { return m.Namespace + "/" + m.Name }

// Object is one object, as the API server gave it.
type Object struct {
	Type Type
	Meta Meta
	Raw  jsontext.Value
}

func newObject(t Type, raw jsontext.Value) (Object, error) {
	var head struct {
		Metadata Meta `json:"metadata"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return Object{}, fmt.Errorf("decoding one of the %s: %w", t, err)
	}
	return Object{Type: t, Meta: head.Metadata, Raw: raw.Clone()}, nil
}

// StatusError is what the API server answers to what it does not do.
type StatusError struct {
	Code    int    `json:"code"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

func (e *StatusError) Error() string { return fmt.Sprintf("%d %s: %s", e.Code, e.Reason, e.Message) }

// ErrNotFound is returned for an object, or a type, that is not there.
var ErrNotFound = errors.New("not found")

// Is makes a 404 an ErrNotFound.
func (e *StatusError) Is(target error) bool {
	return target == ErrNotFound && e.Code == http.StatusNotFound
}

// gone says that the API server has forgotten a resource version.
func gone(err error) bool {
	var status *StatusError
	return errors.As(err, &status) && (status.Code == http.StatusGone || status.Reason == "Expired")
}

// Client asks one API server. It reads, but for what write.go has.
type Client struct {
	base *url.URL
	http *http.Client // nil outside of a cluster that the settings are for
}

// errOutside is why a cluster cannot be asked whose settings are those of a pod in
// it. They are no fault: a configuration can be checked anywhere.
var errOutside = errors.New("no kubeconfig is named, and this is no pod with a service account")

// NewClient returns a client of the cluster that the settings name. It does not
// ask it anything.
func NewClient(s Settings) (*Client, error) {
	config, err := s.config()
	if errors.Is(err, rest.ErrNotInCluster) {
		return &Client{}, nil
	}
	if err != nil {
		return nil, err
	}
	config.UserAgent = "retrace"
	base, _, err := rest.DefaultServerURL(config.Host, "", groupless, rest.IsConfigTransportTLS(*config))
	if err != nil {
		return nil, fmt.Errorf("reading the address of the cluster: %w", err)
	}
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("reading the credentials for the cluster: %w", err)
	}
	return &Client{base: base, http: httpClient}, nil
}

// maxAnswer is how many bytes one answer may have: a page of objects, each of
// which etcd holds to 1.5 MB.
const maxAnswer = 512 << 20

// get reads a whole answer into v.
func (c *Client) get(ctx context.Context, path string, query url.Values, v any) error {
	body, err := c.open(ctx, path, query)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := json.UnmarshalRead(io.LimitReader(body, maxAnswer), v); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}

// open begins a request. An answer that is no success is a *StatusError.
func (c *Client) open(ctx context.Context, path string, query url.Values) (io.ReadCloser, error) {
	return c.send(ctx, http.MethodGet, path, query, "", nil)
}

// send begins a request with a body, nil for none.
func (c *Client) send(ctx context.Context, method, path string, query url.Values, contentType string, content []byte) (io.ReadCloser, error) {
	if c.http == nil {
		return nil, errOutside
	}
	ctx, cancel := context.WithCancel(ctx)
	u := *c.base
	u.Path = strings.TrimSuffix(u.Path, "/") + path
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(content))
	if err != nil {
		cancel()
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	// What is answered may take its time, a watch minutes; that it begins may not.
	impatient := time.AfterFunc(answerTimeout, cancel)
	resp, err := c.http.Do(req)
	if !impatient.Stop() && err != nil {
		err = fmt.Errorf("no answer within %s", answerTimeout)
	}
	if err != nil {
		cancel()
		return nil, fmt.Errorf("asking for %s: %w", path, err)
	}
	if resp.StatusCode == http.StatusOK || method == http.MethodPost && resp.StatusCode == http.StatusCreated {
		return &answer{resp.Body, cancel}, nil
	}
	defer cancel()
	defer resp.Body.Close()
	status := &StatusError{}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil || json.Unmarshal(raw, status) != nil || status.Code == 0 {
		status = &StatusError{Code: resp.StatusCode, Reason: http.StatusText(resp.StatusCode), Message: "the answer is not a Status of Kubernetes"}
	}
	return nil, fmt.Errorf("asking for %s: %w", path, status)
}

// answerTimeout is how long the API server may take to begin an answer.
const answerTimeout = 30 * time.Second

// answer is the body of an answer, with what ends the request.
type answer struct {
	io.ReadCloser
	cancel context.CancelFunc
}

// Close implements io.Closer.
func (a *answer) Close() error {
	defer a.cancel()
	return a.ReadCloser.Close()
}

// Get returns one object. The error is ErrNotFound where there is none.
func (c *Client) Get(ctx context.Context, t Type, namespace, name string) (Object, error) {
	var raw jsontext.Value
	if err := c.get(ctx, path.Join(t.path(namespace), name), nil, &raw); err != nil {
		return Object{}, err
	}
	return newObject(t, raw)
}

// Serves says whether the API server has the type: that of a custom resource
// whose definition is not installed is not there.
func (c *Client) Serves(ctx context.Context, t Type) (bool, error) {
	var list struct {
		Resources []struct {
			Name string `json:"name"`
		} `json:"resources"`
	}
	err := c.get(ctx, t.root(), nil, &list)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, r := range list.Resources {
		if r.Name == t.Plural {
			return true, nil
		}
	}
	return false, nil
}
