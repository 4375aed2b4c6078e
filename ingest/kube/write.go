package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/retrace-ledger/retrace/schema"
)

// Exists says whether the API server refused to create an object since there is
// one of that name.
func Exists(err error) bool {
	var status *StatusError
	return errors.As(err, &status) && status.Code == http.StatusConflict && status.Reason == "AlreadyExists"
}

// Create creates an object in namespace and returns it as the API server has it.
func (c *Client) Create(ctx context.Context, t Type, namespace string, object any) (Object, error) {
	return c.write(ctx, http.MethodPost, t, t.path(namespace), "application/json", object)
}

// Patch merges into an object (RFC 7396), if it is still the version that was
// read: any change since is a conflict.
func (c *Client) Patch(ctx context.Context, o Object, patch map[string]any) (Object, error) {
	patch["metadata"] = map[string]any{"uid": o.Meta.UID, "resourceVersion": o.Meta.ResourceVersion}
	return c.write(ctx, http.MethodPatch, o.Type, path.Join(o.Type.path(o.Meta.Namespace), o.Meta.Name), "application/merge-patch+json", patch)
}

// Delete deletes an object, and none other of its name: one that was made anew is
// a conflict. One that is gone is none.
func (c *Client) Delete(ctx context.Context, o Object) error {
	_, err := c.write(ctx, http.MethodDelete, o.Type, path.Join(o.Type.path(o.Meta.Namespace), o.Meta.Name), "application/json", map[string]any{
		"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": map[string]any{"uid": o.Meta.UID},
	})
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// write sends an object and reads the one that is answered.
func (c *Client) write(ctx context.Context, method string, t Type, path, contentType string, object any) (Object, error) {
	content, err := schema.Canonical(object)
	if err != nil {
		return Object{}, err
	}
	body, err := c.send(ctx, method, path, nil, contentType, content)
	if err != nil {
		return Object{}, err
	}
	defer body.Close()
	var raw jsontext.Value
	if err := json.UnmarshalRead(io.LimitReader(body, maxAnswer), &raw); err != nil {
		return Object{}, fmt.Errorf("reading the answer to %s %s: %w", method, path, err)
	}
	return newObject(t, raw)
}
