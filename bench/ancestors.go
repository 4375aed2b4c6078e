package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/retrace-ledger/retrace/keys"
	ledgerbench "github.com/retrace-ledger/retrace/ledger/bench"
	"github.com/retrace-ledger/retrace/lineage"
	lineagebench "github.com/retrace-ledger/retrace/lineage/bench"
	"github.com/retrace-ledger/retrace/schema"
)

// ancestors is what was measured of asking for all ancestors of a model.
type ancestors struct {
	Models  int               `json:"models"`
	Nodes   int               `json:"nodes"`   // resources that a step made or used
	Edges   int               `json:"edges"`   // uses, of all models
	Asked   int               `json:"asked"`   // models asked for in each round
	Answer  float64           `json:"answer"`  // edges of one answer, on average
	Bytes   float64           `json:"bytes"`   // of retrace's answer, on average
	Sides   []ancestorsFigure `json:"sides"`   // retrace first
	Trip    ancestorsFigure   `json:"trip"`    // a request over HTTP whose answer is empty
	Encode  ancestorsFigure   `json:"encode"`  // retrace's answer as JSON, and nothing else
	Skipped map[string]string `json:"skipped"` // why, by name
}

// ancestorsFigure is what one side needed. Times are of the medians in the same
// round: how many times as long retrace took.
type ancestorsFigure struct {
	Name      string `json:"name"`
	How       string `json:"how"`
	P50Us     spread `json:"p50Us"`
	P99Us     spread `json:"p99Us"`
	Times     spread `json:"times"`
	WalkUs    spread `json:"walkUs"` // median, without HTTP and JSON; zero where there is no such thing
	WalkTimes spread `json:"walkTimes"`
}

// ancestorsGoals are DESIGN's: how many times as long as each retrace may take.
const (
	encodeGoal     = 3    // GraphQL over HTTP: of encoding the answer
	mapWalkGoal    = 1.5  // the walk alone: of one over a Go map
	sqliteWalkGoal = 0.25 // the walk alone: of SQLite's recursive query
)

// ancestorsAsked is how many models are asked for in a round.
const ancestorsAsked = 400

// side answers with all ancestors of a resource.
type side struct {
	name, how string
	ask       func(ctx context.Context, of schema.Key) (reply, error)
	walk      func(ctx context.Context, of schema.Key) ([]edge, error) // nil if there is none without HTTP
	close     func() error

	asked, walked []time.Duration // in this round
	p50, p99      []float64       // of each round
	times         []float64
	walk50        []float64
	walkTimes     []float64
}

// reply is an answer: as it came or, where the client walks, its edges.
type reply struct {
	raw   []byte
	edges []edge
}

func (r reply) all() ([]edge, error) {
	if r.raw == nil {
		return r.edges, nil
	}
	return decode(r.raw)
}

// count is how many edges there are, without reading them.
func (r reply) count() int {
	return len(r.edges) + bytes.Count(r.raw, []byte(`"step":`))
}

// measureAncestors records synthetic models, gives their graph to each side,
// and asks all of them over HTTP for the ancestors of the same models.
func measureAncestors(ctx context.Context, dir string, opt options) (_ *ancestors, err error) {
	contest, models, err := recordModels(ctx, filepath.Join(dir, "ledger"), opt.models)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, contest.Close()) }()
	g, err := readGraph(ctx, contest.Log)
	if err != nil {
		return nil, err
	}
	out := &ancestors{Models: opt.models, Nodes: len(g.nodes), Edges: len(g.uses), Asked: min(ancestorsAsked, opt.models), Skipped: map[string]string{}}
	rnd := rand.New(rand.NewPCG(1, 2))
	asked := make([]schema.Key, out.Asked)
	for i := range asked {
		asked[i] = models[rnd.IntN(len(models))]
	}
	var sides []*side
	defer func() {
		for _, s := range sides {
			err = errors.Join(err, s.close())
		}
	}()
	for _, o := range openers(contest, g) {
		s, err := o.open(ctx, filepath.Join(dir, o.name))
		if why := skipped(err); why != "" {
			out.Skipped[o.name] = why
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", o.name, err)
		}
		sides = append(sides, s)
	}
	answers, err := out.check(ctx, sides, asked, g)
	if err != nil {
		return nil, err
	}
	trip, err := serve(&side{name: "an empty answer", how: "over HTTP, no edge in it: what no answer is faster than", walk: nothingAbove}, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, trip.close()) }()
	trip.walk = nil
	encode := &side{name: "encoding/json", how: "retrace's answer from a struct, and nothing else"}
	for range opt.rounds {
		for _, s := range sides {
			if err := s.turn(ctx, asked, answers); err != nil {
				return nil, fmt.Errorf("%s: %w", s.name, err)
			}
		}
		if err := trip.turn(ctx, asked, make([][]edge, len(asked))); err != nil {
			return nil, err
		}
		if err := encode.encode(answers); err != nil {
			return nil, err
		}
		for _, s := range append(slices.Clone(sides), trip, encode) {
			s.endRound(sides[0])
		}
	}
	for _, s := range sides {
		out.Sides = append(out.Sides, s.figure())
	}
	out.Trip, out.Encode = trip.figure(), encode.figure()
	return out, nil
}

// recordModels records the statements of so many models, and returns their keys.
func recordModels(ctx context.Context, dir string, n int) (*ledgerbench.Contest, []schema.Key, error) {
	key, err := keys.Generate()
	if err != nil {
		return nil, nil, err
	}
	statements, err := lineagebench.Statements(n)
	if err != nil {
		return nil, nil, err
	}
	batches := make([][]schema.Envelope, n)
	models := make([]schema.Key, n)
	for i, of := range statements {
		for _, s := range of {
			env, err := key.SignStatement(s)
			if err != nil {
				return nil, nil, err
			}
			batches[i] = append(batches[i], env)
		}
		named := of[len(of)-1]
		models[i] = schema.Key(schema.SHA256 + ":" + named.Subject[0].Digest[schema.SHA256])
	}
	contest, err := ledgerbench.NewContest(dir, key)
	if err != nil {
		return nil, nil, err
	}
	if _, _, err := contest.Append(ctx, modelsCallers, batches); err != nil {
		return nil, nil, errors.Join(err, contest.Close())
	}
	return contest, models, nil
}

// graph is what the entries of a log state, as a map.
type graph struct {
	made  map[schema.Key][]edge // above each resource
	nodes map[schema.Key]int64  // number of each resource
	uses  []use
}

// use is an edge by the numbers of its resources, and the entry of the step.
type use struct{ made, step, used int64 }

func readGraph(ctx context.Context, log lineage.Log) (*graph, error) {
	g := &graph{made: map[schema.Key][]edge{}, nodes: map[schema.Key]int64{}}
	number := func(k schema.Key) int64 {
		n, ok := g.nodes[k]
		if !ok {
			n = int64(len(g.nodes))
			g.nodes[k] = n
		}
		return n
	}
	for e, err := range log.Entries(ctx, 0) {
		if err != nil {
			return nil, err
		}
		s, err := e.Envelope.Statement()
		if err != nil {
			return nil, err
		}
		f, err := s.Facts()
		if err != nil {
			return nil, err
		}
		if f.Step == nil {
			continue
		}
		for _, o := range f.Step.Generates {
			made := number(o.Key)
			for _, u := range f.Step.Uses {
				g.uses = append(g.uses, use{made, e.Index, number(u.Key)})
				g.made[o.Key] = append(g.made[o.Key], newEdge(string(o.Key), string(u.Key), e.Index))
			}
		}
	}
	return g, nil
}

// closure walks breadth first.
func (g *graph) closure(_ context.Context, of schema.Key) ([]edge, error) {
	var out []edge
	seen := map[schema.Key]bool{of: true}
	queue := []schema.Key{of}
	for len(queue) > 0 {
		k := queue[0]
		queue = queue[1:]
		for _, e := range g.made[k] {
			out = append(out, e)
			if to := schema.Key(e.To.Digest); !seen[to] {
				seen[to] = true
				queue = append(queue, to)
			}
		}
	}
	return out, nil
}

// check makes sure that all sides answer with the same edges. It returns
// retrace's answers, and warms everybody.
func (out *ancestors) check(ctx context.Context, sides []*side, asked []schema.Key, g *graph) ([][]edge, error) {
	answers := make([][]edge, len(asked))
	for i, k := range asked {
		found, err := g.closure(ctx, k)
		if err != nil {
			return nil, err
		}
		want := setOf(found)
		for n, s := range sides {
			got, err := s.ask(ctx, k)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s.name, err)
			}
			edges, err := got.all()
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s.name, err)
			}
			lists := [][]edge{edges}
			if s.walk != nil {
				walked, err := s.walk(ctx, k)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", s.name, err)
				}
				lists = append(lists, walked)
			}
			for _, list := range lists {
				if len(list) != len(found) || !maps.Equal(setOf(list), want) {
					return nil, fmt.Errorf("%s answers with %d edges above %s, and not with the %d that the entries state", s.name, len(list), k.Short(), len(found))
				}
			}
			if got.count() != len(found) {
				return nil, fmt.Errorf("%s: %d edges counted, %d read", s.name, got.count(), len(found))
			}
			if n == 0 {
				answers[i] = edges
				out.Answer += float64(len(edges)) / float64(len(asked))
				out.Bytes += float64(len(got.raw)) / float64(len(asked))
			}
		}
	}
	return answers, nil
}

func setOf(edges []edge) map[edge]bool {
	set := make(map[edge]bool, len(edges))
	for _, e := range edges {
		set[e] = true
	}
	return set
}

func nothingAbove(context.Context, schema.Key) ([]edge, error) { return nil, nil }

// turn asks s for the ancestors of each of asked, over HTTP and then without.
func (s *side) turn(ctx context.Context, asked []schema.Key, answers [][]edge) error {
	s.asked, s.walked = s.asked[:0], s.walked[:0]
	runtime.GC() // nobody pays for what another left
	for i, k := range asked {
		began := time.Now()
		got, err := s.ask(ctx, k)
		s.asked = append(s.asked, time.Since(began))
		if err != nil {
			return err
		}
		if got.count() != len(answers[i]) {
			return fmt.Errorf("%d edges above %s, and not %d as at first", got.count(), k.Short(), len(answers[i]))
		}
	}
	if s.walk == nil {
		return nil
	}
	runtime.GC()
	for _, k := range asked {
		began := time.Now()
		_, err := s.walk(ctx, k)
		s.walked = append(s.walked, time.Since(began))
		if err != nil {
			return err
		}
	}
	return nil
}

// encode is the turn of who only encodes the answers.
func (s *side) encode(answers [][]edge) error {
	s.asked = s.asked[:0]
	runtime.GC()
	for _, edges := range answers {
		a := answerOf(edges)
		began := time.Now()
		_, err := json.Marshal(a)
		s.asked = append(s.asked, time.Since(began))
		if err != nil {
			return err
		}
	}
	return nil
}

// endRound keeps what this round says of s beside us.
func (s *side) endRound(us *side) {
	p50 := quantile(s.asked, 0.5) * 1000
	s.p50, s.p99 = append(s.p50, p50), append(s.p99, quantile(s.asked, 0.99)*1000)
	s.times = append(s.times, quantile(us.asked, 0.5)*1000/p50)
	if s.walk != nil {
		walk := quantile(s.walked, 0.5) * 1000
		s.walk50, s.walkTimes = append(s.walk50, walk), append(s.walkTimes, quantile(us.walked, 0.5)*1000/walk)
	}
}

func (s *side) figure() ancestorsFigure {
	f := ancestorsFigure{Name: s.name, How: s.how, P50Us: spreadOf(s.p50), P99Us: spreadOf(s.p99), Times: spreadOf(s.times)}
	if s.walk != nil {
		f.WalkUs, f.WalkTimes = spreadOf(s.walk50), spreadOf(s.walkTimes)
	}
	return f
}
