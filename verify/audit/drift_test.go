package audit

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDrift(t *testing.T) {
	const manifest = `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"api","labels":{"app":"api"}},
		"spec":{"replicas":2,"template":{"spec":{"containers":[{"name":"api","image":"r/api@sha256:1","env":[{"name":"MODE","value":"fast"}],"resources":{"limits":{"cpu":0.5,"memory":"1Gi"}},"ports":[{"containerPort":8080}]}]}}}}`
	const object = `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"api","uid":"7","labels":{"app":"api","more":"x"}},"status":{"replicas":2},
		"spec":{"replicas":2,"progressDeadlineSeconds":600,"template":{"spec":{"restartPolicy":"Always","hostNetwork":false,"containers":[{"name":"api","image":"r/api@sha256:1","imagePullPolicy":"IfNotPresent",
		"env":[{"name":"MODE","value":"fast"}],"resources":{"limits":{"cpu":"500m","memory":"1Gi"}},"ports":[{"containerPort":8080,"protocol":"TCP"}]}]}}}}`
	const containers = "spec.template.spec.containers"
	for name, c := range map[string]struct {
		old, new string // what is changed in the object
		want     []string
	}{
		"defaults alone": {"", "", nil},
		"a value":        {`"replicas":2,"progress`, `"replicas":3,"progress`, []string{"spec.replicas: 2 in the manifest, 3 in the cluster"}},
		"a label":        {`"app":"api","more"`, `"more"`, []string{"metadata.labels.app: \"api\" in the manifest, nothing in the cluster"}},
		"another image":  {"sha256:1", "sha256:2", []string{containers + "[api].image: \"r/api@sha256:1\" in the manifest, \"r/api@sha256:2\" in the cluster"}},
		"a variable":     {`"value":"fast"`, `"value":"s3cret"`, []string{containers + "[api].env[MODE].value: something else in the manifest, something else in the cluster"}},
		"one more":       {`{"name":"MODE"`, `{"name":"TOKEN","value":"s3cret"},{"name":"MODE"`, []string{containers + "[api].env[TOKEN]: not in the manifest, in the cluster"}},
		"a command":      {`"imagePullPolicy"`, `"command":["sh"],"imagePullPolicy"`, []string{containers + "[api].command: not in the manifest, [\"sh\"] in the cluster"}},
		"the host":       {`"hostNetwork":false`, `"hostNetwork":true`, []string{"spec.template.spec.hostNetwork: not in the manifest, true in the cluster"}},
		"a container":    {`"containers":[`, `"containers":[{"name":"miner","image":"x"},`, []string{containers + "[miner]: not in the manifest, in the cluster"}},
		"a port":         {`"protocol":"TCP"}`, `"protocol":"TCP"},{"containerPort":22}`, []string{containers + "[api].ports[1]: not in the manifest, {\"containerPort\":22} in the cluster"}},
		"a quantity":     {`"500m"`, `"600m"`, []string{containers + "[api].resources.limits.cpu: 0.5 in the manifest, \"600m\" in the cluster"}},
		"no containers":  {`"containers":[{`, `"other":[{`, []string{containers + "[api]: in the manifest, not in the cluster"}},
	} {
		changed := strings.Replace(object, c.old, c.new, 1)
		if c.old != "" && changed == object {
			t.Fatalf("%s: %q is not in the object", name, c.old)
		}
		got, err := Drift([]byte(manifest), []byte(changed))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if _, err := Drift([]byte("{"), []byte("{}")); err == nil {
		t.Error("half a manifest is taken")
	}
}
