package picture

import "slices"

// colors are those of the resources of a kind, on a light ground and on a dark
// one.
type colors struct {
	class              string
	fill, line         string
	darkFill, darkLine string
}

// palette are the colours of all kinds, and of steps. Kinds are also written
// in words, so that nothing depends on telling colours apart.
func palette() []colors {
	return []colors{
		{"git", "#fdeee3", "#c4540a", "#3d2412", "#f0945a"},
		{"oci", "#e4effc", "#1d66c2", "#12294a", "#6fa8f5"},
		{"snapshot", "#e3f4e6", "#23803a", "#12331c", "#69c681"},
		{"file", "#e2f3f2", "#17787a", "#0f3233", "#5cc0c2"},
		{"model", "#efe7fb", "#6d35c2", "#2c1a4d", "#b48cf2"},
		{"run", "#f3ecd9", "#8a6a10", "#352a0c", "#d3b04c"},
		{"other", "#f0f1f3", "#69737f", "#23292f", "#97a3b0"},
		{"step", "#eceff3", "#4a5563", "#2a323c", "#a9b5c4"},
		{"failed", "#fde8e7", "#c62828", "#451616", "#f28b82"},
	}
}

// kindClass is the class of a kind; kinds are strings that sources make up.
func kindClass(kind string) string {
	if kind == "step" || kind == "failed" || !slices.ContainsFunc(palette(), func(c colors) bool { return c.class == kind }) {
		return "other"
	}
	return kind
}

func colorsOf(kind string) colors {
	class := kindClass(kind)
	p := palette()
	return p[slices.IndexFunc(p, func(c colors) bool { return c.class == class })]
}
