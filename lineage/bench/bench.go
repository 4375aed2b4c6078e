package bench

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
)

// Result compares the two walks over one graph. Times are microseconds of one
// closure, both sides warm.
type Result struct {
	Models    int     `json:"models"`
	Nodes     int     `json:"nodes"`     // of the graph: resources and steps
	Edges     int     `json:"edges"`     // of the graph: uses
	Closure   float64 `json:"closure"`   // edges of one answer, on average
	P50Us     float64 `json:"p50Us"`     // schema.Walk over the index
	P99Us     float64 `json:"p99Us"`     //
	MapP50Us  float64 `json:"mapP50Us"`  // breadth-first over a Go map
	MapP99Us  float64 `json:"mapP99Us"`  //
	Ratio     float64 `json:"ratio"`     // of the medians
	FollowS   float64 `json:"followS"`   // to build the index
	PerSecond float64 `json:"perSecond"` // entries indexed
}

// rounds is how many times both sides take turns over the sampled models.
const rounds = 25

// samples is how many models are asked for in a round.
const samples = 400

// Lineage builds an index of models synthetic models in dir, which must be
// empty, and measures ancestor closures of some of them. The two sides take
// turns, model by model, so that neither has the quieter machine.
func Lineage(ctx context.Context, dir string, models int) ([]Result, error) {
	if models < 1 {
		return nil, fmt.Errorf("measuring lineage over %d models: want at least one", models)
	}
	log, err := newLog(models)
	if err != nil {
		return nil, err
	}
	g, err := lineage.Open(dir, log, noSigners, parseNothing)
	if err != nil {
		return nil, err
	}
	defer g.Close()
	start := time.Now()
	if err := g.Follow(ctx, log); err != nil {
		return nil, err
	}
	took := time.Since(start).Seconds()
	v, err := g.View(lineage.At{})
	if err != nil {
		return nil, err
	}
	res, err := measure(ctx, v, log, models)
	if err != nil {
		return nil, err
	}
	res.FollowS, res.PerSecond = took, float64(log.Size())/took
	return []Result{res}, nil
}

// noSigners grades everything as claimed: what is measured is the walk.
func noSigners(schema.Envelope, []schema.PublicKey) []string { return nil }

func parseNothing(schema.Trust) (schema.PublicKey, error) { return schema.PublicKey{ID: "bench"}, nil }

func measure(ctx context.Context, v *lineage.View, log *log, models int) (Result, error) {
	rnd := rand.New(rand.NewPCG(1, 2))
	asked := make([]schema.Key, min(samples, models))
	for i := range asked {
		asked[i] = log.models[rnd.IntN(models)]
	}
	var ours, theirs []time.Duration
	edges := 0
	for round := range rounds + 1 {
		for _, k := range asked {
			t0 := time.Now()
			n, err := closure(ctx, v, k)
			t1 := time.Now()
			if err != nil {
				return Result{}, err
			}
			m := log.closure(k)
			t2 := time.Now()
			if n != m {
				return Result{}, fmt.Errorf("the index has %d edges above %s, the map %d", n, k.Short(), m)
			}
			if round == 0 {
				edges += n
				continue // warms both sides
			}
			ours, theirs = append(ours, t1.Sub(t0)), append(theirs, t2.Sub(t1))
		}
	}
	r := Result{
		Models: models, Nodes: log.nodes, Edges: log.edges, Closure: float64(edges) / float64(len(asked)),
		P50Us: percentile(ours, 50), P99Us: percentile(ours, 99), MapP50Us: percentile(theirs, 50), MapP99Us: percentile(theirs, 99),
	}
	r.Ratio = r.P50Us / r.MapP50Us
	return r, nil
}

func closure(ctx context.Context, v *lineage.View, k schema.Key) (int, error) {
	n := 0
	for _, err := range schema.Walk(ctx, v, schema.Start{Key: k}, schema.WalkOptions{Size: v.Size()}) {
		if err != nil {
			return 0, err
		}
		n++
	}
	return n, nil
}

func percentile(d []time.Duration, p int) float64 {
	s := slices.Clone(d)
	slices.Sort(s)
	return float64(s[(len(s)-1)*p/100].Nanoseconds()) / 1000
}

// log is a synthetic ledger, and the same graph as a map.
type log struct {
	entries []schema.Entry
	models  []schema.Key
	made    map[schema.Key][]edge // above each resource
	nodes   int
	edges   int
}

type edge struct {
	step int64
	to   schema.Key
}

// closure counts the edges above k, breadth first: the yardstick.
func (l *log) closure(k schema.Key) int {
	seen := map[schema.Key]bool{k: true}
	queue := []schema.Key{k}
	n := 0
	for len(queue) > 0 {
		k, queue = queue[0], queue[1:]
		for _, e := range l.made[k] {
			n++
			if !seen[e.to] {
				seen[e.to] = true
				queue = append(queue, e.to)
			}
		}
	}
	return n
}

// newLog makes models models. Each has a commit, parameters, one of a hundred
// images, three of the shared snapshots (few of them popular), and six steps:
// prepare, then two that fan out, one that joins them, and two in a row. Nine
// in ten also use an earlier model.
func newLog(models int) (*log, error) {
	l := &log{made: map[schema.Key][]edge{}}
	if err := l.genesis(); err != nil {
		return nil, err
	}
	rnd := rand.New(rand.NewPCG(7, uint64(models)))
	zipf := rand.NewZipf(rnd, 1.3, 8, uint64(max(models/5, 3)-1))
	seen := map[schema.Key]bool{}
	count := func(k schema.Key) schema.Key {
		if !seen[k] {
			seen[k] = true
			l.nodes++
		}
		return k
	}
	for m := range models {
		name := "model " + strconv.Itoa(m)
		thing := func(what string) schema.Key { return count(keyOf(name + " " + what)) }
		commit, params, image := thing("commit"), thing("params"), count(keyOf("image "+strconv.Itoa(rnd.IntN(100))))
		var data []schema.Key
		for len(data) < 3 {
			if k := count(keyOf("snapshot " + strconv.FormatUint(zipf.Uint64(), 10))); !slices.Contains(data, k) {
				data = append(data, k)
			}
		}
		var earlier []schema.Key
		if m > 0 && rnd.IntN(10) > 0 {
			earlier = append(earlier, l.models[max(0, m-1-rnd.IntN(1000))])
			if depthOf(l, earlier[0]) > 50 {
				earlier = nil
			}
		}
		clean, left, right, joined, trained, model := thing("clean"), thing("left"), thing("right"), thing("joined"), thing("trained"), thing("model")
		for i, s := range []struct {
			made schema.Key
			uses []schema.Key
		}{
			{clean, append([]schema.Key{commit, image}, data...)},
			{left, []schema.Key{commit, image, clean}},
			{right, []schema.Key{commit, image, clean}},
			{joined, []schema.Key{commit, left, right}},
			{trained, append([]schema.Key{commit, image, params, joined}, earlier...)},
			{model, []schema.Key{commit, trained, joined}},
		} {
			if err := l.step(name+" "+strconv.Itoa(i), s.made, s.uses); err != nil {
				return nil, err
			}
		}
		l.models = append(l.models, model)
	}
	return l, nil
}

// depthOf is how many models lie above one another, counted along the chain.
func depthOf(l *log, k schema.Key) int {
	n := 0
	for k != "" && n <= 51 {
		n++
		k = l.earlier(k)
	}
	return n
}

// earlier is the model that the model k was made from, "" if none.
func (l *log) earlier(k schema.Key) schema.Key {
	trained := l.made[k][1].to
	if uses := l.made[trained]; len(uses) == 5 {
		return uses[4].to
	}
	return ""
}

func keyOf(s string) schema.Key {
	sum := sha256.Sum256([]byte(s))
	return schema.Key(schema.SHA256 + ":" + hex.EncodeToString(sum[:]))
}

func (l *log) step(run string, made schema.Key, uses []schema.Key) error {
	p := schema.Provenance{RunDetails: schema.RunDetails{Builder: schema.Builder{ID: "bench"}, Metadata: schema.Metadata{InvocationID: run}}}
	p.BuildDefinition.BuildType, p.BuildDefinition.ExternalParameters = "bench", []byte("{}")
	for _, k := range uses {
		p.BuildDefinition.ResolvedDependencies = append(p.BuildDefinition.ResolvedDependencies, schema.Descriptor{Name: "input", Digest: schema.DigestSet{schema.SHA256: k.Hex()}})
		l.made[made] = append(l.made[made], edge{l.Size(), k})
		l.edges++
	}
	l.nodes++
	return l.add(schema.ProvenanceV1, p, schema.Descriptor{Name: "output", Digest: schema.DigestSet{schema.SHA256: made.Hex()}})
}

func (l *log) genesis() error {
	return l.add(schema.GenesisV1, schema.Genesis{Format: 1, Origin: "bench", LogKey: "bench", ObserverKey: "bench"},
		schema.Descriptor{Name: "log key", Digest: schema.DigestSet{schema.SHA256: keyOf("log").Hex()}})
}

func (l *log) add(predicateType string, predicate any, subjects ...schema.Descriptor) error {
	s, err := schema.NewStatement(predicateType, predicate, subjects...)
	if err != nil {
		return err
	}
	payload, err := s.Encode()
	if err != nil {
		return err
	}
	env, err := schema.NewEnvelope(schema.PayloadType, payload)
	if err != nil {
		return err
	}
	index := l.Size()
	l.entries = append(l.entries, schema.Entry{
		Index: index, State: schema.Present, Envelope: env,
		Header: schema.Header{RecordedAt: time.Unix(1770000000+index, 0).UTC(), Namespace: schema.DefaultNamespace},
	})
	return nil
}

// Size implements lineage.Log.
func (l *log) Size() int64 { return int64(len(l.entries)) }

// Entry implements lineage.Log.
func (l *log) Entry(_ context.Context, index int64) (schema.Entry, error) {
	if index < 0 || index >= l.Size() {
		return schema.Entry{}, fmt.Errorf("no entry %d", index)
	}
	return l.entries[index], nil
}

// Entries implements lineage.Log.
func (l *log) Entries(ctx context.Context, from int64) iter.Seq2[schema.Entry, error] {
	return func(yield func(schema.Entry, error) bool) {
		for _, e := range l.entries[from:] {
			if err := ctx.Err(); err != nil {
				yield(schema.Entry{}, err)
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}
