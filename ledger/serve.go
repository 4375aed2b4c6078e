package ledger

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/retrace-ledger/retrace/ledger/engine"
)

// Handler serves the ledger's checkpoint, hash tiles and entry bundles as C2SP
// tlog-tiles, at /checkpoint and under /tile/, and the newest checkpoint that
// witnesses cosigned at /checkpoint.cosigned. It serves salted commitments
// and no bodies, so that it can be public. Every tile is checked against the
// signed tree before it goes out.
func (l *Ledger) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /checkpoint", l.serveCheckpoint)
	mux.HandleFunc("GET /checkpoint.cosigned", l.serveCosigned)
	mux.HandleFunc("GET /tile/{path...}", l.serveTile)
	return mux
}

func (l *Ledger) serveCheckpoint(w http.ResponseWriter, _ *http.Request) {
	writeNote(w, l.newestNote())
}

func (l *Ledger) serveTile(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/")
	t, err := torchwood.ParseTilePath(path)
	if err != nil || torchwood.TilePath(t) != path { // one name for one tile
		http.NotFound(w, r)
		return
	}
	var data []byte
	err = l.reading(r.Context(), func(s engine.Snapshot) (err error) {
		data, err = l.tileData(s, l.view.Load(), t)
		return err
	})
	switch {
	case errors.Is(err, ErrNotFound):
		http.NotFound(w, r)
		return
	case err != nil:
		http.Error(w, "this tile cannot be read", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	w.Write(data)
}

// tileData is the content of a tile of v's tree. A partial tile is served at
// any width up to the one it has, and also after it filled up.
func (l *Ledger) tileData(s engine.Snapshot, v *view, t tlog.Tile) ([]byte, error) {
	level := max(t.L, 0) // -1 stands for the entries
	index, width := edgeWidth(v.checkpoint.Size, level)
	if t.N < index {
		width = tileWidth
	}
	if level >= edgeLevels(v.checkpoint.Size) || t.N > index || t.W > width {
		return nil, fmt.Errorf("a tile of a ledger of %d: %w", v.checkpoint.Size, ErrNotFound)
	}
	if t.L < 0 {
		leaves, err := l.bundle(s, v, t.N)
		if err != nil {
			return nil, err
		}
		return encodeBundle(leaves[:t.W]), nil
	}
	if t.N == index {
		return encodeTile(v.edge.tiles[level].nodes[0][:t.W]), nil
	}
	full, err := l.tile(s, v, tileID{level, t.N})
	if err != nil {
		return nil, err
	}
	return encodeTile(full[0][:t.W]), nil
}

// bundle returns the commitments of the entries under tile n of level 0.
func (l *Ledger) bundle(s engine.Snapshot, v *view, n int64) ([]commitment, error) {
	if n == v.edge.tiles[0].index {
		return v.edge.leaves, nil
	}
	full, err := l.tile(s, v, tileID{0, n})
	if err != nil {
		return nil, err
	}
	leaves, err := readBundle(s, n)
	if err != nil {
		return nil, err
	}
	for i, c := range leaves {
		if tlog.RecordHash(c[:]) != full[0][i] {
			return nil, damage(bundleName(n), "entry %d is %x, which the signed tree does not hold there", n*tileWidth+int64(i), c)
		}
	}
	return leaves, nil
}

// readBundle reads a full entry bundle without checking it against the tree.
func readBundle(s engine.Snapshot, n int64) ([]commitment, error) {
	leaves := make([]commitment, tileWidth)
	err := s.Get(bundleKey(n), func(value []byte) error {
		if len(value) == tileWidth*(2+sha256.Size) {
			for i := range leaves {
				copy(leaves[i][:], value[i*(2+sha256.Size)+2:])
			}
		}
		if !bytes.Equal(encodeBundle(leaves), value) {
			return errors.New("it is not 256 commitments")
		}
		return nil
	})
	switch {
	case errors.Is(err, engine.ErrNotFound):
		return nil, damage(bundleName(n), "missing")
	case err != nil:
		return nil, &DamageError{Where: bundleName(n), Problem: "cannot be read", Err: err}
	}
	return leaves, nil
}

func bundleName(n int64) string { return fmt.Sprintf("entry bundle %d", n) }
