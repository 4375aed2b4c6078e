package picture

import (
	_ "embed"
	"fmt"

	"github.com/dop251/goja"
	"github.com/go-json-experiment/json"
)

// dagreJS is @dagrejs/dagre 3.1.3, dist/dagre.min.js (picture/dagre/README.md).
//
//go:embed dagre/dagre.min.js
var dagreJS string

// layoutJS joins dagre to the JSON that goes in and out. structuredClone, which
// goja does not have, is only called on plain data.
const layoutJS = `(function (text) {
	globalThis.structuredClone = v => v === undefined ? v : JSON.parse(JSON.stringify(v));
	const input = JSON.parse(text);
	const g = new dagre.graphlib.Graph({multigraph: true});
	g.setGraph(input.graph);
	input.nodes.forEach(n => g.setNode(n.id, {width: n.width, height: n.height}));
	input.edges.forEach((e, i) => g.setEdge(e.from, e.to, {width: e.width, height: e.height, labelpos: "c"}, "e" + i));
	dagre.layout(g);
	return JSON.stringify({
		width: g.graph().width, height: g.graph().height,
		nodes: input.nodes.map(n => { const p = g.node(n.id); return {x: p.x, y: p.y}; }),
		edges: input.edges.map((e, i) => { const p = g.edge(e.from, e.to, "e" + i); return {x: p.x || 0, y: p.y || 0, points: p.points}; }),
	});
})`

type layoutInput struct {
	Graph layoutGraph  `json:"graph"`
	Nodes []layoutNode `json:"nodes"`
	Edges []layoutEdge `json:"edges"`
}

type layoutGraph struct {
	RankDir string  `json:"rankdir"`
	Ranker  string  `json:"ranker"`
	NodeSep float64 `json:"nodesep"`
	EdgeSep float64 `json:"edgesep"`
	RankSep float64 `json:"ranksep"`
}

type layoutNode struct {
	ID     string  `json:"id"`
	Width  float64 `json:"width"`
	Height float64 `json:"height"`
}

type layoutEdge struct {
	From   string  `json:"from"`
	To     string  `json:"to"`
	Width  float64 `json:"width"`
	Height float64 `json:"height"`
}

// layout is where everything goes: nodes and labels by their centres.
type layout struct {
	Width  float64      `json:"width"`
	Height float64      `json:"height"`
	Nodes  []point      `json:"nodes"`
	Edges  []edgeLayout `json:"edges"`
}

type point struct {
	X float64 `json:"x"`
	Y float64 `json:"y"`
}

type edgeLayout struct {
	point
	Points []point `json:"points"`
}

// simplexNodes is up to how many nodes the layers are chosen by network
// simplex, which gives the shortest edges; above it takes too long.
const simplexNodes = 120

// place runs dagre.
func place(in layoutInput) (layout, error) {
	in.Graph = layoutGraph{RankDir: "LR", Ranker: "network-simplex", NodeSep: 22, EdgeSep: 14, RankSep: 34}
	if len(in.Nodes) > simplexNodes {
		in.Graph.Ranker = "tight-tree"
	}
	raw, err := json.Marshal(in)
	if err != nil {
		return layout{}, err
	}
	vm := goja.New()
	if _, err := vm.RunScript("dagre.min.js", dagreJS); err != nil {
		return layout{}, fmt.Errorf("loading dagre: %w", err)
	}
	v, err := vm.RunString(layoutJS)
	if err != nil {
		return layout{}, fmt.Errorf("loading dagre: %w", err)
	}
	run, ok := goja.AssertFunction(v)
	if !ok {
		return layout{}, fmt.Errorf("loading dagre: %s is not a function", v)
	}
	result, err := run(goja.Undefined(), vm.ToValue(string(raw)))
	if err != nil {
		return layout{}, fmt.Errorf("laying out %d boxes and %d arrows: %w", len(in.Nodes), len(in.Edges), err)
	}
	var out layout
	if err := json.Unmarshal([]byte(result.String()), &out); err != nil {
		return layout{}, fmt.Errorf("reading the layout of dagre: %w", err)
	}
	if len(out.Nodes) != len(in.Nodes) || len(out.Edges) != len(in.Edges) {
		return layout{}, fmt.Errorf("dagre placed %d of %d boxes and %d of %d arrows", len(out.Nodes), len(in.Nodes), len(out.Edges), len(in.Edges))
	}
	return out, nil
}
