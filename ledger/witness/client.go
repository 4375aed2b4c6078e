package witness

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/retrace-ledger/retrace/verify"
)

// maxProof is how many hashes a witness takes (C2SP tlog-witness).
const maxProof = 63

// maxAnswer is how many bytes of an answer are read.
const maxAnswer = 64 << 10

// A sizeError says that a witness recorded another size of the log than the
// proof begins at (status 409). Nobody signed the size.
type sizeError struct{ size int64 }

func (e *sizeError) Error() string {
	return fmt.Sprintf("the witness says that it last saw size %d", e.size)
}

// errRoot says that a witness found the proof to be wrong (status 422): the
// tree it saw is not the beginning of the one offered, or so it says.
var errRoot = errors.New("the witness says that the log is not the one it saw before")

// A statusError is any other answer but success.
type statusError struct {
	status int
	text   string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("the witness answered %d %s: %q", e.status, http.StatusText(e.status), e.text)
}

// addCheckpoint offers cp, with the proof that its tree begins with the one of
// size old, and returns the verified cosignature lines of w's key.
func addCheckpoint(ctx context.Context, hc *http.Client, w verify.Witness, old int64, proof []tlog.Hash, cp verify.Checkpoint) ([]byte, error) {
	if len(proof) > maxProof {
		return nil, fmt.Errorf("the proof has %d hashes; a witness takes %d", len(proof), maxProof)
	}
	var body bytes.Buffer
	fmt.Fprintf(&body, "old %d\n", old)
	for _, h := range proof {
		fmt.Fprintf(&body, "%s\n", base64.StdEncoding.EncodeToString(h[:]))
	}
	body.WriteByte('\n')
	body.Write(cp.Note)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL+"/add-checkpoint", &body)
	if err != nil {
		return nil, err
	}
	status, answer, err := do(hc, req)
	if err != nil {
		return nil, err
	}
	switch status {
	case http.StatusOK:
		return cosignatures(cp.Note, answer, w)
	case http.StatusConflict:
		size, err := strconv.ParseInt(strings.TrimSuffix(string(answer), "\n"), 10, 64)
		if err != nil || size < 0 {
			return nil, fmt.Errorf("the witness answered 409 with %q, which is not the size it recorded", clip(answer))
		}
		return nil, &sizeError{size}
	case http.StatusUnprocessableEntity:
		return nil, fmt.Errorf("%w: %q", errRoot, clip(answer))
	}
	return nil, &statusError{status, clip(answer)}
}

// cosignatures returns those of the lines in answer that are w's and verify
// over the checkpoint in signed. Others are dropped.
func cosignatures(signed, answer []byte, w verify.Witness) ([]byte, error) {
	n, err := note.Open(append(bytes.Clone(signed), answer...), note.VerifierList(w.Key))
	if err != nil {
		return nil, fmt.Errorf("the witness answered with no cosignature that verifies: %w", err)
	}
	var lines []byte
	for _, s := range n.Sigs {
		lines = fmt.Appendf(lines, "— %s %s\n", s.Name, s.Base64)
	}
	return lines, nil
}

// latest asks for the newest checkpoint that the witness cosigned, at its
// monitoring endpoint, which is looked for under the submission prefix (C2SP
// tlog-witness). It is the log's own key that vouches for it.
func latest(ctx context.Context, hc *http.Client, w verify.Witness, origin string) ([]byte, error) {
	id := sha256.Sum256([]byte(origin))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.URL+"/"+hex.EncodeToString(id[:])+"/checkpoint", nil)
	if err != nil {
		return nil, err
	}
	status, answer, err := do(hc, req)
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, &statusError{status, clip(answer)}
	}
	return answer, nil
}

func do(hc *http.Client, req *http.Request) (status int, body []byte, err error) {
	req.Header.Set("User-Agent", "retrace (https://github.com/retrace-ledger/retrace)")
	resp, err := hc.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && len(body) > maxAnswer {
		err = fmt.Errorf("the answer of %s has more than %d bytes", req.URL.Host, maxAnswer)
	}
	return resp.StatusCode, body, err
}

// clip shortens what a witness said for a message.
func clip(b []byte) string {
	const most = 120
	s := strings.TrimSpace(string(b))
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
