package ingest_test

import (
	"strings"
	"testing"

	"github.com/retrace-ledger/retrace/ingest"
)

func TestNaming(t *testing.T) {
	fields := map[string]string{
		"namespace": "ml", "pipeline": "train", "task": "fit", "output": "model", "run": "0001",
		"param.region": "eu west", "label.team": "wind",
	}
	for _, c := range []struct {
		rules   ingest.Naming
		name, v string
	}{
		{nil, "ml/train/fit/model", "0001"},
		{ingest.Naming{{Match: map[string]string{"label.team": "w*"}, Name: "{label.team}/{param.region}", Version: "{run}"}}, "wind/eu-west", "0001"},
		{ingest.Naming{{Match: map[string]string{"pipeline": "serve"}, Name: "x", Version: "1"}}, "ml/train/fit/model", "0001"},
		{ingest.Naming{{Name: "{param.missing}", Version: "{run}"}}, "ml/train/fit/model", "0001"},
	} {
		name, v, err := c.rules.Model(fields)
		if err != nil || name != c.name || v != c.v {
			t.Errorf("%v: %s@%s, %v, want %s@%s", c.rules, name, v, err, c.name, c.v)
		}
	}
	if _, _, err := ingest.Naming(nil).Model(map[string]string{"output": "model", "task": "fit"}); err == nil {
		t.Error("a model without a pipeline has a name")
	}
}

func TestNamingCheck(t *testing.T) {
	for want, rules := range map[string]ingest.Naming{
		"":                          {{Match: map[string]string{"label.a": "*"}, Name: "{task}", Version: "{run}"}},
		"want a name and a version": {{Name: "x"}},
		"no field \"labels.a\"":     {{Match: map[string]string{"labels.a": "*"}, Name: "x", Version: "1"}},
		"is not a pattern":          {{Match: map[string]string{"task": "["}, Name: "x", Version: "1"}},
		"no field {step}":           {{Name: "{step}", Version: "1"}},
	} {
		err := rules.Check()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("Check = %v, want %q", err, want)
		}
	}
}
