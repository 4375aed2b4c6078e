package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/retrace-ledger/retrace/ingest"
)

// Name is the name of this kind.
const Name = "s3"

// settings are those of a place.
type settings struct {
	// Endpoint is the URL of the store; that of AWS_ENDPOINT_URL, or of Amazon,
	// if empty.
	Endpoint string `json:"endpoint,omitempty"`
	Region   string `json:"region,omitempty"`
	// AccessKey and SecretKey are credentials. Without them those of the
	// environment, of ~/.aws/credentials or of the machine's or the service
	// account's role are used.
	AccessKey ingest.Secret `json:"accessKey,omitzero"`
	SecretKey ingest.Secret `json:"secretKey,omitzero"`
}

// bucket is a bucket, or a part of one, and how it is reached.
type bucket struct {
	name   string
	prefix string // of keys; "" for all, else without a slash at either end
	client *minio.Client
}

// Kind is how ingest/all lists this package.
func Kind() ingest.Kind {
	return ingest.Kind{
		Name: Name, Schemes: []string{Name}, Open: open,
		NewFetcher: func(env ingest.Env) ingest.Fetcher { return &fetcher{env} },
	}
}

func open(_ context.Context, place ingest.Place, env ingest.Env) (ingest.Source, string, error) {
	b, err := openBucket(place)
	if err != nil {
		return nil, "", err
	}
	if env.Entries == nil {
		return nil, "", errors.New("objects are looked at when a recorded step left them, and there is no ledger at hand to tell")
	}
	return &source{bucket: b, entries: env.Entries, hashed: map[string]hashed{}}, b.uri(b.prefix), nil
}

// openBucket reads s3://BUCKET[/PREFIX]. The store is not asked.
func openBucket(place ingest.Place) (*bucket, error) {
	b, err := parseURL(place.URL)
	if err != nil {
		return nil, err
	}
	var s settings
	if err := place.Settings(&s); err != nil {
		return nil, err
	}
	b.client, err = s.client()
	return b, err
}

// parseURL reads the location of a bucket or of what is in it.
func parseURL(rawURL string) (*bucket, error) {
	u, err := url.Parse(rawURL)
	if err != nil || u.Scheme != Name || u.Host == "" || u.User != nil || u.Port() != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%q is not the URL of a bucket: want s3://BUCKET or s3://BUCKET/PREFIX", rawURL)
	}
	return &bucket{name: u.Host, prefix: strings.Trim(strings.TrimPrefix(rawURL, Name+"://"+u.Host), "/")}, nil
}

// uri is the location of a key.
func (b *bucket) uri(key string) string {
	return strings.TrimSuffix(Name+"://"+b.name+"/"+key, "/")
}

// key is that of a location, if it is in the bucket and below its prefix.
func (b *bucket) key(uri string) (string, bool) {
	key, ok := strings.CutPrefix(uri, Name+"://"+b.name+"/")
	key = strings.TrimRight(key, "/")
	if !ok || key == "" {
		return "", false
	}
	return key, b.prefix == "" || key == b.prefix || strings.HasPrefix(key, b.prefix+"/")
}

// client is one of the store that the settings name.
func (s *settings) client() (*minio.Client, error) {
	endpoint := s.Endpoint
	if endpoint == "" {
		endpoint = os.Getenv("AWS_ENDPOINT_URL")
	}
	if endpoint == "" {
		endpoint = "https://s3.amazonaws.com"
	}
	if ingest.WithoutCredentials(endpoint) != endpoint {
		return nil, ingest.Setting("endpoint", errors.New("it holds credentials: name them with accessKey and secretKey, by file or variable"))
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.User != nil {
		return nil, ingest.Setting("endpoint", fmt.Errorf("%q is not the URL of a store: want https://HOST or http://HOST:PORT", endpoint))
	}
	creds, err := s.credentials()
	if err != nil {
		return nil, err
	}
	client, err := minio.New(u.Host, &minio.Options{Creds: creds, Secure: u.Scheme == "https", Region: s.Region})
	if err != nil {
		return nil, ingest.Setting("endpoint", err)
	}
	return client, nil
}

// roleTimeout is how long whoever gives out credentials of roles may take. Outside
// of clouds nobody answers there.
const roleTimeout = 5 * time.Second

func (s *settings) credentials() (*credentials.Credentials, error) {
	if s.AccessKey.Given() != s.SecretKey.Given() {
		return nil, ingest.Setting("secretKey", errors.New("an access key and a secret key are given both, or neither"))
	}
	if !s.AccessKey.Given() {
		return credentials.NewChainCredentials([]credentials.Provider{
			&credentials.EnvAWS{}, &credentials.EnvMinio{}, &credentials.FileAWSCredentials{}, &credentials.IAM{Client: &http.Client{Timeout: roleTimeout}},
		}), nil
	}
	return credentials.New(&named{s.AccessKey, s.SecretKey}), nil
}

// named are credentials in files or variables, which are read for each request:
// they are exchanged while the program runs.
type named struct{ access, secret ingest.Secret }

// Retrieve implements credentials.Provider.
func (n *named) Retrieve() (credentials.Value, error) {
	access, err := n.access.Read()
	if err != nil {
		return credentials.Value{}, fmt.Errorf("reading the access key: %w", err)
	}
	secret, err := n.secret.Read()
	if err != nil {
		return credentials.Value{}, fmt.Errorf("reading the secret key: %w", err)
	}
	return credentials.Value{AccessKeyID: access, SecretAccessKey: secret, SignerType: credentials.SignatureV4}, nil
}

// RetrieveWithCredContext implements credentials.Provider.
func (n *named) RetrieveWithCredContext(*credentials.CredContext) (credentials.Value, error) {
	return n.Retrieve()
}

// IsExpired implements credentials.Provider.
func (n *named) IsExpired() bool { return true }

// code is what the store says went wrong, "" if it is not the store that says
// so.
func code(err error) string {
	var r minio.ErrorResponse
	if errors.As(err, &r) {
		return r.Code
	}
	return ""
}

// missing says that there is nothing under a key.
func missing(err error) bool {
	c := code(err)
	return c == minio.NoSuchKey || c == minio.NoSuchVersion || c == minio.MethodNotAllowed
}

// denied says that the store lets us not read something, and would not if it
// were asked again.
func denied(err error) bool { return code(err) == minio.AccessDenied }
