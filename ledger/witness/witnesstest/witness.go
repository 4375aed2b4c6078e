// Package witnesstest is a witness to test against, written to C2SP
// tlog-witness and sharing no code with the client.
package witnesstest

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Witness cosigns the checkpoints of one log.
type Witness struct {
	Name string // of its key, and in the policy line
	URL  string // submission prefix

	signer *torchwood.CosignatureSigner

	mu     sync.Mutex
	log    note.Verifier // nil: no log is known
	tree   tlog.Tree
	latest []byte // checkpoint and cosignature of tree
	mute   bool   // no monitoring endpoint
	down   bool
	forge  bool
	seen   int // requests to add-checkpoint
}

// New starts a witness that ends with the test.
func New(t testing.TB, name string) *Witness {
	w := new(Witness)
	stop, err := w.Start(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return w
}

// Start starts a witness that is still zero; stop ends it.
func (w *Witness) Start(name string) (stop func(), err error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	w.Name = name
	if w.signer, err = torchwood.NewCosignatureSigner(name, key); err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /add-checkpoint", w.add)
	mux.HandleFunc("GET /{log}/checkpoint", w.monitor)
	server := httptest.NewServer(mux)
	w.URL = server.URL
	return server.Close, nil
}

// Line is the witness's line in a policy.
func (w *Witness) Line() string {
	return fmt.Sprintf("witness %s %s %s\n", w.Name, w.signer.Verifier(), w.URL)
}

// Know makes the witness take checkpoints of a log.
func (w *Witness) Know(log note.Verifier) { w.set(func() { w.log = log }) }

// Down makes the witness answer 503, or answer again.
func (w *Witness) Down(down bool) { w.set(func() { w.down = down }) }

// Mute takes away the monitoring endpoint.
func (w *Witness) Mute() { w.set(func() { w.mute = true }) }

// Forge makes the witness answer with a cosignature over something else.
func (w *Witness) Forge() { w.set(func() { w.forge = true }) }

func (w *Witness) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// Size is the size that the witness recorded, and how often it was asked.
func (w *Witness) Size() (size int64, requests int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.tree.N, w.seen
}

func (w *Witness) add(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen++
	if w.down {
		http.Error(rw, "down", http.StatusServiceUnavailable)
		return
	}
	old, proof, signed, err := parse(string(body))
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	if w.log == nil {
		http.Error(rw, "unknown log", http.StatusNotFound)
		return
	}
	n, err := note.Open([]byte(signed), note.VerifierList(w.log))
	if err != nil {
		http.Error(rw, err.Error(), http.StatusForbidden)
		return
	}
	c, err := torchwood.ParseCheckpoint(n.Text)
	switch {
	case err != nil || old > c.N:
		http.Error(rw, "bad checkpoint or old size", http.StatusBadRequest)
	case old != w.tree.N:
		rw.Header().Set("Content-Type", "text/x.tlog.size")
		rw.WriteHeader(http.StatusConflict)
		fmt.Fprintf(rw, "%d\n", w.tree.N)
	case !extends(w.tree, c.Tree, proof):
		http.Error(rw, "inconsistent", http.StatusUnprocessableEntity)
	default:
		w.cosign(rw, n, c.Tree)
	}
}

func (w *Witness) cosign(rw http.ResponseWriter, n *note.Note, tree tlog.Tree) {
	over := &note.Note{Text: n.Text}
	if w.forge {
		over.Text = torchwood.Checkpoint{Origin: w.log.Name(), Tree: tlog.Tree{N: tree.N, Hash: tlog.Hash{1}}}.String()
	}
	signed, err := note.Sign(over, w.signer)
	if err != nil {
		http.Error(rw, err.Error(), http.StatusInternalServerError)
		return
	}
	_, line, _ := strings.Cut(string(signed), "\n\n")
	logSig := fmt.Sprintf("— %s %s\n", n.Sigs[0].Name, n.Sigs[0].Base64)
	w.tree, w.latest = tree, []byte(n.Text+"\n"+logSig+line)
	if _, err := io.WriteString(rw, line); err != nil {
		return // whoever asked went away
	}
}

func (w *Witness) monitor(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mute || w.latest == nil {
		http.NotFound(rw, r)
		return
	}
	if id := sha256.Sum256([]byte(w.log.Name())); r.PathValue("log") != hex.EncodeToString(id[:]) {
		http.NotFound(rw, r)
		return
	}
	rw.Write(w.latest)
}

func extends(old, new tlog.Tree, proof tlog.TreeProof) bool {
	switch {
	case old.N == 0:
		return len(proof) == 0
	case old.N == new.N:
		return len(proof) == 0 && old.Hash == new.Hash
	}
	return tlog.CheckTree(proof, new.N, new.Hash, old.N, old.Hash) == nil
}

// parse reads the body of a request: "old N", the proof, an empty line, the
// checkpoint.
func parse(body string) (old int64, proof tlog.TreeProof, signed string, err error) {
	head, signed, ok := strings.Cut(body, "\n\n")
	if !ok {
		return 0, nil, "", errors.New("no empty line")
	}
	lines := strings.Split(head, "\n")
	if _, err := fmt.Sscanf(lines[0], "old %d", &old); err != nil || lines[0] != fmt.Sprintf("old %d", old) {
		return 0, nil, "", fmt.Errorf("first line %q", lines[0])
	}
	if len(lines) > 64 {
		return 0, nil, "", errors.New("more than 63 proof lines")
	}
	for _, l := range lines[1:] {
		raw, err := base64.StdEncoding.DecodeString(l)
		if err != nil || len(raw) != tlog.HashSize {
			return 0, nil, "", fmt.Errorf("proof line %q", l)
		}
		proof = append(proof, tlog.Hash(raw))
	}
	return old, proof, signed, nil
}
