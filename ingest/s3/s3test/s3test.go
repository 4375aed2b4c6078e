// Package s3test runs a real MinIO for tests.
package s3test

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

const (
	version      = "v0.0.0-20260212201848-7aac2a2c5b7c" // as ci/minio.sh builds it
	readyTimeout = 60 * time.Second
)

// AccessKey and SecretKey are those of a user who may do everything.
const (
	AccessKey = "s3test"
	SecretKey = "s3test-secret"
)

// Server is a running MinIO.
type Server struct {
	URL    string
	Client *minio.Client
	stop   func()
}

// Start runs a MinIO until the test ends. It skips a test where there is none, or
// fails it where every part has to be there.
func Start(t testing.TB) *Server {
	t.Helper()
	binary := part(t)
	dir := t.TempDir()
	addresses := [2]string{}
	for i := range addresses {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		addresses[i] = l.Addr().String()
		l.Close()
	}
	cmd := exec.Command(binary, "server", dir, "--address", addresses[0], "--console-address", addresses[1])
	cmd.Env = append(os.Environ(), "MINIO_ROOT_USER="+AccessKey, "MINIO_ROOT_PASSWORD="+SecretKey, "MINIO_UPDATE=off", "HOME="+dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &Server{URL: "http://" + addresses[0]}
	s.stop = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
	}
	t.Cleanup(s.Stop)
	client, err := minio.New(addresses[0], &minio.Options{Creds: credentials.NewStaticV4(AccessKey, SecretKey, "")})
	if err != nil {
		t.Fatal(err)
	}
	s.Client = client
	for end := time.Now().Add(readyTimeout); ; time.Sleep(100 * time.Millisecond) {
		resp, err := http.Get(s.URL + "/minio/health/ready")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return s
			}
		}
		if time.Now().After(end) {
			t.Fatalf("MinIO is not ready after %s: %v", readyTimeout, err)
		}
	}
}

func part(t testing.TB) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(cache, "retrace-parts", "minio-"+version, "minio")
	if _, err := os.Stat(binary); err != nil {
		if os.Getenv("RETRACE_TEST_NOSKIP") == "1" {
			t.Fatalf("no MinIO (ci/minio.sh builds it): %v", err)
		}
		t.Skipf("no MinIO (ci/minio.sh builds it): %v", err)
	}
	return binary
}

// Stop ends the server.
func (s *Server) Stop() { s.stop() }

// Bucket makes a bucket of its own for a test, which keeps versions if asked to.
func (s *Server) Bucket(t testing.TB, versions bool) string {
	t.Helper()
	name := "b-" + strings.ToLower(rand.Text()[:10])
	ctx := context.Background()
	if err := s.Client.MakeBucket(ctx, name, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	if versions {
		if err := s.Client.EnableVersioning(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	return name
}

// Put writes an object.
func (s *Server) Put(t testing.TB, bucket, key, text string) {
	t.Helper()
	_, err := s.Client.PutObject(context.Background(), bucket, key, strings.NewReader(text), int64(len(text)), minio.PutObjectOptions{})
	if err != nil {
		t.Fatal(fmt.Errorf("writing %s/%s: %w", bucket, key, err))
	}
}
