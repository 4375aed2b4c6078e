package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"

	"github.com/retrace-ledger/retrace/client"
	"github.com/retrace-ledger/retrace/content"
	"github.com/retrace-ledger/retrace/graphql"
	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
)

func contentHeld(store *content.Store) lineage.Held {
	return func(ctx context.Context, r schema.Resource) (bool, error) { return store.Has(ctx, r.Key) }
}

// contentKey is the key that a request is about.
func (s *Server) contentKey(r *http.Request) (schema.Key, error) {
	if s.opt.Content == nil {
		return "", &graphql.Error{Code: graphql.CodeUnavailable, Message: "this server keeps no content"}
	}
	key, err := schema.ParseKey(r.PathValue("key"))
	if err != nil {
		return "", below("key", err)
	}
	return key, nil
}

// getContent streams the bytes of a resource as they were digested: of a file
// itself, of a folder a tar file. Bytes that turn out to be damaged on the way
// break the connection off.
func (s *Server) getContent(w http.ResponseWriter, r *http.Request) {
	key, err := s.contentKey(r)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	info, err := s.opt.Content.Stat(r.Context(), key)
	if err != nil {
		s.refuse(w, r, keptError(key, err))
		return
	}
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set(client.KeyHeader, string(info.Key))
	folder := info.Key.Algorithm() == schema.RetraceTree1
	if folder {
		h.Set("Content-Type", client.MediaTar)
	} else {
		h.Set("Content-Type", client.MediaBytes)
		h.Set("Content-Length", strconv.FormatInt(info.Size, 10))
	}
	if r.Method == http.MethodHead {
		return
	}
	cw := &countingWriter{w: w}
	if folder {
		err = s.opt.Content.WriteTar(r.Context(), info.Key, cw)
	} else {
		err = s.streamFile(r.Context(), info.Key, cw)
	}
	if err != nil {
		h.Del("Content-Length")
		s.broken(w, r, cw.n, err)
	}
}

func (s *Server) streamFile(ctx context.Context, key schema.Key, w io.Writer) error {
	rd, err := s.opt.Content.Open(ctx, key)
	if err != nil {
		return err
	}
	defer rd.Close()
	_, err = io.Copy(w, rd)
	return err
}

func keptError(key schema.Key, err error) error {
	if errors.Is(err, content.ErrNotKept) {
		return &graphql.Error{Code: graphql.CodeNotFound, Message: fmt.Sprintf("the bytes of %s are not kept here", key), Err: err}
	}
	return err
}

type countingWriter struct {
	w io.Writer
	n int
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += n
	return n, err
}

// putContent keeps the bytes in the body, which have to be those of the key:
// of sha256 a file, of retraceTree1 a tar file of a folder. They are kept once
// they were digested, and not before.
func (s *Server) putContent(w http.ResponseWriter, r *http.Request) {
	key, err := s.contentKey(r)
	if err == nil {
		err = s.keep(w, r, key)
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	s.answerJSON(w, r, map[string]any{"key": key})
}

func (s *Server) keep(w http.ResponseWriter, r *http.Request, key schema.Key) error {
	if kept, err := s.opt.Content.Has(r.Context(), key); err != nil || kept {
		return err
	}
	dir, err := os.MkdirTemp(s.opt.Scratch, "retrace-upload-")
	if err != nil {
		return fmt.Errorf("making room for an upload: %w", err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "x")
	body := http.MaxBytesReader(w, r.Body, s.opt.MaxContent)
	var got schema.Key
	switch key.Algorithm() {
	case schema.SHA256:
		got, err = receiveFile(body, path)
	case schema.RetraceTree1:
		got, err = receiveFolder(r.Context(), body, path)
	default:
		return badInput("key", "only bytes that are named by sha256 (a file) or retraceTree1 (a folder) are taken")
	}
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return &graphql.Error{Code: graphql.CodeLimit, Message: fmt.Sprintf("the content is larger than the limit of %d bytes", large.Limit)}
	case err != nil:
		return err
	case got != key:
		return badInput("key", fmt.Sprintf("the bytes sent have the digest %s", got))
	}
	if got, err = s.opt.Content.Put(r.Context(), path); err != nil {
		return err
	}
	if got != key {
		return fmt.Errorf("keeping %s: it was kept as %s", key, got)
	}
	return nil
}

func receiveFile(body io.Reader, path string) (schema.Key, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(f, h), body); err != nil {
		f.Close()
		return "", cutOff(err)
	}
	return schema.Key(schema.SHA256 + ":" + hex.EncodeToString(h.Sum(nil))), f.Close()
}

func receiveFolder(ctx context.Context, body io.Reader, path string) (schema.Key, error) {
	if err := os.Mkdir(path, 0o700); err != nil {
		return "", err
	}
	if err := client.Unpack(ctx, body, path); err != nil {
		return "", cutOff(err)
	}
	key, _, err := content.Digest(ctx, path)
	return key, err
}

// cutOff tells a body that ended early from a disk that failed.
func cutOff(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return badInput("", "the body was cut off")
	}
	return err
}

// putAlias makes a key, such as that of a commit, lead to bytes that are kept,
// such as its Git pack.
func (s *Server) putAlias(w http.ResponseWriter, r *http.Request) {
	key, err := s.contentKey(r)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	target, err := schema.ParseKey(r.URL.Query().Get("target"))
	if err != nil {
		s.refuse(w, r, below("target", err))
		return
	}
	if alg := key.Algorithm(); alg == schema.SHA256 || alg == schema.RetraceTree1 {
		s.refuse(w, r, badInput("key", "sha256 and retraceTree1 are digests of the bytes and cannot stand for others"))
		return
	}
	if err := s.opt.Content.Alias(r.Context(), key, target); err != nil {
		s.refuse(w, r, keptError(target, err))
		return
	}
	s.answerJSON(w, r, map[string]any{"key": key, "target": target})
}
