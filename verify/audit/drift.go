package audit

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
)

// never are fields of workloads and their pods that no API server fills in: where
// one is in a cluster and not in the manifest, somebody put it there.
var never = []string{
	"command", "args", "env", "envFrom", "workingDir", "lifecycle", "initContainers", "volumes", "volumeMounts", "volumeDevices",
	"hostNetwork", "hostPID", "hostIPC", "hostAliases", "nodeName", "nodeSelector", "affinity", "tolerations",
	"livenessProbe", "readinessProbe", "startupProbe", "priorityClassName", "runtimeClassName", "topologySpreadConstraints",
	"runAsUser", "runAsGroup", "runAsNonRoot", "privileged", "capabilities", "allowPrivilegeEscalation", "storageUri",
}

// ignored are fields that say which object it is, as lists of an API server do not, or
// that a cluster keeps and nobody writes.
var ignored = []string{"apiVersion", "kind", "status", "metadata"}

// maxDrift is how many differences are listed.
const maxDrift = 20

// Drift compares an object as a manifest has it with the one in a cluster, both in
// JSON, and lists the fields that differ. A field that the manifest has must be in
// the cluster with the same value, and lists must have the same items; of other
// fields, which an API server may have filled in with defaults, those are listed
// that it never fills in. Labels and annotations of the manifest must be there.
func Drift(manifest, object []byte) ([]string, error) {
	var want, have map[string]any
	if err := json.Unmarshal(manifest, &want); err != nil {
		return nil, fmt.Errorf("reading the manifest: %w", err)
	}
	if err := json.Unmarshal(object, &have); err != nil {
		return nil, fmt.Errorf("reading the object: %w", err)
	}
	var d drift
	for _, part := range []string{"labels", "annotations"} {
		d.compare("metadata."+part, field(want, "metadata", part), field(have, "metadata", part), true)
	}
	for _, name := range ignored {
		delete(want, name)
		delete(have, name)
	}
	d.compare("", want, have, false)
	if len(d.found) > maxDrift {
		more := len(d.found) - maxDrift
		d.found = append(d.found[:maxDrift], fmt.Sprintf("and %d more", more))
	}
	return d.found, nil
}

func field(v map[string]any, path ...string) any {
	var at any = v
	for _, name := range path {
		m, _ := at.(map[string]any)
		at = m[name]
	}
	return at
}

type drift struct{ found []string }

func (d *drift) add(path, format string, args ...any) {
	d.found = append(d.found, strings.TrimPrefix(path, ".")+": "+fmt.Sprintf(format, args...))
}

// compare goes through what the manifest has at path. With open, anything may stand
// beside it.
func (d *drift) compare(path string, want, have any, open bool) {
	switch w := want.(type) {
	case nil:
		return
	case map[string]any:
		h, ok := have.(map[string]any)
		if !ok && len(w) > 0 {
			d.add(path, "%s in the manifest, %s in the cluster", brief(path, want), brief(path, have))
			return
		}
		for _, name := range slices.Sorted(maps.Keys(w)) {
			d.compare(path+"."+name, w[name], h[name], open)
		}
		for _, name := range slices.Sorted(maps.Keys(h)) {
			if _, stated := w[name]; !stated && !open && slices.Contains(never, name) && !empty(h[name]) {
				d.add(path+"."+name, "not in the manifest, %s in the cluster", brief(path+"."+name, h[name]))
			}
		}
	case []any:
		h, _ := have.([]any)
		d.list(path, w, h)
	default:
		if !equal(path, want, have) {
			d.add(path, "%s in the manifest, %s in the cluster", brief(path, want), brief(path, have))
		}
	}
}

// list compares items by name where they have one, else by place.
func (d *drift) list(path string, want, have []any) {
	named := func(v any) string { m, _ := v.(map[string]any); s, _ := m["name"].(string); return s }
	for i, w := range want {
		at, other := fmt.Sprintf("%s[%d]", path, i), any(nil)
		if name := named(w); name != "" {
			at = fmt.Sprintf("%s[%s]", path, name)
			if j := slices.IndexFunc(have, func(h any) bool { return named(h) == name }); j >= 0 {
				other = have[j]
			}
		} else if i < len(have) {
			other = have[i]
		}
		if other == nil {
			d.add(at, "in the manifest, not in the cluster")
			continue
		}
		d.compare(at, w, other, false)
	}
	for i, h := range have {
		name := named(h)
		switch {
		case name != "" && slices.ContainsFunc(want, func(w any) bool { return named(w) == name }), name == "" && i < len(want):
		case name != "":
			d.add(fmt.Sprintf("%s[%s]", path, name), "not in the manifest, in the cluster")
		default:
			d.add(fmt.Sprintf("%s[%d]", path, i), "not in the manifest, %s in the cluster", brief(path, h))
		}
	}
}

// equal compares scalars as an API server does, to which 0.5 and 500m of a resource
// are one.
func equal(path string, a, b any) bool {
	if fmt.Sprint(a) == fmt.Sprint(b) {
		return b != nil
	}
	if !strings.Contains(path, ".resources.") {
		return false
	}
	x, errA := resource.ParseQuantity(fmt.Sprint(a))
	y, errB := resource.ParseQuantity(fmt.Sprint(b))
	return errA == nil && errB == nil && x.Cmp(y) == 0
}

func empty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case bool:
		return !v
	case string:
		return v == ""
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}

// brief is a value in a few words. Variables can hold secrets: of them it says only
// that they are set.
func brief(path string, v any) string {
	switch {
	case v == nil:
		return "nothing"
	case strings.Contains(path+".", ".env.") || strings.Contains(path, ".env["):
		return "something else"
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return "something"
	}
	if text := []rune(string(raw)); len(text) > 80 {
		return string(text[:79]) + "…"
	}
	return string(raw)
}
