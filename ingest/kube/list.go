package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/url"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// groupless has rest give the address of the server alone.
var groupless = schema.GroupVersion{}

// pageSize is how many objects are asked for at once. A page of large Workflows
// is tens of megabytes.
const pageSize = 100

// page is one page of a list.
type page struct {
	Metadata struct {
		ResourceVersion string `json:"resourceVersion"`
		Continue        string `json:"continue"`
	} `json:"metadata"`
	Items []jsontext.Value `json:"items"`
}

// pages yields the objects of a type in namespace ("" for all), page by page,
// in the order of namespace and name, all as of one resource version.
func (c *Client) pages(ctx context.Context, t Type, namespace string) iter.Seq2[page, error] {
	return func(yield func(page, error) bool) {
		query := url.Values{"limit": {strconv.Itoa(pageSize)}}
		for {
			var p page
			if err := c.get(ctx, t.path(namespace), query, &p); err != nil {
				yield(page{}, err)
				return
			}
			if !yield(p, nil) || p.Metadata.Continue == "" {
				return
			}
			query.Set("continue", p.Metadata.Continue)
		}
	}
}

// List yields the objects of a type in namespace ("" for all), in the order of
// namespace and name, all as of one moment. No more than a page of them is in
// memory.
func (c *Client) List(ctx context.Context, t Type, namespace string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		for p, err := range c.pages(ctx, t, namespace) {
			if err != nil {
				yield(Object{}, err)
				return
			}
			for _, raw := range p.Items {
				o, err := newObject(t, raw)
				if !yield(o, err) || err != nil {
					return
				}
			}
		}
	}
}

// event is one event of a watch. An ERROR is returned as an error.
type event struct {
	opened   bool // the API server has begun to answer; no object
	deleted  bool
	bookmark bool // only the object's resource version counts
	object   Object
}

// watch yields what happens to the objects of a type after a resource version,
// in order. The API server ends it, without an error, after about span.
func (c *Client) watch(ctx context.Context, t Type, namespace, after string, span time.Duration) iter.Seq2[event, error] {
	query := url.Values{
		"watch": {"true"}, "resourceVersion": {after}, "allowWatchBookmarks": {"true"},
		"timeoutSeconds": {strconv.Itoa(max(1, int(span/time.Second)))},
	}
	return func(yield func(event, error) bool) {
		body, err := c.open(ctx, t.path(namespace), query)
		if err != nil {
			yield(event{}, err)
			return
		}
		defer body.Close()
		if !yield(event{opened: true}, nil) {
			return
		}
		d := jsontext.NewDecoder(body)
		for {
			e, err := nextEvent(d, t)
			if errors.Is(err, io.EOF) && ctx.Err() == nil {
				return
			}
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// nextEvent reads one event.
func nextEvent(d *jsontext.Decoder, t Type) (event, error) {
	var wire struct {
		Type   string         `json:"type"`
		Object jsontext.Value `json:"object"`
	}
	if err := json.UnmarshalDecode(d, &wire); err != nil {
		// A server that stops cuts its watches where they are.
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return event{}, io.EOF
		}
		return event{}, fmt.Errorf("reading a watch of %s: %w", t, err)
	}
	if wire.Type == "ERROR" {
		status := &StatusError{}
		if err := json.Unmarshal(wire.Object, status); err != nil {
			return event{}, fmt.Errorf("reading an error in a watch of %s: %w", t, err)
		}
		return event{}, fmt.Errorf("watching %s: %w", t, status)
	}
	o, err := newObject(t, wire.Object)
	return event{deleted: wire.Type == "DELETED", bookmark: wire.Type == "BOOKMARK", object: o}, err
}
