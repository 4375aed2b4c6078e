package schema_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retrace-ledger/retrace/schema"
)

func TestPackages(t *testing.T) {
	for name, c := range map[string]struct {
		predicateType, predicate string
		want                     []schema.Package
		ok                       bool
	}{
		"CycloneDX": {schema.CycloneDX + "/v1.6", `{"bomFormat":"CycloneDX","components":[{"type":"library","group":"org.apache","name":"log4j","version":"2.17"},{"type":"file","name":"/etc/passwd"},{"type":"application","name":"app","components":[{"type":"library","name":"left-pad","version":"1.0","purl":"pkg:npm/%40x/left-pad@1.0?arch=any#sub"}]}]}`,
			[]schema.Package{{"app", ""}, {"org.apache/log4j", "2.17"}, {"pkg:npm/%40x/left-pad", "1.0"}}, true},
		"SPDX in a field, as cosign 1 wrote it": {schema.SPDX, `{"Data":"{\"spdxVersion\":\"SPDX-2.2\",\"packages\":[{\"name\":\"musl\",\"versionInfo\":\"1.2\"},{\"name\":\"musl\",\"versionInfo\":\"1.2\"}]}","Timestamp":"2026-01-01T00:00:00Z"}`,
			[]schema.Package{{"musl", "1.2"}}, true},
		"not an SBOM":       {schema.SPDX, `{"packages":[]}`, nil, false},
		"another format":    {schema.CycloneDX, `{"bomFormat":"Other","components":[{"name":"x"}]}`, nil, false},
		"another predicate": {schema.SPDX + "2", `{"spdxVersion":"SPDX-2.3"}`, nil, false},
	} {
		got, ok := schema.Statement{PredicateType: c.predicateType, Predicate: []byte(c.predicate)}.Packages()
		if diff := cmp.Diff(c.want, got); diff != "" || ok != c.ok {
			t.Errorf("%s: ok %v (-want +got):\n%s", name, ok, diff)
		}
	}
}
