package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/retrace-ledger/retrace/content"
	"github.com/retrace-ledger/retrace/ingest"
)

// contentFile in a ledger's folder says where its content is kept. Without it,
// that is in the folder itself.
const contentFile = "content.yaml"

// contentConfig is content.yaml.
type contentConfig struct {
	// Store is an absolute path, or s3://BUCKET/PREFIX. Several ledgers may name
	// the same.
	Store string `yaml:"store"`
	// Of an object store: where it answers, Amazon if empty, who asks, and what
	// encrypts all that is kept there.
	Endpoint  string        `yaml:"endpoint"`
	Region    string        `yaml:"region"`
	AccessKey contentSecret `yaml:"accessKey"`
	SecretKey contentSecret `yaml:"secretKey"`
	Password  contentSecret `yaml:"password"`
}

// contentSecret is an ingest.Secret as YAML writes it.
type contentSecret struct {
	File string `yaml:"file"`
	Env  string `yaml:"env"`
}

func (s contentSecret) read(field string) (string, error) {
	v, err := ingest.Secret(s).Read()
	if err != nil {
		return "", fmt.Errorf("%s in %s: %w", field, contentFile, err)
	}
	return v, nil
}

// openContent opens the content store of the ledger in dir, which leaves that
// folder out of whatever it keeps.
func openContent(ctx context.Context, dir string) (*content.Store, error) {
	opts := &content.Options{Exclude: []string{dir}, Cache: filepath.Join(dir, cacheDir, "folders")}
	vkey, err := os.ReadFile(filepath.Join(dir, logVKeyFile))
	if err != nil {
		return nil, err
	}
	opts.Owner, _, _ = strings.Cut(string(vkey), "+")
	at, err := contentPlace(dir, opts)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, contentFile), err)
	}
	return content.Open(ctx, at, opts)
}

// contentPlace is the folder of the content store of the ledger in dir. Where
// the bytes are in an object store, opts says so, and the folder is beside it.
func contentPlace(dir string, opts *content.Options) (string, error) {
	here := filepath.Join(dir, contentDir)
	raw, err := os.ReadFile(filepath.Join(dir, contentFile))
	if errors.Is(err, fs.ErrNotExist) {
		return here, nil
	}
	if err != nil {
		return "", err
	}
	var c contentConfig
	if err := yaml.UnmarshalWithOptions(raw, &c, yaml.Strict()); err != nil {
		return "", err
	}
	bucket, isS3 := strings.CutPrefix(c.Store, "s3://")
	if isS3 {
		opts.Remote, err = c.remote(bucket)
		return here, err
	}
	if !filepath.IsAbs(c.Store) {
		return "", fmt.Errorf("store: %q is neither an absolute path nor s3://BUCKET/PREFIX", c.Store)
	}
	if c != (contentConfig{Store: c.Store}) {
		return "", errors.New("only an object store (s3://) has an endpoint, keys and a password")
	}
	return c.Store, nil
}

func (c *contentConfig) remote(at string) (*content.Remote, error) {
	r := &content.Remote{Endpoint: c.Endpoint, Region: c.Region, Secrets: c.secrets}
	r.Bucket, r.Prefix, _ = strings.Cut(strings.TrimSuffix(at, "/"), "/")
	if r.Bucket == "" {
		return nil, errors.New("store: s3:// names no bucket")
	}
	for _, s := range []struct {
		field string
		from  contentSecret
	}{{"accessKey", c.AccessKey}, {"secretKey", c.SecretKey}, {"password", c.Password}} {
		if !ingest.Secret(s.from).Given() {
			return nil, fmt.Errorf("%s is missing: an object store needs one, as {file: NAME} or {env: NAME}", s.field)
		}
	}
	return r, nil
}

// secrets reads what the configuration names. Commands that read and write no
// content do without.
func (c *contentConfig) secrets() (s content.RemoteSecrets, err error) {
	if s.AccessKey, err = c.AccessKey.read("accessKey"); err != nil {
		return s, err
	}
	if s.SecretKey, err = c.SecretKey.read("secretKey"); err != nil {
		return s, err
	}
	s.Password, err = c.Password.read("password")
	return s, err
}
