package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// ServeTLS serves callers from elsewhere on address until ctx ends. All but the
// log's own tiles and checkpoints, and deliveries that sources check themselves,
// needs a token of TokensFile with the role for it. The certificate is read
// again when its files change.
func (s *Server) ServeTLS(ctx context.Context, address, certFile, keyFile string) error {
	pair := &certificate{certFile: certFile, keyFile: keyFile}
	if _, err := pair.get(nil); err != nil {
		return err
	}
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listening for callers from elsewhere on %s: %w", address, err)
	}
	s.log.InfoContext(ctx, "serving callers from elsewhere", "address", "https://"+listener.Addr().String())
	routes := s.routes(true)
	run, stopRequests := context.WithCancel(context.WithoutCancel(ctx))
	defer s.api.Drain()
	defer stopRequests()
	h := &http.Server{
		BaseContext: func(net.Listener) context.Context { return run },
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			harden(w)
			routes.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		TLSConfig: &tls.Config{GetCertificate: pair.get, MinVersion: tls.VersionTLS12},
		ErrorLog:  slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		if err := h.Shutdown(grace); err != nil {
			h.Close()
		}
	})
	defer stop()
	if err := h.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving callers from elsewhere on %s: %w", address, err)
	}
	<-ended
	return ctx.Err()
}

// CheckCertificate refuses files that hold no certificate with its key.
func CheckCertificate(certFile, keyFile string) error {
	_, err := (&certificate{certFile: certFile, keyFile: keyFile}).get(nil)
	return err
}

// certificate is a pair of files that somebody renews.
type certificate struct {
	certFile, keyFile string

	mu    sync.Mutex
	stamp [2]time.Time
	pair  *tls.Certificate
}

// get is tls.Config.GetCertificate. Files that are being exchanged and do not
// fit together yet leave the pair before them in use.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var stamp [2]time.Time
	for i, name := range []string{c.certFile, c.keyFile} {
		if info, err := os.Stat(name); err == nil {
			stamp[i] = info.ModTime()
		}
	}
	if c.pair != nil && stamp == c.stamp {
		return c.pair, nil
	}
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		if c.pair != nil {
			return c.pair, nil
		}
		return nil, fmt.Errorf("reading the certificate %s and its key %s: %w", c.certFile, c.keyFile, err)
	}
	c.pair, c.stamp = &pair, stamp
	return c.pair, nil
}
