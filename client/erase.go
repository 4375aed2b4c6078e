package client

import (
	"bytes"
	"context"
	"fmt"
	"net/http"

	jsonv2 "github.com/go-json-experiment/json"

	"github.com/retrace-ledger/retrace/schema"
)

// Erase removes the body of the entry at index and records env, which says so
// and is signed by the ledger's observer, as the ledger itself would.
func (c *Client) Erase(ctx context.Context, index int64, env schema.Envelope) (schema.Receipt, error) {
	var r schema.Receipt
	raw, err := jsonv2.Marshal(Erasure{Index: index, Envelope: env.Raw})
	if err != nil {
		return r, err
	}
	resp, err := c.do(ctx, http.MethodPost, "/v1/erasures", "application/json", bytes.NewReader(raw), int64(len(raw)))
	if err == nil {
		defer resp.Body.Close()
		err = decode(resp, &r)
	}
	if err == nil && len(r.Entries) != 1 {
		err = fmt.Errorf("the receipt names %d entries, not one", len(r.Entries))
	}
	if err != nil {
		return r, fmt.Errorf("erasing entry %d: %w", index, err)
	}
	return r, nil
}

// Erase is Client.Erase; afterwards the ledger speaks for the erasure too.
func (l *Ledger) Erase(ctx context.Context, index int64, env schema.Envelope) (schema.Receipt, error) {
	r, err := l.Client.Erase(ctx, index, env)
	if err != nil {
		return r, err
	}
	return r, l.advance(r.Checkpoint)
}
