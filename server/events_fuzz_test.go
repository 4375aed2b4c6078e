package server

import (
	"net/http"
	"testing"
)

// FuzzParseEvents reads requests with anything in them: none may panic, and what
// is taken has all that every event has.
func FuzzParseEvents(f *testing.F) {
	const one = `{"specversion":"1.0","id":"1","source":"/s","type":"t","subject":"x","time":"2026-11-27T10:00:00Z","datacontenttype":"text/plain","data":"hello"}`
	f.Add("application/cloudevents+json", "", "", one)
	f.Add("application/cloudevents-batch+json", "", "", "["+one+"]")
	f.Add("application/cloudevents+json", "", "", `{"specversion":"1.0","id":"1","source":"/s","type":"t","data_base64":"aGVsbG8="}`)
	f.Add("application/json", "1", "/s%20x", `{"a":1}`)
	f.Fuzz(func(t *testing.T, contentType, id, source, body string) {
		header := http.Header{"Content-Type": {contentType}, "Ce-Specversion": {"1.0"}, "Ce-Id": {id}, "Ce-Source": {source}, "Ce-Type": {"t"}}
		events, err := parseEvents(header, []byte(body))
		if err != nil {
			return
		}
		for _, e := range events {
			if e.ID == "" || e.Source == "" || e.Type == "" {
				t.Errorf("taken: %+v", e)
			}
		}
	})
}
