package graphql

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/graph-gophers/graphql-go"
	gqlerrors "github.com/graph-gophers/graphql-go/errors"
	"github.com/graph-gophers/graphql-go/introspection"
	gqllog "github.com/graph-gophers/graphql-go/log"
	"github.com/graph-gophers/graphql-go/trace/tracer"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// A Log is what proofs and bodies are read from and statements are recorded
// in. *ledger.Ledger is one.
type Log interface {
	verify.ProofLog
	Proof(ctx context.Context, index int64) (verify.Proof, error)
	Append(ctx context.Context, b schema.Batch) (schema.Receipt, error)
}

// Limits bounds what one request may cost. A zero field is the default.
type Limits struct {
	QueryBytes int           // of the query text; 64 KiB
	BodyBytes  int64         // of a whole request; 12 MiB, which holds the largest envelope as text
	Depth      int           // of selections, of introspection too; 15
	Selections int           // of fields, with fragments expanded; 2,000
	Nodes      int64         // read from the graph for one request; 1,000,000
	Time       time.Duration // 30 s
}

func (l Limits) orDefault() Limits {
	def := Limits{QueryBytes: 64 << 10, BodyBytes: 12 << 20, Depth: 15, Selections: 2000, Nodes: 1_000_000, Time: 30 * time.Second}
	if l.QueryBytes > 0 {
		def.QueryBytes = l.QueryBytes
	}
	if l.BodyBytes > 0 {
		def.BodyBytes = l.BodyBytes
	}
	if l.Depth > 0 {
		def.Depth = l.Depth
	}
	if l.Selections > 0 {
		def.Selections = l.Selections
	}
	if l.Nodes > 0 {
		def.Nodes = l.Nodes
	}
	if l.Time > 0 {
		def.Time = l.Time
	}
	return def
}

// Options of an API. Everything may be left out.
type Options struct {
	Limits Limits
	// Held says which bytes are kept; without it, gaps say nothing of content.
	Held lineage.Held
	// Restores runs restorations; without it, they are refused.
	Restores Restores
	// Reverts plans reverts; without it, none are.
	Reverts Reverts
	// Explain knows the errors of the log and of restorations: it returns nil for
	// those that it does not know.
	Explain func(error) *Error
	// Observe is told how long each field of Query and Mutation took.
	Observe func(field string, took time.Duration, failed bool)
	// NoIntrospection refuses to show the schema; whoever has it can ask as ever.
	NoIntrospection bool
	Logger          *slog.Logger // of what callers are not told; slog.Default if nil
}

// API answers GraphQL requests over one graph and the log that it follows.
// Somebody else keeps the graph following.
type API struct {
	graph  *lineage.Graph
	log    Log
	opt    Options
	limits Limits
	schema *graphql.Schema

	sockets sync.WaitGroup
}

// overlapPairs is how many pairs of fields with one name are compared while a
// query is validated, which is quadratic.
const overlapPairs = 20000

// pooledBuffer is the size, in bytes, up to which the library keeps the buffers
// that it encodes answers in.
const pooledBuffer = 1 << 20

// New returns the API over graph and log.
func New(graph *lineage.Graph, log Log, opt *Options) (*API, error) {
	a := &API{graph: graph, log: log}
	if opt != nil {
		a.opt = *opt
	}
	if a.opt.Logger == nil {
		a.opt.Logger = slog.Default()
	}
	a.limits = a.opt.Limits.orDefault()
	options := []graphql.SchemaOpt{
		graphql.UseStringDescriptions(),
		graphql.UseFieldResolvers(),
		graphql.MaxDepth(a.limits.Depth),
		graphql.MaxSelections(a.limits.Selections),
		graphql.OverlapValidationLimit(overlapPairs),
		graphql.DisableFieldSelections(),
		graphql.SubscribeResolverTimeout(a.limits.Time),
		graphql.MaxPooledBufferCap(pooledBuffer),
		graphql.PanicHandler(a),
		graphql.Logger(gqllog.LoggerFunc(a.logPanic)),
		graphql.Tracer(&observer{a.opt.Observe}),
	}
	if a.opt.NoIntrospection {
		options = append(options, graphql.RestrictIntrospection(func(context.Context) bool { return false }))
	}
	s, err := graphql.ParseSchema(schema.GraphQL(), &root{a}, options...)
	if err != nil {
		return nil, fmt.Errorf("binding schema.graphql: %w", err)
	}
	a.schema = s
	return a, nil
}

// Introspection is the schema as the standard introspection query shows it.
func (a *API) Introspection() ([]byte, error) { return a.schema.ToJSON() }

// Request is one GraphQL request.
type Request struct {
	Query         string         `json:"query"`
	OperationName string         `json:"operationName"`
	Variables     map[string]any `json:"variables"`
	// WaitForSize is how many entries the graph must hold before the request is
	// answered.
	WaitForSize int64 `json:"-"`
}

// Response is the answer to a Request.
type Response struct {
	Data   []byte // JSON; nil where nothing was executed
	Errors []*gqlerrors.QueryError
	Size   int64 // that the answer speaks for
	// Checkpoint is the newest signed note of the log, which covers Size; nil where
	// there is none.
	Checkpoint []byte
	// refused is the HTTP status of a request that was not for this caller or
	// this method; 0 for any other.
	refused int
}

// asker is what resolvers know of the request they work for.
type asker struct {
	size     int64 // that the answer speaks for
	rights   Rights
	readOnly bool // the method promises to change nothing
	refused  atomic.Int32
	nodes    atomic.Int64 // read for the request so far
}

type askerKey struct{}

// Rights are what a request may do beside asking.
type Rights struct {
	Record    bool // into the default namespace
	Restore   bool
	Submitter string // what headers of entries say of who asks
}

type rightsKey struct{}

// Allow returns a context whose requests have the rights. The caller has made
// sure of who asks.
func Allow(ctx context.Context, rights Rights) context.Context {
	return context.WithValue(ctx, rightsKey{}, rights)
}

func askerOf(ctx context.Context) *asker {
	who, _ := ctx.Value(askerKey{}).(*asker)
	return who
}

// Exec answers one request within the limits. Mutations need a context from
// Allow.
func (a *API) Exec(ctx context.Context, req Request) *Response {
	return a.exec(ctx, req, false)
}

func (a *API) exec(ctx context.Context, req Request, readOnly bool) (resp *Response) {
	ctx, cancel := context.WithTimeout(ctx, a.limits.Time)
	defer cancel()
	if req.WaitForSize > 0 {
		if err := a.graph.Wait(ctx, req.WaitForSize); err != nil {
			e := &Error{Code: CodeTimeout, Message: fmt.Sprintf("the graph has %d entries and did not reach %d in time", a.graph.Size(), req.WaitForSize), Err: err}
			return &Response{Errors: []*gqlerrors.QueryError{a.queryError(ctx, e)}, Size: a.graph.Size()}
		}
	}
	who := &asker{size: a.graph.Size(), readOnly: readOnly}
	who.rights, _ = ctx.Value(rightsKey{}).(Rights)
	resp = &Response{Size: who.size, Checkpoint: a.log.Checkpoint()}
	// The library recovers from panics of resolvers, but not from its own while
	// it reads the values in a query.
	defer func() {
		if p := recover(); p != nil {
			a.logPanic(ctx, p)
			resp.Data, resp.Errors = nil, []*gqlerrors.QueryError{a.MakePanicError(ctx, p)}
		}
	}()
	if len(req.Query) > a.limits.QueryBytes {
		e := &Error{Code: CodeLimit, Message: fmt.Sprintf("the query is %d bytes long; the limit is %d", len(req.Query), a.limits.QueryBytes)}
		resp.Errors = []*gqlerrors.QueryError{a.queryError(ctx, e)}
		return resp
	}
	out := a.schema.Exec(context.WithValue(ctx, askerKey{}, who), req.Query, req.OperationName, req.Variables)
	resp.Data, resp.Errors, resp.refused = out.Data, out.Errors, int(who.refused.Load())
	if len(resp.Errors) > 0 {
		if requestFailed(resp) {
			resp.Data = nil
		}
		a.tell(ctx, resp)
	}
	return resp
}

// MakePanicError implements errors.PanicHandler: the panic is logged and the
// caller learns that there was one.
func (a *API) MakePanicError(ctx context.Context, value any) *gqlerrors.QueryError {
	if unreadable(value) {
		return a.queryError(ctx, &Error{Code: CodeBadInput, Message: "a number or a string in the query cannot be read"})
	}
	return a.queryError(ctx, fmt.Errorf("panic: %v", value))
}

// unreadable recognises the panic with which the library meets a number beyond
// 64 bits or a bad escape in a query.
func unreadable(value any) bool {
	err, ok := value.(error)
	return ok && (errors.Is(err, strconv.ErrRange) || errors.Is(err, strconv.ErrSyntax))
}

func (a *API) logPanic(ctx context.Context, value any) {
	if unreadable(value) {
		return
	}
	a.opt.Logger.ErrorContext(ctx, "panic while answering a query", "panic", fmt.Sprint(value), "stack", string(debug.Stack()))
}

// view is the graph that the request asking in ctx speaks for, with names as
// they were at at.
func (a *API) view(ctx context.Context, at *graphql.Time, size *Long) (*answer, error) {
	want := lineage.At{Size: askerOf(ctx).size}
	if at != nil {
		want.Time = at.Time
	}
	if size != nil {
		if *size <= 0 {
			return nil, badInput("asOfSize", "%d: an answer speaks for at least one entry", *size)
		}
		want.Size = int64(*size)
	}
	if want.Size == 0 {
		return nil, &Error{Code: CodeUnavailable, Message: "the graph has no entries yet"}
	}
	v, err := a.graph.View(want)
	if err != nil {
		return nil, err
	}
	return &answer{API: a, View: v}, nil
}

// answer is what resolvers answer from.
type answer struct {
	*API
	*lineage.View
}

// spend counts n nodes against what the request may read: many aliases of one
// cheap field are one dear request.
func (a *answer) spend(ctx context.Context, n int) error {
	if askerOf(ctx).nodes.Add(int64(n)) > a.limits.Nodes {
		return &Error{Code: CodeLimit, Message: fmt.Sprintf("the request reads more of the graph than the limit of %d nodes", a.limits.Nodes)}
	}
	return nil
}

// observer times the fields of the roots.
type observer struct {
	observe func(field string, took time.Duration, failed bool)
}

func (*observer) TraceQuery(ctx context.Context, _, _ string, _ map[string]any, _ map[string]*introspection.Type) (context.Context, tracer.QueryFinishFunc) {
	return ctx, func([]*gqlerrors.QueryError) {}
}

func (o *observer) TraceField(ctx context.Context, _, typeName, fieldName string, _ bool, _ map[string]any) (context.Context, tracer.FieldFinishFunc) {
	if o.observe == nil || (typeName != "Query" && typeName != "Mutation") {
		return ctx, finishNothing
	}
	start := time.Now()
	return ctx, func(err *gqlerrors.QueryError) { o.observe(fieldName, time.Since(start), err != nil) }
}

func finishNothing(*gqlerrors.QueryError) {}
