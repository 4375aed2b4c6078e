package replay_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"testing"

	"github.com/retrace-ledger/retrace/verify/replay"
)

// FuzzResume reads hostile states: none makes a replay panic, and what is taken
// comes back as it is, byte for byte.
func FuzzResume(f *testing.F) {
	w := history(f)
	r := replay.New(w.verifier)
	seal := func(text []byte) []byte {
		return append(fmt.Appendf(nil, "retrace replay v1 %x\n", sha256.Sum256(text)), text...)
	}
	c := w.checkpoint()
	for range 2 {
		state, err := r.State()
		check(f, err)
		_, text, _ := bytes.Cut(state, []byte("\n"))
		f.Add(text)
		for _, err := range r.Run(f.Context(), w, c, nil) {
			check(f, err)
		}
	}
	f.Add([]byte(`{"size":-1}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := replay.Resume(seal(text), w.verifier)
		if err != nil {
			return
		}
		state, err := r.State()
		if err != nil {
			t.Fatal(err)
		}
		again, err := replay.Resume(state, w.verifier)
		if err != nil {
			t.Fatalf("a state of a replay is refused: %v", err)
		}
		if twice, err := again.State(); err != nil {
			t.Fatal(err)
		} else if !bytes.Equal(state, twice) {
			t.Fatalf("a state comes back as another one:\n%s\n%s", state, twice)
		}
		if err := r.Confirm(c, w.prove); err != nil {
			return
		}
		for _, err := range r.Run(t.Context(), w, c, nil) {
			if err != nil {
				return
			}
		}
	})
}
