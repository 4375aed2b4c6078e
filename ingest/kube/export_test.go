package kube

// RoundTrip parses a cursor, and what it wrote of it again.
func RoundTrip(s string) {
	c, err := parseCursor(s)
	if err != nil || s == "" {
		return
	}
	again, err := parseCursor(c.String())
	if err != nil || again != c {
		panic(err)
	}
}
