package graphql

import (
	"context"
	"net/http"

	"github.com/retrace-ledger/retrace/schema"
)

// mutation resolves Mutation.
type mutation struct{ *API }

// source is what the headers of entries say that were recorded here.
const source = "graphql"

// allow refuses those who lack the right, and requests whose method promises to
// change nothing.
func allow(ctx context.Context, right func(Rights) bool) error {
	who := askerOf(ctx)
	switch {
	case who.readOnly:
		who.refused.Store(http.StatusMethodNotAllowed)
		return &Error{Code: CodeForbidden, Message: "a mutation has to be sent with POST"}
	case !right(who.rights):
		who.refused.Store(http.StatusUnauthorized)
		return &Error{Code: CodeForbidden, Message: "this needs a token with the role for it: Authorization: Bearer TOKEN"}
	}
	return nil
}

func (m *mutation) Record(ctx context.Context, args struct{ Statement, Envelope *JSON }) (*entry, error) {
	if err := allow(ctx, func(r Rights) bool { return r.Record }); err != nil {
		return nil, err
	}
	env, err := toRecord(args.Statement, args.Envelope)
	if err != nil {
		return nil, err
	}
	receipt, err := m.log.Append(ctx, schema.Batch{Source: source, Submitter: askerOf(ctx).rights.Submitter, Envelopes: []schema.Envelope{env}})
	if err != nil {
		return nil, err
	}
	if err := m.graph.Wait(ctx, receipt.Size); err != nil {
		return nil, err
	}
	size := Long(receipt.Size)
	in, err := m.view(ctx, nil, &size)
	if err != nil {
		return nil, err
	}
	return in.entry(ctx, receipt.Entries[0].Index)
}

// toRecord is the envelope of the one document given, checked as it will be
// read.
func toRecord(statement, envelope *JSON) (schema.Envelope, error) {
	field, given := "statement", statement
	if statement == nil {
		field, given = "envelope", envelope
	}
	if (statement == nil) == (envelope == nil) {
		return schema.Envelope{}, badInput("", "give either a statement or an envelope")
	}
	raw, err := given.document()
	if err != nil {
		return schema.Envelope{}, badInput(field, "%v", err)
	}
	docs, err := schema.ParseDocument(raw)
	if err != nil {
		return schema.Envelope{}, under(field, err)
	}
	if len(docs) != 1 {
		return schema.Envelope{}, badInput(field, "holds %d documents; record one at a time, or POST them to /v1/statements", len(docs))
	}
	return docs[0].Envelope, nil
}

// under says which argument an error about a document is about.
func under(argument string, err error) error {
	told := Explain(err)
	if told.Code != CodeBadInput {
		return err
	}
	field := argument
	if told.Field != "" {
		field += "." + told.Field
	}
	return &Error{Code: told.Code, Field: field, Message: told.Message, Err: err}
}
