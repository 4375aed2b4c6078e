package argo

import (
	"regexp"
	"strings"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/schema"
)

// location is where an artifact is, in one of the ways that Argo knows.
type location struct {
	S3    *bucketKey `json:"s3"`
	GCS   *bucketKey `json:"gcs"`
	OSS   *bucketKey `json:"oss"`
	Azure *azureBlob `json:"azure"`
	HTTP  *struct {
		URL string `json:"url"`
	} `json:"http"`
	Artifactory *struct {
		URL string `json:"url"`
	} `json:"artifactory"`
	Git *struct {
		Repo     string `json:"repo"`
		Revision string `json:"revision"`
	} `json:"git"`
	Raw *struct {
		Data string `json:"data"`
	} `json:"raw"`
}

type bucketKey struct {
	Bucket string `json:"bucket"`
	Key    string `json:"key"`
}

type azureBlob struct {
	Endpoint  string `json:"endpoint"`
	Container string `json:"container"`
	Blob      string `json:"blob"`
}

type artifact struct {
	location
	Name string `json:"name"`
	Path string `json:"path"`
}

// descriptor describes the artifact by where it is, or by its bytes where they
// stand in the Workflow itself. It reports false where the Workflow does not
// say where it is.
func (a *artifact) descriptor(repository *location) (schema.Descriptor, bool) {
	d := schema.Descriptor{Name: a.Name, Annotations: map[string]any{}}
	if a.Path != "" {
		d.Annotations[schema.AnnotationPath] = a.Path
	}
	switch {
	case a.Git != nil:
		d.URI = ingest.WithoutCredentials(a.Git.Repo)
		if commitPattern.MatchString(a.Git.Revision) {
			d.Digest = schema.DigestSet{schema.GitCommit: a.Git.Revision}
		}
		return d, d.URI != ""
	case a.Raw != nil:
		d.Digest = schema.DigestSet{schema.SHA256: schema.BytesKey([]byte(a.Raw.Data)).Hex()}
		return d, true
	}
	d.URI = a.location.uri(repository)
	return d, d.URI != ""
}

// commitPattern is a whole object ID of Git.
var commitPattern = regexp.MustCompile(`^[0-9a-f]{40}$`)

// uri is the location as retrace writes it; "" where it is not told. A bucket
// that is not named is that of the repository of the whole Workflow.
func (l *location) uri(repository *location) string {
	in := func(scheme string, b, whole *bucketKey) string {
		if b == nil || b.Key == "" {
			return ""
		}
		bucket := b.Bucket
		if bucket == "" && whole != nil {
			bucket = whole.Bucket
		}
		if bucket == "" {
			return ""
		}
		return scheme + "://" + bucket + "/" + strings.TrimPrefix(b.Key, "/")
	}
	switch {
	case l.S3 != nil:
		return in("s3", l.S3, repository.S3)
	case l.GCS != nil:
		return in("gs", l.GCS, repository.GCS)
	case l.OSS != nil:
		return in("oss", l.OSS, repository.OSS)
	case l.Azure != nil && l.Azure.Container != "" && l.Azure.Blob != "":
		return strings.TrimSuffix(l.Azure.Endpoint, "/") + "/" + l.Azure.Container + "/" + l.Azure.Blob
	case l.HTTP != nil:
		return ingest.WithoutCredentials(l.HTTP.URL)
	case l.Artifactory != nil:
		return ingest.WithoutCredentials(l.Artifactory.URL)
	}
	return ""
}

// normal writes one location in one way: Kubeflow calls its own store minio.
func normal(uri string) string {
	if rest, ok := strings.CutPrefix(uri, "minio://"); ok {
		return "s3://" + rest
	}
	return uri
}

// objectPattern is the location of an object in a store, where a parameter holds
// nothing else.
var objectPattern = regexp.MustCompile(`^(s3|minio|gs|oss|azure|hdfs|abfss?|wasbs?)://[^\s/]+/\S+$`)
