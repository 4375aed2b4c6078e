//go:build unix

package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/retrace-ledger/retrace/client"
	"github.com/retrace-ledger/retrace/schema"
)

var long = flag.Bool("long", false, "hold the end of a server to two seconds, which it takes on a machine that does nothing else")

// TestStopServerUnderLoad sends SIGTERM to a server while clients append,
// query and wait: it ends by itself and soon, and each append that a client
// was told of is there.
func TestStopServerUnderLoad(t *testing.T) {
	const appenders, readers, atLeast = 48, 16, 500
	dir := t.TempDir()
	done(t, dir, "init")
	server := retraceCommand(t, dir, "serve", "--listen", "127.0.0.1:0")
	stderr, err := server.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stderr)
	if said, err := lines.ReadString('\n'); err != nil || !strings.Contains(said, "at http://127.0.0.1:") {
		t.Fatalf("serve said %q, %v", said, err)
	}
	rest := make(chan string, 1)
	go func() {
		said, _ := io.ReadAll(lines)
		rest <- string(said)
	}()
	c, err := client.Discover(t.Context(), filepath.Join(dir, dirName))
	for errors.Is(err, client.ErrNoServer) && t.Context().Err() == nil { // it says where it is before it writes it down
		c, err = client.Discover(t.Context(), filepath.Join(dir, dirName))
	}
	if err != nil {
		t.Fatal(err)
	}

	var acknowledged atomic.Int64
	enough := make(chan struct{})
	var clients sync.WaitGroup
	for g := range appenders {
		clients.Go(func() {
			for n := 0; ; n++ {
				env, err := shutdownNote(g, n)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := c.Append(context.Background(), schema.Batch{Envelopes: []schema.Envelope{env}}); err != nil {
					return
				}
				if acknowledged.Add(1) == atLeast {
					close(enough)
				}
			}
		})
	}
	for range readers {
		clients.Go(func() {
			for {
				var out struct {
					Models struct{ TotalCount int }
				}
				if err := c.Query(context.Background(), `{ models(first: 10) { totalCount } }`, nil, &out); err != nil {
					return
				}
			}
		})
	}
	select {
	case <-enough:
	case said := <-rest:
		t.Fatalf("serve ended by itself: %s", said)
	}
	began := time.Now()
	if err := server.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	said := <-rest // its end: stderr is closed
	err = server.Wait()
	took := time.Since(began)
	if err != nil {
		t.Errorf("serve, told to end: %v\n%s", err, said)
	}
	clients.Wait()
	within := 20 * time.Second
	if *long {
		within = 2 * time.Second
	}
	t.Logf("the server ended %v after SIGTERM, with %d clients and %d entries acknowledged", took.Round(time.Millisecond), appenders+readers, acknowledged.Load())
	if took > within {
		t.Errorf("the server took %v to end, want at most %v", took, within)
	}
	done(t, dir, "fsck")
	// What was committed when its client went away is there as well.
	if n := int64(size(t, dir)); n < 1+acknowledged.Load() || n > 1+acknowledged.Load()+appenders {
		t.Errorf("%d entries, want the %d acknowledged", n, 1+acknowledged.Load())
	}
}

func shutdownNote(g, n int) (schema.Envelope, error) {
	return schema.NewEnvelope(schema.PayloadType, fmt.Appendf(nil,
		`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"%032x%032x"}}],"predicateType":"https://example.com/x","predicate":{}}`, g, n))
}
