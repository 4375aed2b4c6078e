package snapshot

import (
	"strings"
	"testing"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/keep"
)

func TestSettings(t *testing.T) {
	t.Parallel()
	for with, want := range map[string]string{
		`{"keep":{"last":3,"within":"72h"}}`: "",
		`{"keep":{"within":"30d"}}`:          "",
		`{"read":"all"}`:                     "",
		`{"keep":{}}`:                        "with.keep: it keeps nothing",
		`{"keep":{"last":-1}}`:               "with.keep: last is negative",
		`{"keep":{"within":"a while"}}`:      "with.keep.within",
		`{"keep":{"yearly":1}}`:              "with.keep.yearly: there is no such setting",
		`{"read":"some"}`:                    `with.read: "some" is neither`,
	} {
		set, err := settingsOf(ingest.Place{URL: "dir:///x", With: []byte(with)})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", with, err, want)
		}
		if err == nil && set.Keep != nil {
			if again, err := keep.Parse(set.Keep.String()); err != nil || again != *set.Keep {
				t.Errorf("keep.Parse(%s) = %v, %v", set.Keep, again, err)
			}
		}
	}
}
