package schema

import "testing"

func TestImageDescriptor(t *testing.T) {
	const hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for _, c := range []struct{ image, imageID, name string }{
		{"busybox:1", "docker-pullable://busybox@sha256:" + hex, "busybox"},
		{"registry:5000/a/b:1", "registry:5000/a/b@sha256:" + hex, "registry:5000/a/b"},
		{"registry:5000/a/b:1", "sha256:" + hex, "registry:5000/a/b"},
		{"a/b", "docker://sha256:" + hex, "a/b"},
	} {
		d, ok := ImageDescriptor(c.image, c.imageID)
		if !ok || d.Name != c.name || d.Digest[SHA256] != hex {
			t.Errorf("%s, %s: %+v, %t, want %s", c.image, c.imageID, d, ok, c.name)
		}
	}
	for _, id := range []string{"", "busybox:1", "sha256:abc", "docker-pullable://busybox", "crc32:" + hex[:8]} {
		if d, ok := ImageDescriptor("busybox@sha256:"+hex, id); ok {
			t.Errorf("imageID %q: %+v, want none", id, d)
		}
	}
}
