#!/usr/bin/env python3
"""Digests folders as content.Digest does, without it, and writes trees.json.

retraceTree1, DESIGN 12.6: SHA-256 over "retraceTree1\n" and, for each entry
below the folder in bytewise order of path, what the lines below say.
"""
import hashlib, json, os, stat, struct, tempfile


def tree(root):
    entries = []
    for folder, dirs, files in os.walk(root):
        for name in dirs + files:
            full = os.path.join(folder, name)
            entries.append((os.fsencode(os.path.relpath(full, root)), full))
    h = hashlib.sha256(b"retraceTree1\n")
    for path, full in sorted(entries):
        s = os.lstat(full)
        h.update(struct.pack(">I", len(path)) + path)
        if stat.S_ISLNK(s.st_mode):
            target = os.fsencode(os.readlink(full))
            h.update(b"l" + struct.pack(">I", len(target)) + target)
        elif stat.S_ISDIR(s.st_mode):
            h.update(b"d")
        else:
            content = open(full, "rb").read()
            h.update(b"f" + bytes([s.st_mode >> 6 & 1]) + struct.pack(">Q", len(content)))
            h.update(hashlib.sha256(content).digest())
    return h.hexdigest()


def f(path, text, exec=False):
    return {"path": path, "text": text, **({"exec": True} if exec else {})}


def d(path):
    return {"path": path, "folder": True}


def l(path, target):
    return {"path": path, "target": target}


VECTORS = [
    ("an empty folder", []),
    ("one file", [f("a.txt", "hello\n")]),
    ("the same file, executable", [f("a.txt", "hello\n", True)]),
    ("the same file under another name", [f("b.txt", "hello\n")]),
    ("an empty file", [f("a.txt", "")]),
    ("an empty folder in a folder", [d("a.txt")]),
    ("a link", [l("a.txt", "hello\n")]),
    ("a link to itself, one up and out, one to nothing", [l("self", "self"), l("up", "../.."), l("none", "/nowhere/at/all")]),
    ("order is of bytes, and a slash is one", [d("a"), f("a/b", "1"), f("a-b", "2"), f("a.b", "3"), f("aB", "4"), f("a0", "5"), f("B", "6")]),
    ("deep", [d("a"), d("a/a"), d("a/a/a"), f("a/a/a/a", "a")]),
    ("names beyond ASCII, not normalized", [f("z", "1"), f("\u00e9", "2"), f("e\u0301x", "3"), f("\U0001f600", "4"), f("\u65e5\u672c", "5")]),
    ("a space and a newline in names", [f(" ", "1"), f("a\nb", "2"), f("-", "3")]),
]

out = []
for what, entries in VECTORS:
    with tempfile.TemporaryDirectory() as root:
        for e in entries:
            full = os.path.join(root, e["path"])
            if e.get("folder"):
                os.mkdir(full)
            elif "target" in e:
                os.symlink(e["target"], full)
            else:
                with open(full, "w", newline="") as w:
                    w.write(e["text"])
                os.chmod(full, 0o755 if e.get("exec") else 0o644)
        out.append({"what": what, "entries": entries, "retraceTree1": tree(root)})
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "trees.json"), "w") as w:
    json.dump(out, w, indent=1)
    w.write("\n")
