package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/retrace-ledger/retrace/client"
	"github.com/retrace-ledger/retrace/content"
	"github.com/retrace-ledger/retrace/graphql"
	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/ledger/witness"
	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// A Ledger is what is served. *ledger.Ledger is one.
type Ledger interface {
	graphql.Log
	lineage.Log
	verify.CosignedLog
	Cursor(ctx context.Context, namespace, source string) (string, error)
	Erase(ctx context.Context, index int64, env schema.Envelope) (schema.Receipt, error)
	Wait(ctx context.Context, size int64) error
	Confront(ctx context.Context, note []byte) error
	Handler() http.Handler
	Origin() string
	Backup(ctx context.Context, w io.Writer, withKeys bool, report func(ledger.Progress)) (ledger.BackupInfo, error)
}

// A Restorer plans restorations; the plan can be done.
type Restorer interface {
	Plan(ctx context.Context, v *lineage.View, ref lineage.Ref) (*graphql.Plan, error)
}

// Options of a Server. Everything may be left out.
type Options struct {
	// Content is where bytes are kept; without it, none are taken or given.
	Content *content.Store
	// Held says which bytes can be restored; Content alone if nil.
	Held lineage.Held
	// Restorer plans restorations; without it, none are made.
	Restorer Restorer
	// Reverts plans reverts; without it, none are.
	Reverts graphql.Reverts
	// Places are the folders that a restoration may be asked to go to, by name.
	Places map[string]string
	// Limits of GraphQL requests.
	Limits graphql.Limits
	// NoIntrospection has GraphQL not show its schema.
	NoIntrospection bool
	// MaxContent is how many bytes one upload may have; 64 GiB if 0.
	MaxContent int64
	// Scratch is a folder where uploads lie until they are kept, outside the
	// ledger's own; the system's if "".
	Scratch string
	// Witnesses says how far the ledger's witnesses are; nil if it has none.
	Witnesses func() witness.Status
	// Sources says how the sources are doing that are watched; nil if none are.
	Sources func() []client.SourceState
	// Hook takes a delivery to /webhooks/NAME and says how many sources it had
	// looked at, and whether it is about one and not signed as that wants. Nil if
	// no deliveries are taken.
	Hook func(name string, header http.Header, body []byte) (woken int, forged bool)
	// Settle is how long an ended run of OpenLineage waits for events that are
	// late, Overdue how long one that does not end; ten seconds and a day if 0.
	Settle, Overdue time.Duration
	// Wake says how many sources are watched that a CloudEvent with this source and
	// subject is about, and with now has them looked at. Nil if none are watched.
	Wake   func(source, subject string, now bool) int
	Logger *slog.Logger // slog.Default if nil
}

// Server serves one ledger over HTTP.
type Server struct {
	dir     string
	ledger  Ledger
	graph   *lineage.Graph
	api     *graphql.API
	opt     Options
	log     *slog.Logger
	token   string
	tokens  tokens
	jobs    *jobs
	runs    *runs
	metrics *metrics
	handler http.Handler

	// begun is the ledger's size when it was opened: answers of less are of the
	// past.
	begun int64

	mu     sync.Mutex
	behind error // why the graph does not follow; nil while it does
}

// New returns a server of the ledger in dir. While it runs, its graph follows
// the ledger; one that is far behind holds up nothing but /readyz. The token is
// made anew for every server.
func New(dir string, log Ledger, graph *lineage.Graph, opt *Options) (*Server, error) {
	s := &Server{dir: dir, ledger: log, graph: graph, begun: log.Size(), token: rand.Text(), tokens: tokens{dir: dir}}
	if opt != nil {
		s.opt = *opt
	}
	if s.opt.MaxContent == 0 {
		s.opt.MaxContent = 64 << 30
	}
	if s.log = s.opt.Logger; s.log == nil {
		s.log = slog.Default()
	}
	var err error
	if s.runs, err = newRuns(filepath.Join(dir, "openlineage"), s.opt.Settle, s.opt.Overdue, s.log); err != nil {
		return nil, err
	}
	s.metrics = newMetrics(s)
	apiOptions := &graphql.Options{Limits: s.opt.Limits, Held: s.held(), Logger: s.log, Observe: s.metrics.query, Explain: explain, NoIntrospection: s.opt.NoIntrospection}
	if s.opt.Restorer != nil {
		if s.jobs, err = newJobs(filepath.Join(dir, "restorations"), s.opt.Restorer, s.opt.Places, graph, s.log); err != nil {
			return nil, err
		}
		apiOptions.Restores = s.jobs
	}
	apiOptions.Reverts = s.opt.Reverts
	if s.api, err = graphql.New(graph, s.measured(), apiOptions); err != nil {
		return nil, err
	}
	s.handler = s.guard(s.routes(false))
	return s, nil
}

// held says which bytes are kept.
func (s *Server) held() lineage.Held {
	if s.opt.Held != nil || s.opt.Content == nil {
		return s.opt.Held
	}
	return contentHeld(s.opt.Content)
}

// Token is what callers prove themselves with.
func (s *Server) Token() string { return s.token }

// Registry holds the server's metrics.
func (s *Server) Registry() *prometheus.Registry { return s.metrics.registry }

// CheckAddress returns address as Listen takes it. It has to be on loopback:
// nothing else is served without TLS and authentication.
func CheckAddress(address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", fmt.Errorf("%q is not an address to listen on: want HOST:PORT, such as 127.0.0.1:8470", address)
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	ip := net.ParseIP(host)
	if ip == nil || !ip.IsLoopback() {
		return "", fmt.Errorf("refusing to listen on %s: only loopback is served (127.0.0.1 or ::1), since there is no TLS and no sign-in; reach it from elsewhere through an SSH tunnel with the same port", address)
	}
	return net.JoinHostPort(host, port), nil
}

// Listen listens on address, which has to pass CheckAddress.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	checked, err := CheckAddress(address)
	if err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", checked)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", address, err)
	}
	return l, nil
}

// Times that connections may take. What is streamed has no limit of its own.
const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	stopTimeout   = 10 * time.Second
	maxHeader     = 256 << 10 // bytes; a GET may carry a query
)

// Run serves on listener until ctx ends, and then stops: it takes no more
// requests, lets those that run end, and waits for restorations to be left in a
// state that says how far they came. While it serves, server.json says where.
func (s *Server) Run(ctx context.Context, listener net.Listener) error {
	if err := writeAddress(s.dir, listener.Addr(), s.token); err != nil {
		listener.Close()
		return err
	}
	defer removeAddress(s.dir, s.token)
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer s.api.Drain() // sockets are no connections of the HTTP server
	defer stop()
	if s.jobs != nil {
		s.jobs.begin(run)
		defer s.jobs.wait()
		defer stop() // before wait: what runs is told to stop
	}
	h := &http.Server{
		Handler: s.handler, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		BaseContext: func(net.Listener) context.Context { return run },
		ErrorLog:    slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	group, following := errgroup.WithContext(run)
	group.Go(func() error { return s.follow(following) })
	group.Go(func() error { return s.runs.record(following, s.measured().Append) })
	group.Go(func() error {
		if err := h.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serving on %s: %w", listener.Addr(), err)
		}
		return nil
	})
	group.Go(func() error {
		select {
		case <-ctx.Done():
		case <-following.Done():
		}
		grace, cancel := context.WithTimeout(run, stopTimeout)
		defer cancel()
		if err := h.Shutdown(grace); err != nil {
			h.Close()
		}
		stop()
		return nil
	})
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// retryFollow is how long the graph rests after it could not follow.
const retryFollow = time.Second

// follow keeps the graph following the log until ctx ends. A failure is shown
// by /readyz and tried again: reading goes on, as of the size that was reached.
func (s *Server) follow(ctx context.Context) error {
	for {
		err := s.graph.Follow(ctx, s.ledger)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.setBehind(err)
		if err != nil {
			s.log.ErrorContext(ctx, "following the log", "size", s.graph.Size(), "err", err)
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(retryFollow):
			}
			continue
		}
		if err := s.ledger.Wait(ctx, s.graph.Size()+1); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("waiting for the ledger: %w", err)
		}
	}
}

func (s *Server) setBehind(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.behind = err
}

// ready is nil when answers speak for what the ledger holds.
func (s *Server) ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.behind != nil:
		return errors.New("the graph does not follow the log; the server's log says why")
	case s.graph.Size() < s.begun:
		return fmt.Errorf("the graph has followed %d of %d entries so far; tiles are served already", s.graph.Size(), s.begun)
	}
	return nil
}
