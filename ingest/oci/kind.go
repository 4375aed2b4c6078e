package oci

import (
	"context"

	"github.com/retrace-ledger/retrace/ingest"
)

// Kind is how ingest/all lists this package.
func Kind() ingest.Kind {
	return ingest.Kind{
		Name:    "oci",
		Schemes: []string{scheme},
		Open: func(_ context.Context, place ingest.Place, _ ingest.Env) (ingest.Source, string, error) {
			s, err := Parse(place.URL)
			if err != nil {
				return nil, "", err
			}
			if err := place.Settings(&s.settings); err != nil {
				return nil, "", err
			}
			return s, s.URL(), s.settings.check()
		},
		NewFetcher: func(env ingest.Env) ingest.Fetcher { return Fetcher{env} },
	}
}
