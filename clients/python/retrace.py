"""Ask a retrace ledger from Python: what made a model, why two differ, what
stands in the way of restoring one, with proof; and record steps of a notebook.

    import retrace
    client = retrace.connect()
    client.model("forecast@3").inputs()

Standard library only. Signatures are checked with the package `cryptography`;
without it, verify() says that it could not check.
"""

import base64
import collections
import hashlib
import html
import json
import math
import os
import pathlib
import platform
import re
import secrets
import stat
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import warnings
from datetime import datetime, timezone

__version__ = "0.1.0"
__all__ = ["connect", "Client", "RetraceError", "step", "Lineage", "Verification"]

PROVENANCE = "https://slsa.dev/provenance/v1"
MODEL = "https://github.com/retrace-ledger/retrace/predicates/model/v1"
RUN = "https://github.com/retrace-ledger/retrace/run/v1"
STEP = "https://github.com/retrace-ledger/retrace/step/v1"
BUILDER = "https://github.com/retrace-ledger/retrace/clients/python"


class RetraceError(Exception):
    """What the server refused, or what could not be done.

    code is that of the GraphQL API (NOT_FOUND, AMBIGUOUS, BAD_INPUT, …), or
    UNREACHABLE where no server answered.
    """

    def __init__(self, message, code="UNAVAILABLE"):
        super().__init__(message)
        self.code = code


def connect(url=None, token=None, token_file=None, dir=None):
    """Return a Client of the server at url.

    Without a url it is RETRACE_SERVER, else the server that runs on the ledger
    in dir: .retrace in the working directory or a parent. The token, needed to
    record and to restore, is the one given, else read from token_file each time,
    else from the file that RETRACE_TOKEN_FILE names, else RETRACE_TOKEN, else that
    of the local server.
    """
    if not token and not token_file:
        token_file, token = os.environ.get("RETRACE_TOKEN_FILE"), os.environ.get("RETRACE_TOKEN")
    url = url or os.environ.get("RETRACE_SERVER")
    if not url:
        local = _local_server(dir)
        url, token = local["address"], token or (None if token_file else local.get("token"))
    return Client(url, token, token_file)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows nothing: a token is for the server that it was given for."""

    def redirect_request(self, *args):
        return None


def _local_server(dir):
    start = pathlib.Path(dir or os.environ.get("RETRACE_DIR") or ".").resolve()
    for at in [start, *start.parents]:
        for ledger in (at, at / ".retrace"):
            try:
                return json.loads((ledger / "server.json").read_text())
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as e:
                raise RetraceError(f"reading {ledger / 'server.json'}: {e}") from e
    raise RetraceError(
        f"no server of a ledger runs in {start} or above it: start one with `retrace serve`, or say connect(url)",
        "UNREACHABLE",
    )


class Client:
    """Asks one server."""

    def __init__(self, url, token=None, token_file=None):
        self.url = url.rstrip("/")
        self._token, self._token_file = (token, None) if token else (None, token_file)
        self._opener = urllib.request.build_opener(_NoRedirect)

    def __repr__(self):
        return f"retrace.connect({self.url!r})"

    def query(self, text, variables=None):
        """Answer a GraphQL query: its data. An error of any field is raised."""
        body = json.dumps({"query": text, "variables": variables or {}}).encode()
        headers = {"Content-Type": "application/json", "Accept": "application/graphql-response+json", **self._authorization()}
        request = urllib.request.Request(self.url + "/graphql", body, headers)
        try:
            with self._opener.open(request, timeout=120) as answer:
                raw = answer.read()
        except urllib.error.HTTPError as e:
            if e.headers.get("Location"):
                raise RetraceError(f"{self.url} sends elsewhere, to {e.headers['Location']}: say connect() with that address if it is right", "UNREACHABLE") from e
            raw = e.read()
        except OSError as e:
            raise RetraceError(f"asking {self.url}: {e}", "UNREACHABLE") from e
        try:
            response = json.loads(raw)
        except ValueError as e:
            raise RetraceError(f"{self.url} does not answer as retrace does: {raw[:200]!r}") from e
        errors = response.get("errors")
        if errors:
            first = errors[0]
            raise RetraceError(first["message"], first.get("extensions", {}).get("code", "UNAVAILABLE"))
        if "data" not in response:  # the server's own form of a refusal
            raise RetraceError(response.get("detail") or str(response), response.get("code", "UNAVAILABLE"))
        return response["data"]

    def model(self, ref, at=None, as_of_size=None):
        """A version of a model: NAME, the newest, or NAME@VERSION."""
        q = "query($ref: String!, $at: Time, $size: Long) { found: model(ref: $ref, at: $at, asOfSize: $size) { %s name version metrics recordedAt evidence } }"
        found = self._one(q, ref, at, as_of_size)
        if not _named_by(ref, f"model:{found['name']}@{found['version']}"):
            raise RetraceError(f"{self.url} was asked for {ref}, and answers with {found['name']}@{found['version']}")
        return Resource(self, ref, found, at, as_of_size)

    def resource(self, ref, at=None, as_of_size=None):
        """Whatever a reference refers to: a digest, image:…, git:…, snapshot:…, run:…, a URI."""
        q = "query($ref: String!, $at: Time, $size: Long) { found: resource(ref: $ref, at: $at, asOfSize: $size) { %s name } }"
        return Resource(self, ref, self._one(q, ref, at, as_of_size), at, as_of_size)

    def _one(self, query, ref, at, size):
        fields = "id kind uri digest digests mediaType size content state"
        found = self.query(query % fields, {"ref": ref, "at": at, "size": size})["found"]
        if found is None:
            raise RetraceError(f"{ref}: not found", "NOT_FOUND")
        return found

    def models(self, name=None):
        """Every version of every model, or of one, the newest first."""
        after = None
        while True:
            page = self.query(
                """query($name: String, $after: String) {
                  models(name: $name, after: $after, first: 500, orderBy: NEWEST_FIRST) {
                    nodes { id kind uri digest digests mediaType size content state name version metrics recordedAt evidence }
                    pageInfo { hasNextPage endCursor } } }""",
                {"name": name, "after": after},
            )["models"]
            for node in page["nodes"]:
                yield Resource(self, f"model:{node['name']}@{node['version']}", node)
            if not page["pageInfo"]["hasNextPage"]:
                return
            after = page["pageInfo"]["endCursor"]

    def lineage(self, ref, down=False, depth=None, at=None, as_of_size=None):
        """What a resource was made from or, with down, what was made from it."""
        q = """query($ref: String!, $d: Direction, $depth: Int, $at: Time, $size: Long) {
          lineage(ref: $ref, direction: $d, depth: $depth, at: $at, asOfSize: $size) {
            ref name size truncated direction proof root { id }
            resources { id kind name uri digest state }
            steps { id run name started finished exit parameters metrics evidence }
            edges { from { id } to { id } step { id } relation role path evidence depth entry { index } } } }"""
        direction, ref = "DOWNSTREAM" if down else "UPSTREAM", _ref(ref)
        found = self.query(q, {"ref": ref, "d": direction, "depth": depth, "at": at, "size": as_of_size})["lineage"]
        return Lineage(found, {"ref": ref, "direction": direction, "depth": depth or 0, "size": as_of_size})

    def diff(self, left, right, at=None, as_of_size=None):
        """Why two resources differ, causes first. Models may be given as objects."""
        q = """query($l: String!, $r: String!, $at: Time, $size: Long) { diff(left: $l, right: $r, at: $at, asOfSize: $size) { same size leftMetrics rightMetrics
          differences { kind name left right depth cause } } }"""
        return Diff(_ref(left), _ref(right), self.query(q, {"l": _ref(left), "r": _ref(right), "at": at, "size": as_of_size})["diff"])

    def gaps(self, ref, at=None, as_of_size=None):
        """What stands in the way of restoring and reproducing, and a score of 100."""
        q = "query($ref: String!, $at: Time, $size: Long) { gaps(ref: $ref, at: $at, asOfSize: $size) { score size gaps { rule severity name detail explain remedy } } }"
        return Gaps(_ref(ref), self.query(q, {"ref": _ref(ref), "at": at, "size": as_of_size})["gaps"])

    def impact(self, ref):
        """The models and workloads that something reaches, as dictionaries, nearest first."""
        after = None
        while True:
            page = self.query(
                """query($ref: String!, $after: String) { impact(ref: $ref, first: 500, after: $after) {
                  nodes { name running since until claimed depth resource { digest } }
                  pageInfo { hasNextPage endCursor } } }""",
                {"ref": _ref(ref), "after": after},
            )["impact"]
            yield from page["nodes"]
            if not page["pageInfo"]["hasNextPage"]:
                return
            after = page["pageInfo"]["endCursor"]

    def restore(self, ref, target=None, progress=None, poll=0.2):
        """Restore a resource on the server and return how it ended.

        target is the name of a place that the server's configuration knows;
        without one it is a folder that the server keeps. progress is called with
        (done, total). A restoration that is not complete raises RetraceError.
        """
        fields = "id state done total verdict problem place"
        job = self.query(
            "mutation($ref: String!, $t: String) { job: restore(ref: $ref, target: $t) { %s } }" % fields,
            {"ref": _ref(ref), "t": target},
        )["job"]
        while True:
            if progress:
                progress(job["done"], job["total"])
            if job["state"] != "RUNNING":
                break
            time.sleep(poll)
            job = self.query("query($id: ID!) { job: restoration(id: $id) { %s } }" % fields, {"id": job["id"]})["job"]
            if job is None:
                raise RetraceError(f"restoring {_ref(ref)}: {self.url} no longer knows of it: restore again", "NOT_FOUND")
        if job["verdict"] != "COMPLETE":
            raise RetraceError(f"restoring {_ref(ref)} into {job['place']}: {job['verdict'] or job['state']}: {job['problem']}", "INCOMPLETE")
        return job

    def keep(self, path, digest=None):
        """Send a file or folder to the server, which keeps it for restoring; what
        it keeps already is not sent. Return its key. digest is its digest set, if
        that is known; the server checks it."""
        key = "%s:%s" % next(iter((digest or _digest(path)).items()))
        if self._keeps(key):
            return key
        url = self._content(key)
        if os.path.isdir(path):
            with tempfile.TemporaryFile() as archive:
                _tar(path, archive)
                archive.seek(0)
                self._send("PUT", url, archive)
        else:
            with open(path, "rb") as f:
                self._send("PUT", url, f)
        return key

    def keep_commit(self, commit):
        """Send what the commit of the repository here holds, without its history."""
        if self._keeps("gitCommit:" + commit):
            return
        git = subprocess.run(["git", "rev-list", "--objects", "--no-walk", commit], capture_output=True)
        with tempfile.TemporaryDirectory() as folder:
            pack = os.path.join(folder, "pack")
            with open(pack, "wb") as f:
                packed = subprocess.run(["git", "pack-objects", "--stdout", "-q"], input=git.stdout, stdout=f, stderr=subprocess.PIPE)
            if git.returncode or packed.returncode:
                raise RetraceError(f"packing commit {commit}: {(git.stderr or packed.stderr).decode(errors='replace').strip()}")
            key = self.keep(pack)
        self._send("PUT", self._content("gitCommit:" + commit) + "/alias?target=" + urllib.parse.quote(key, safe=""))

    def _content(self, key):
        return f"{self.url}/v1/content/{key.replace(':', '%3A')}"

    def _keeps(self, key):
        try:
            self._send("HEAD", self._content(key))
            return True
        except RetraceError as e:
            if e.code != "NOT_FOUND":
                raise
            return False

    def _send(self, method, url, body=None):
        headers = {"Content-Type": "application/octet-stream"} if body else {}
        if body:
            headers["Content-Length"] = str(os.fstat(body.fileno()).st_size)
        request = urllib.request.Request(url, body, {**headers, **self._authorization()}, method=method)
        try:
            with self._opener.open(request, timeout=3600) as answer:  # the server reads and keeps all of it first
                answer.read()
        except urllib.error.HTTPError as e:
            try:
                problem = json.loads(e.read() or b"{}")
            except ValueError:
                problem = {}
            code = {404: "NOT_FOUND", 401: "UNAUTHORIZED", 403: "FORBIDDEN"}.get(e.code, "UNAVAILABLE")
            raise RetraceError(f"{method} {url}: {problem.get('detail') or e.reason}", problem.get("code", code)) from e
        except OSError as e:
            raise RetraceError(f"asking {self.url}: {e}", "UNREACHABLE") from e

    def _authorization(self):
        token = self._token
        if self._token_file:
            try:
                token = pathlib.Path(self._token_file).read_text().strip()
            except OSError as e:
                raise RetraceError(f"reading the token: {e}", "BAD_INPUT") from e
        return {"Authorization": "Bearer " + token} if token else {}

    def record(self, statement):
        """Record an in-toto Statement v1. Nobody signed it, so it is graded as claimed."""
        q = "mutation($s: JSON!) { record(statement: $s) { index evidence recordedAt } }"
        return self.query(q, {"s": statement})["record"]

    def step(self, name, **what):
        """Record a step: see retrace.step."""
        return Step(self, name, **what)


def _ref(x):
    return x.ref if isinstance(x, Resource) else x


class Resource:
    """A model version or another resource, with what the server says of it.

    Attributes: ref, name, version and metrics of a model, kind, digest, uri,
    size in bytes, evidence, state.
    """

    def __init__(self, client, ref, fields, at=None, as_of_size=None):
        self.client, self.ref = client, ref
        self._as_of = {"at": at, "as_of_size": as_of_size}
        for name in ("name", "version", "metrics", "kind", "digest", "digests", "uri", "size", "state", "evidence", "recordedAt", "content", "mediaType", "id"):
            setattr(self, name, fields.get(name))
        if self.version is not None:
            self.ref = f"model:{self.name}@{self.version}"

    def __repr__(self):
        label = f"{self.name}@{self.version}" if self.version is not None else self.name or self.ref
        return f"<{self.kind or 'resource'} {label} {self.digest or self.uri or ''}>"

    def lineage(self, down=False, depth=None):
        return self.client.lineage(self.ref, down, depth, **self._as_of)

    def inputs(self, kind=None):
        """All that it was made from, directly or not; only of one kind if given."""
        return self.lineage().inputs(kind)

    def gaps(self):
        return self.client.gaps(self.ref, **self._as_of)

    def diff(self, other):
        return self.client.diff(self.ref, other, **self._as_of)

    def verify(self, key=None):
        """Check the proof of its lineage locally: see Lineage.verify."""
        lineage = self.lineage()
        root = _key(lineage._nodes[lineage._root])
        if root != _key({"digest": self.digest, "uri": self.uri}):
            return Verification(False, f"the lineage of {self.ref} starts at {_short(root)}, and it was shown as {_short(self.digest or self.uri)}")
        return lineage.verify(key)

    def restore(self, target=None, progress=None):
        return self.client.restore(self.ref, target, progress)


class Lineage:
    """The part of the graph that an answer showed: resources, steps and edges as
    dictionaries, the size of the ledger that it speaks for, and its proof."""

    def __init__(self, found, asked):
        self.ref, self.name, self.size, self._asked = asked["ref"], found["name"], found["size"], asked
        self.truncated, self.proof, self.direction = found["truncated"], found["proof"], found["direction"]
        self.resources, self.steps, self.edges = found["resources"], found["steps"], found["edges"]
        self._root = found["root"]["id"]
        self._nodes = {n["id"]: n for n in self.resources}
        self._steps = {s["id"]: s for s in self.steps}

    def __repr__(self):
        return f"<lineage of {self.name or self.ref}: {len(self.resources)} resources, {len(self.steps)} steps, of the first {self.size} entries>"

    def inputs(self, kind=None):
        """The resources but the root, as dictionaries, nearest first."""
        return [n for n in self.resources if n["id"] != self._root and kind in (None, n["kind"])]

    def rows(self):
        """Each edge as a flat dictionary."""
        for e in self.edges:
            a, b, s = self._nodes[e["from"]["id"]], self._nodes[e["to"]["id"]], self._steps.get((e["step"] or {}).get("id"), {})
            yield {
                "from": a["name"], "from_kind": a["kind"], "from_digest": a["digest"],
                "to": b["name"], "to_kind": b["kind"], "to_digest": b["digest"], "to_uri": b["uri"],
                "relation": e["relation"], "role": e["role"], "step": s.get("name"), "run": s.get("run"),
                "evidence": e["evidence"], "depth": e["depth"], "entry": e["entry"]["index"],
            }

    def to_pandas(self):
        """The edges as a pandas.DataFrame."""
        import pandas

        return pandas.DataFrame(list(self.rows()))

    def verify(self, key=None):
        """Check the proof of this answer with the log's public key alone.

        key is the text of log.vkey, or the name of a file that holds it; without
        one RETRACE_LOG_KEY names the file. Take it from whoever runs the log, and
        not from the server that is checked.
        """
        return verify(self.proof, key, self)

    def meant(self, claim):
        """Whether the claim of a bundle is about what was asked for."""
        asked = self._asked
        return (claim["ref"] == self.ref and (claim.get("direction") or "UPSTREAM") == asked["direction"]
                and (claim.get("depth") or 0) == asked["depth"] and asked["size"] in (None, claim["size"]))

    def _repr_svg_(self):
        return _draw(self)


class Diff:
    """Why two resources differ. causes come first in differences."""

    def __init__(self, left, right, found):
        self.left, self.right, self.same, self.size = left, right, found["same"], found["size"]
        self.differences = found["differences"]
        self.metrics = {k: ((found["leftMetrics"] or {}).get(k), (found["rightMetrics"] or {}).get(k)) for k in {**(found["leftMetrics"] or {}), **(found["rightMetrics"] or {})}}

    @property
    def causes(self):
        return [d for d in self.differences if d["cause"]]

    def __repr__(self):
        if self.same:
            return f"{self.left} and {self.right} are the same"
        lines = [f"{k}: {l} → {r}" for k, (l, r) in sorted(self.metrics.items()) if l != r]
        for d in self.differences:
            lines.append(f"{'CAUSE  ' if d['cause'] else 'follows'}  {d['kind']} {d['name'] or ''}: {_short(d['left'])} → {_short(d['right'])}")
        return "\n".join(lines)

    def to_pandas(self):
        import pandas

        return pandas.DataFrame(self.differences)


class Gaps(list):
    """Gaps as dictionaries, nearest first, with a score of 100."""

    def __init__(self, ref, found):
        super().__init__(found["gaps"])
        self.ref, self.score, self.size = ref, found["score"], found["size"]

    def __repr__(self):
        lines = [f"{g['severity']:8} {g['rule']}: {g['name'] or ''} {g['detail'] or ''}".rstrip() for g in self]
        return "\n".join([*lines, f"score {self.score} of 100 for {self.ref}"])


def _short(value):
    if value is None:
        return "-"
    algorithm, colon, digits = value.partition(":")
    return f"{algorithm}:{digits[:12]}" if colon and len(digits) >= 32 else value


# Pictures.

_WIDTH, _HEIGHT, _ACROSS, _DOWN = 220, 40, 40, 14
_FILL = {"git": "#fde9d0", "oci": "#d7e8fb", "snapshot": "#d9f0dd", "model": "#f6d9ea", "workload": "#e6dcf8", "step": "#ffffff"}


_MOST_DRAWN = 400


def _text(words):
    """Text for XML, in which control characters cannot stand."""
    return html.escape("".join(c if c.isprintable() or c in "\n " else "\ufffd" for c in words))


def _draw(lineage):
    """The graph from left to right: resources in boxes, steps between them. Of a
    large one, the edges that are nearest, and how many more there are."""
    links = []
    for e in lineage.edges[:_MOST_DRAWN]:
        a, b, s = e["from"]["id"], e["to"]["id"], (e["step"] or {}).get("id")
        if lineage.direction == "DOWNSTREAM":
            a, b = b, a
        claimed = e["evidence"] == "claimed"
        if s:
            links += [(a, s, claimed, ""), (s, b, claimed, e["role"] or "")]
        else:
            links.append((a, b, claimed, e["relation"] or ""))
    column = {lineage._root: 0}
    most = 2 * len(lineage._nodes)  # where the graph has a circle
    for _ in range(64):
        before = dict(column)
        for a, b, _claimed, _label in links:
            step = 1 if a in lineage._steps or b in lineage._steps else 2
            if a in column and b != lineage._root:
                column[b] = min(max(column.get(b, 0), column[a] + step), most)
        if column == before:
            break
    rows, place = {}, {}
    for node in column:
        c = column[node]
        r = rows.get(c, 0)
        rows[c] = r + 1
        x = (c // 2) * (_WIDTH + _WIDTH // 2 + 2 * _ACROSS) + (c % 2) * (_WIDTH + _ACROSS)
        place[node] = (x + 10, r * (_HEIGHT + _DOWN) + 10)
    width = max(x for x, _ in place.values()) + _WIDTH + 10
    height = max(y for _, y in place.values()) + _HEIGHT + 10
    more = len(lineage.edges) - _MOST_DRAWN
    height += 20 if more > 0 else 0
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{min(width, 1400)}" font-family="sans-serif" font-size="12">']
    drawn = set()
    for a, b, claimed, label in links:
        if (a, b) in drawn:
            continue
        drawn.add((a, b))
        (x1, y1), (x2, y2) = place[a], place[b]
        w = _WIDTH if a in lineage._nodes else _WIDTH // 2
        x1, y1, y2 = x1 + w, y1 + _HEIGHT // 2, y2 + _HEIGHT // 2
        dash = ' stroke-dasharray="4 3"' if claimed else ""
        mid = (x1 + x2) // 2
        out.append(f'<path d="M{x1} {y1} C{mid} {y1} {mid} {y2} {x2} {y2}" fill="none" stroke="#888"{dash}><title>{_text(label)}{" (claimed)" if claimed else ""}</title></path>')
    for node, (x, y) in place.items():
        n = lineage._nodes.get(node)
        if n:
            first, second, kind, w = n["name"] or n["uri"] or n["kind"] or "", f'{n["kind"] or ""} {_short(n["digest"]) if n["digest"] else ""}', n["kind"], _WIDTH
            full = f'{first}\n{n["digest"] or n["uri"] or ""}'
        else:
            s = lineage._steps.get(node, {})
            first, second, kind, w = _command(s.get("name") or "step"), s.get("evidence") or "", "step", _WIDTH // 2
            full = f'{s.get("name") or first}\nrun {s.get("run")}'
        out.append(f'<g><title>{_text(full)}</title><rect x="{x}" y="{y}" width="{w}" height="{_HEIGHT}" rx="{4 if n else 18}" fill="{_FILL.get(kind, "#eeeeee")}" stroke="#555"/>')
        out.append(f'<text x="{x + 8}" y="{y + 17}">{_text(_clip(first, w))}</text><text x="{x + 8}" y="{y + 32}" fill="#666" font-size="10">{_text(_clip(second, w))}</text></g>')
    if more > 0:
        out.append(f'<text x="10" y="{height - 8}" fill="#666">{more} edges further away are not drawn</text>')
    out.append("</svg>")
    return "".join(out)


def _command(name):
    """A command line with the program's base name."""
    first, space, rest = name.partition(" ")
    return first.rsplit("/", 1)[-1] + space + rest


def _clip(text, width):
    most = (width - 16) // 7
    return text if len(text) <= most else text[: most - 1] + "…"


# Proofs.


class Verification:
    """What was checked of a proof.

    ok is True, False, or None where it could not be checked; problem says why.
    checked and unchecked say in words what was, and what was not.
    """

    def __init__(self, ok, problem="", checked=(), unchecked=()):
        self.ok, self.problem, self.checked, self.unchecked = ok, problem, list(checked), list(unchecked)

    def __bool__(self):
        return self.ok is True

    def __repr__(self):
        head = {True: "VERIFIED", False: "NOT VERIFIED", None: "NOT CHECKED"}[self.ok]
        lines = [head + (": " + self.problem if self.problem else "")]
        lines += ["  checked: " + c for c in self.checked]
        lines += ["  not checked: " + u for u in self.unchecked]
        return "\n".join(lines)


class _False(Exception):
    """A proof that does not hold."""


class _Unknown(Exception):
    """A proof that this module cannot check."""


def verify(bundle, key=None, lineage=None):
    """Check a bundle with the log's public key, as `retrace verify` does: that the
    log signed its checkpoint, with that key or with one that rotations in the
    bundle lead to from it or back; that each entry is in the log; that the entries
    name what was asked for; that a walk over them gives exactly the edges shown,
    graded as the ledger's operator trusts keys; with lineage, that it is the answer
    that was shown."""
    try:
        import cryptography  # noqa: F401
    except ImportError:
        return Verification(None, "the package cryptography is not installed, so no signature can be checked; `pip install cryptography`, or use `retrace verify`")
    vkey = _vkey(key)
    checked, unchecked = [], []
    try:
        _Proof(bundle, vkey, checked, unchecked).check(lineage)
    except _False as e:
        return Verification(False, str(e), checked)
    except _Unknown as e:
        return Verification(None, str(e), checked)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, struct.error, RecursionError) as e:
        return Verification(None, f"it is not a well-formed bundle: {type(e).__name__}: {e}", checked)
    unchecked.append("that no entry was left out, which no proof shows: others may state more, or retract or revoke")
    unchecked.append("when: the times are the operator's, and whether witnesses cosigned is for `retrace verify --policy` to say")
    unchecked.append("that what the signers of the entries state is true")
    return Verification(True, "", checked, unchecked)


class _Proof:
    """A bundle (docs/formats.md, "Bundle") that is being checked, as package verify
    does. What held is said in checked, what cannot be known from here in unchecked."""

    def __init__(self, bundle, vkey, checked, unchecked):
        self.vkey, self.checked, self.unchecked = vkey, checked, unchecked
        raw = bundle.encode() if isinstance(bundle, str) else bytes(bundle)
        self.doc = _unjson(raw)
        if self.doc["format"] != "retrace bundle v1":
            raise _Unknown(f"its format is {self.doc['format']!r}, and this module reads 'retrace bundle v1'")
        if not _fits(self.doc, _BUNDLE):
            raise ValueError("a member is not known, or missing, or of another form")
        self.claim = self.doc["claim"]
        self.edges = self.claim.get("edges") or []
        self.withheld = [e["index"] for e in self.doc["entries"] if "body" not in e]
        if _canonical(self.doc) + b"\n" != raw or not all(("body" in e) != ("commitment" in e) for e in self.doc["entries"]):
            raise ValueError("it is not in its one encoding, canonical JSON and a newline")
        indexes = [e["index"] for e in self.doc["entries"]]
        if not indexes or indexes[0] != 0 or indexes != sorted(set(indexes)):
            raise ValueError("its entries are not in ascending order from genesis, entry 0, on")

    def check(self, lineage):
        bodies = {e["index"]: _unbase64(e["body"]) if "body" in e else None for e in self.doc["entries"]}
        self.entries = {i: _Entry(body) if body is not None else None for i, body in bodies.items()}  # None where the body is withheld
        self.rotated = []
        signer, self.first = self._keys_of_log()
        origin, size, root = _open_note(self.doc["checkpoint"], signer)
        self.checked.append(f"the log {origin} signed its first {size} entries")
        if not 1 <= self.claim["size"] <= size:
            raise _False(f"it speaks for {self.claim['size']} entries, and {size} were signed")
        for e in self.doc["entries"]:
            body = bodies[e["index"]]
            leaf = hashlib.sha256(b"retrace leaf v1\n" + body).digest() if body is not None else _hash_of(e["commitment"])
            _inclusion(leaf, e["index"], size, [_hash_of(h) for h in e["proof"]], root)
            if e["index"] >= self.claim["size"]:
                raise _False(f"it rests on entry {e['index']} and speaks for the first {self.claim['size']}")
        self.checked.append(f"{len(bodies)} entries are in it, byte for byte")
        self.checked += self.rotated
        self._genesis()
        self._grade()
        self.facts = {i: e.facts for i, e in self.entries.items() if e and e.facts}
        newer = sorted({f.newer for f in self.facts.values()} - {""})
        if newer:
            raise _Unknown(f"it rests on statements of a type that this module does not know: {', '.join(newer)}; a newer `retrace verify` may know it")
        if self.claim.get("name"):
            self._name()
        self._asked()
        self._answer()
        if self.withheld:
            self.unchecked.append(f"what {len(self.withheld)} entries state whose bodies are withheld or erased")
        if lineage is not None:
            self._shown(lineage)

    def _keys_of_log(self):
        """The key that has to have signed the checkpoint, and the one that genesis has
        to name: both the one given, unless rotations in the bundle say otherwise
        (verify/chain.go)."""
        genesis = self.entries[0] and self.entries[0].predicate("genesis/v1")
        try:
            logs, observers = [(_vkey_of(genesis["logKey"]), 0)], [_public(genesis["observerKey"])]
        except (KeyError, TypeError, ValueError):
            return self.vkey, self.vkey  # what is wrong with genesis is said when it is checked
        if logs[0][0][0] != genesis.get("origin"):
            return self.vkey, self.vkey
        used = {_key_id(logs[0][0][2]), _key_id(observers[0])}
        for index, e in self.entries.items():
            trust = e and e.predicate("trust/v1")
            if not trust or trust.get("action") != "rotate" or trust.get("role") not in ("log", "observer") or len(e.signatures) < 2 or not e.signed(observers[-1]):
                continue
            key, of_log = _public(trust["key"]), trust["role"] == "log"
            before = logs[-1][0][2] if of_log else observers[-1]
            if (_key_id(key) != trust.get("keyID") or trust.get("replaces") != _key_id(before) or trust["keyID"] in used
                    or _time(trust.get("notBefore")) != _time(e.header["recordedAt"]) or of_log and not _ed25519_bytes(key)):
                raise _False(f"entry {index} does not put a key in the place of the {'log' if of_log else 'observer'} key that was in force")
            link = (_log_key(genesis["origin"], _ed25519_bytes(key)), index) if of_log else None
            # Another key of the given one's name and hash must not pass for it: 32 bits are no proof.
            passed = [self.vkey[2] for k in (logs[-1][0], link[0]) if k[:2] == self.vkey[:2]] if of_log else []
            if not all(e.signed(k) for k in (before, key, *passed)):
                raise _False(f"entry {index} rotates a key of the log, and the key before or the key itself did not sign it")
            used.add(trust["keyID"])
            logs, observers = (logs + [link], observers) if of_log else (logs, observers + [key])
            self.rotated.append(f"entry {index} put another {'log' if of_log else 'observer'} key in the place of the one before; both signed it")
        if len(logs) == 1:
            return self.vkey, self.vkey
        known = [k[:2] for k, _ in logs]
        if self.vkey[:2] not in known:
            raise _False("the key given is not one of this log: neither genesis nor a rotation in the bundle names it")
        if self.vkey[:2] != known[-1]:
            self.unchecked.append(f"that the key given is still to be trusted: it was replaced, and whoever has it can sign a tree without the rotation. Verify with {logs[-1][0][3]} from now on")
        size = int(self.doc["checkpoint"].split("\n")[1])
        signer = next((k for k, since in reversed(logs) if since < size), logs[0][0])
        return [self.vkey if k[:2] == self.vkey[:2] else k for k in (signer, logs[0][0])]

    def _genesis(self):
        if self.entries[0] is None:
            raise ValueError("genesis, entry 0, has no body")
        genesis = self.entries[0].predicate("genesis/v1")
        if not genesis or (genesis["origin"], _vkey_of(genesis["logKey"])[:2]) != (self.first[0], self.first[:2]):
            raise _False("entry 0 is not the genesis of the log with this key")
        self.observer = _public(genesis["observerKey"])
        if not self.entries[0].signed(self.observer):
            raise _False("entry 0 is not signed by the observer that it names")

    def _grade(self):
        """Grade each entry by the trust entries in the bundle (schema/trust.go). An
        observer's own signatures count for what was recorded while it was in force."""
        first = _key_id(self.observer)
        keys, trusts, observers = {first: self.observer}, {}, [(first, _time(None))]
        for e in self.entries.values():
            trust = e and e.facts and e.predicate("trust/v1")
            if not trust or not e.signed(keys[observers[-1][0]]):
                continue
            trust = {k: v for k, v in trust.items() if v not in (None, "")}
            public, name = _public_of(trust)
            if public is None:
                continue
            keys.setdefault(name, public)
            if trust in trusts.setdefault(name, []):
                continue  # a copy, which anybody can hand in, would undo a revocation
            trusts[name].append(trust)
            if trust["action"] == "rotate" and trust["role"] == "observer" and trust["replaces"] == observers[-1][0]:
                observers.append((name, _time(trust["notBefore"])))
        self.grades = {i: _graded(e, keys, trusts, observers) for i, e in self.entries.items() if e}
        self.namespaces = {i: e.header["namespace"] for i, e in self.entries.items() if e}
        graded = list(self.grades.values())
        self.checked.append(", ".join(f"{graded.count(g)} of them are {how}" for g, how in (
            ("observed", "signed by the log's own observer"), ("attested", "signed by a key that its operator trusts"), ("claimed", "claims")) if g in graded))

    def _name(self):
        """That an entry says that the name points at the root."""
        name, root, index = self.claim["name"], self.claim.get("root") or "", self.claim["entry"]
        if index not in self.entries:
            raise _False(f"entry {index}, which is said to name {name}, is not in it")
        if index in self.withheld:
            raise _Unknown(f"the body of entry {index}, which is said to name {name}, is withheld")
        if (name, root, self.claim.get("run") or "", False) not in (self.facts[index].names if index in self.facts else ()):
            raise _False(f"entry {index} does not state that {name} is {_short(root)}")
        if self.grades[index] == "claimed":
            better = [i for i, f in self.facts.items() if self.grades[i] != "claimed" and any(n[0] == name for n in f.names)]
            if better:
                raise _False(f"entry {index} only claims what {name} is, and entry {better[0]} says it")
        self.checked.append(f"entry {index} states that {name} is {_short(root)} ({self.grades[index]})")

    def _asked(self):
        """That the question which the bundle says was asked leads to its answer."""
        ref, name = self.claim["ref"], self.claim.get("name")
        if self._leads(ref, name, self.claim.get("root") or "", self.claim.get("run") or ""):
            return
        if not name and (ref.startswith((".", "/")) or "://" in ref):
            self.unchecked.append(f"that {ref!r} is what the proof is about")
            return
        raise _False(f"it is about {name or _short(self.claim.get('root'))}, and {ref!r} was asked for")

    def _leads(self, ref, name, root, run):
        """verify/ref.go"""
        if not ref or name:
            return not ref or _named_by(ref, name)
        kind, _, rest = ref.partition(":") if not ref.startswith("#") else ("entry", ":", ref[1:])
        steps = {i: f.step for i, f in self.facts.items() if f.step}
        if kind in ("entry", "step"):
            index = int(rest) if re.fullmatch("[+-]?[0-9]+", rest) else None
            if not root:
                return index == self.claim["entry"]
            return index in steps and steps[index].run == run and steps[index].starts(root)
        if kind == "run":
            return bool(run and rest) and run.startswith(rest) and any(s.run == run and s.starts(root) for s in steps.values())
        begins = {"image": [rest.partition("@")[2] or rest], "git": ["gitCommit:" + rest, ref], "snapshot": [rest, "retraceTree1:" + rest, ref]}.get(kind, [ref])
        return (any(text.partition(":")[2] and root.startswith(text) for text in begins)
                or kind != "image" and any(f.located(root, ref) for f in self.facts.values()))

    def _answer(self):
        """That a walk over the entries gives exactly the edges of the answer."""
        claim = self.claim
        root, run, down = claim.get("root"), claim.get("run") or "", claim.get("direction") == "DOWNSTREAM"
        if not root:
            if self.edges or run or claim.get("direction") or claim["depth"] or claim["truncated"]:
                raise _False("it has a walk but no root that it starts from")
            if claim["entry"] not in self.entries:
                raise _False(f"entry {claim['entry']}, which it is about, is not in it")
            return
        if run and not claim.get("name") and not any(f.step and f.step.run == run and root in f.step.made() for f in self.facts.values()):
            if self.withheld:
                raise _Unknown(f"that run {run} made {_short(root)} cannot be derived again: a body is withheld")
            raise _False(f"no entry in it states that run {run} made {_short(root)}")
        walk = _Walk(self.facts, self.grades, self.namespaces).edges(root, run, down, claim["depth"])
        shown, end = 0, {}
        for got in walk:
            if shown == len(self.edges):
                if claim["truncated"]:
                    break
                raise _False(f"it leaves out an edge that entry {got['entry']} states: {_said(got)}")
            want = {"role": "", "path": "", **self.edges[shown]}
            if got != want:
                self._hidden(got, want)
                raise _False(f"its edge {shown + 1} says {_said(want)}; the entries state {_said(got)}")
            shown += 1
        else:
            if shown < len(self.edges):
                self._hidden(end, self.edges[shown])
                raise _False(f"no entry in it states its edge {shown + 1}: {_said(self.edges[shown])}")
            if claim["truncated"] and not claim["depth"]:
                raise _False("it says that it was cut off, and the entries state no more")
        self.checked.append(f"a walk over these entries gives {'first' if claim['truncated'] else 'exactly'} the {len(self.edges)} edges shown")
        if claim["truncated"]:
            self.unchecked.append("what lies beyond: the answer was cut off")
        elif claim["depth"]:
            self.unchecked.append(f"what lies deeper than {claim['depth']} edges: that was not asked for")

    def _hidden(self, got, want):
        """Raise _Unknown where a withheld body may be why the entries give another edge
        than the answer: it would state the edge, or decide how it is graded."""
        like = {**got, "evidence": want["evidence"], "ambiguous": want["ambiguous"] or got.get("ambiguous")}
        if self.withheld and (like == want or want["entry"] in self.withheld):
            raise _Unknown(f"the edge at {_short(want['from'])} cannot be derived again: the body of an entry that it rests on is withheld")

    def _shown(self, lineage):
        if not lineage.meant(self.claim):
            raise _False(f"it is about {self.claim.get('name') or _short(self.claim.get('root'))}, and {lineage.ref!r} was asked for")

        def proved(e):
            return e["from"], e["to"], e["relation"], e.get("role") or "", e.get("path") or "", e["entry"], e["evidence"], e["depth"]

        def shown(e):
            return (_key(lineage._nodes[e["from"]["id"]]), _key(lineage._nodes[e["to"]["id"]]), e["relation"], e["role"] or "", e["path"] or "",
                    e["entry"]["index"], e["evidence"], e["depth"])

        same = [proved(e) for e in self.edges] == [shown(e) for e in lineage.edges]
        if not same or self.claim["size"] != lineage.size or (self.claim.get("direction") or "UPSTREAM") != lineage.direction:
            raise _False("it proves other edges than those shown")
        if _key(lineage._nodes[lineage._root]) != self.claim.get("root"):
            raise _False("it starts from another resource than the one shown")
        if bool(self.claim.get("truncated")) != lineage.truncated:
            raise _False("it does not end where the answer that was shown ends")
        self.checked.append("they are the edges shown")
        self.unchecked.append("what is shown beside the edges: names, times, parameters and metrics")


class _Entry:
    """The body of an entry (schema/entry.go, envelope.go): what the ledger says of it,
    and what it states. facts is None where it states nothing that can be read: the
    ledger holds that, too."""

    def __init__(self, body):
        (n,) = struct.unpack(">I", body[32:36])
        header, raw = body[36 : 36 + n], body[36 + n :]
        self.header = _unjson(header)
        if not _fits(self.header, _HEADER) or _canonical(self.header) != header:
            raise ValueError("the header of an entry is not in its one encoding")
        envelope = _unjson(raw)
        if not _fits(envelope, _SIGSTORE, strict=False) or len(raw) > _MOST_BYTES:
            raise ValueError("an entry is not an envelope")
        certificate = b""  # of a Sigstore bundle that carries one
        if (envelope.get("mediaType") or "").startswith("application/vnd.dev.sigstore.bundle"):
            material = envelope.get("verificationMaterial") or {}
            certificates = [material["certificate"]] if material.get("certificate") else (material.get("x509CertificateChain") or {}).get("certificates") or [{}]
            certificate, envelope = base64.b64decode(certificates[0].get("rawBytes") or ""), envelope["dsseEnvelope"]
        if not _fits(envelope, _ENVELOPE, strict=False) or envelope["signatures"] is None or len(envelope["signatures"]) > 64:
            raise ValueError("an entry is not an envelope")
        payload, kind = _any_base64(envelope["payload"]), envelope["payloadType"]
        self.signatures = [_any_base64(s["sig"]) for s in envelope["signatures"]]
        self.certificate = certificate
        self.message = b"DSSEv1 %d %s %d %s" % (len(kind.encode()), kind.encode(), len(payload), payload)
        self.statement = self.facts = None
        if not re.fullmatch(r"application/vnd\.in-toto(\..*)?\+json", kind, re.DOTALL):
            return
        try:
            statement = _unjson(payload)
            if not _is_statement(statement):
                return
            self.statement = statement
            self.facts = _Facts(statement)
        except (KeyError, ValueError, TypeError, IndexError, AttributeError, OverflowError):
            pass

    def signed(self, public):
        """Whether a key signed it. Of an identity, which is a dict, it can only be said
        that it did not: certificates are not verified here."""
        if not isinstance(public, dict):
            return any(_signed(public, s, self.message) for s in self.signatures)
        if not self.certificate or _certified(self.certificate) not in (None, (public["subject"], public["issuer"])):
            return False
        raise _Unknown(f"whether {public['subject']} signed an entry is for `retrace verify` to say: this module does not verify certificates of Sigstore")

    def predicate(self, kind):
        """The predicate, where the statement is of this one of retrace's types and has its
        shape; else nothing. Whether it is refused for what it says, facts tells."""
        found = self.statement and self.statement["predicateType"] == _OWN + kind and self.statement.get("predicate")
        return found if found and _fits(found, _PREDICATES[kind][0]) else None


# What statements state: schema/facts.go, steps.go, foreign.go and predicates.go.

_Use = collections.namedtuple("_Use", "key role path producer")


class _Step:
    """One execution, that used things and made others."""

    def __init__(self, run):
        self.run, self.subject, self.uses, self.outputs = run, "", [], []
        self.parent, self.replaces, self.attested_by, self.predicate = "", "", [], ""

    def made(self):
        return [k for k in [self.subject] if k] + self.outputs

    def results(self):
        """What it left behind: its outputs, or the run itself where it has none."""
        return self.outputs or self.made()

    def starts(self, key):
        """Whether a question about the step is one about key."""
        return key in self.made()[:1]


class _Facts:
    """What a statement states, in the words of the graph: a step, relations (from, to,
    kind, claimed), names (name, key, run, deleted), and resources with their URI and
    digests. Of types that are not known the subjects alone count; newer is the type
    where it is one that retrace may come to read. ValueError says that what is known
    cannot be read."""

    def __init__(self, statement):
        self.step, self.relations, self.names, self.resources, self.newer = None, [], [], {}, ""
        kind = statement["predicateType"]
        own = kind.startswith(_OWN)
        shape, read = _PREDICATES.get(kind[len(_OWN) :] if own else kind, (None, _Facts._subjects))
        if shape is None:
            self.newer = kind if own or kind.startswith(("https://slsa.dev/provenance/", "https://in-toto.io/attestation/link/")) else ""
        elif not _fits(statement["predicate"], shape, strict=own):
            raise ValueError(f"it is no {kind}")
        read(self, statement["subject"], statement.get("predicate"), statement)
        if self.step and not self.step.run:
            self.step.predicate = _sha256_key(_canonical(statement["predicate"]))
        for key, (uri, digests) in list(self.resources.items()):  # which weaker digests mean the same bytes
            for weaker in sorted(digests):
                if f"{weaker}:{digests[weaker]}" != key:
                    weaker = self._add(f"{weaker}:{digests[weaker]}", uri, {weaker: digests[weaker]})
                    self._relate(weaker, key, "alias")
                    self._relate(key, weaker, "alias")

    def located(self, key, uri):
        return key in self.resources and self.resources[key][0] == uri

    def _add(self, key, uri="", digests=()):
        if key:
            have = self.resources.setdefault(key, ["", {}])
            have[0] = have[0] or uri or ""
            have[1].update({**dict(digests), **have[1]})
        return key

    def _of(self, key, uri=""):
        """A resource that is known by one digest."""
        algorithm, _, digits = key.partition(":")
        return self._add(key, uri, {algorithm: digits})

    def _describe(self, d):
        return self._add(_descriptor_key(d), d.get("uri"), d.get("digest") or {})

    def _relate(self, a, b, kind, claimed=False):
        if a and b and a != b:
            self.relations.append((a, b, kind, claimed))

    def _subjects(self, subjects, *_predicate):
        return [self._describe(d) for d in subjects][0]

    def _genesis(self, subjects, p, _statement):
        if p.get("format") != 1 or not (p.get("origin") and p.get("logKey") and p.get("observerKey")):
            raise ValueError("a genesis names a log and its keys")
        self._subjects(subjects)

    def _trust(self, subjects, p, _statement):
        action, place, identity = p.get("action"), (p.get("role"), p.get("replaces")), p.get("identity")
        known = {"trust": not any(place), "revoke": not any(place) and p.get("notAfter"), "recognize": not any(place) and identity,
                 "rotate": place[0] in ("log", "observer") and place[1] and p.get("notBefore") and not identity}
        if not known.get(action) or not p.get("keyID") or bool(p.get("key")) == bool(identity):
            raise ValueError("it does not say what becomes of which key or identity, or since when")
        if identity and (p["keyID"] != _identity_id(identity) or len(identity["trustedRoot"].encode()) > 256 << 10):
            raise ValueError("it states an identity under the ID of another")
        self._subjects(subjects)

    def _coverage(self, subjects, p, _statement):
        if not p.get("to") or _time(p["to"]) < _time(p.get("from")) or len(p.get("refused") or ()) > 32:
            raise ValueError("a coverage ends after it begins, and lists 32 refusals at most")
        self._subjects(subjects)

    def _erasure(self, subjects, p, _statement):
        keys = p.get("resources") or []
        if keys != sorted(set(keys), key=lambda k: k.encode()) or "" in keys or len(keys) > _MOST_SUBJECTS:
            raise ValueError("the resources of an erasure are sorted")
        self._subjects(subjects)

    def _commit(self, subjects, p, _statement):
        key, repository = self._subjects(subjects), subjects[0].get("uri")
        self._relate(key, self._of("gitTree:" + p["tree"], repository), "tree")
        for parent in p.get("parents") or []:
            self._relate(key, self._of("gitCommit:" + parent, repository), "parent")
        self._pinned(key, p, "pins")

    def _pins(self, subjects, p, _statement):
        if not p.get("pins"):
            raise ValueError("it pins nothing")
        self._pinned(self._subjects(subjects), p, "pins" if p["format"] == "dvc" else "refers")

    def _pinned(self, key, p, kind):
        pins = p.get("pins") or []
        if len(pins) > 512 or not all(_is_descriptor(d) and d.get("digest") for d in pins):
            raise ValueError("what is pinned has a digest")
        for d in pins:
            self._relate(key, self._describe(d), kind)

    def _ref(self, subjects, p, _statement):
        self.names.append((f"git:{p['repository']}#{p['ref']}", self._subjects(subjects), "", bool(p.get("deleted"))))

    def _tag(self, subjects, p, _statement):
        self.names.append((f"image:{p['repository']}:{p['tag']}", self._subjects(subjects), "", bool(p.get("deleted"))))

    def _image(self, subjects, p, _statement):
        key, labels = self._subjects(subjects), p.get("labels") or {}
        for m in p.get("manifests") or []:
            self._relate(key, self._of(m["digest"]), "platform")
            self._relate(m["digest"], key, "inIndex")
        if p.get("config") and p.get("platform"):
            self._relate(self._of(p["config"]), key, "configOf")
        if _is_digest("gitCommit", labels.get("org.opencontainers.image.revision")):
            source = labels.get("org.opencontainers.image.source")
            self._relate(key, self._of("gitCommit:" + labels["org.opencontainers.image.revision"], source), "builtOf", True)
        if _is_key(labels.get("org.opencontainers.image.base.digest")):
            self._relate(key, self._of(labels["org.opencontainers.image.base.digest"]), "base", True)
        layers, chain = p.get("layers") or [], ""
        for i, layer in enumerate(layers if len(layers) <= 256 else []):
            if not layer.get("diffID"):
                break
            chain = layer["diffID"] if not i else _sha256_key(f"{chain} {layer['diffID']}".encode())  # ChainID of the OCI image-spec
            at = self._of("chainID:" + chain.partition(":")[2])
            if i < len(layers) - 1:
                self._relate(key, at, "layersOn", True)
            else:
                self._relate(at, key, "layersOf")

    def _volume(self, subjects, p, statement):
        """A snapshot of a volume: its names point to where it is, or else to the state that is described."""
        volume, name = p["volume"], "snapshot:" + p["source"]
        if subjects[0].get("name") != name + "#" + volume["name"]:
            raise ValueError("its first subject is not the snapshot")
        _check_predicate_digest(statement)
        key, gone = self._subjects(subjects), bool(volume.get("deleted"))
        uri, claim = volume.get("uri"), volume.get("claim")
        if not uri and not volume.get("error") and not gone:
            raise ValueError("a snapshot without a location has an error, or is deleted")
        if uri:
            key = self._add("uri:" + uri, uri)
            if claim:
                self._relate(key, self._add("uri:" + claim, claim), "located")
                if not gone:
                    self.names.append((name, key, "", False))
        self.names.append((name + "#" + volume["name"], key, "", gone))

    def _claim(self, subjects, p, _statement):
        """What the content of a volume claim was made from."""
        self._subjects(subjects)
        key, made = self._add("uri:" + p["claim"], p["claim"]), p.get("from") or []
        if not made and not p.get("deleted") or not all(d.get("uri") and not d.get("digest") and not d.get("content") for d in made):
            raise ValueError("what a claim was made from has a location")
        for d in made:
            self._relate(key, self._describe(d), "restored")

    def _snapshot(self, subjects, p, statement):
        if p.get("volume") is not None:
            self._volume(subjects, p, statement)
            return
        files, source = p.get("files") or [], p["source"]
        if len(files) > 10000 or not all(f["type"] != "file" or (f.get("size") or 0) >= 0 and _is_digest("sha256", f.get("sha256")) for f in files):
            raise ValueError("a file of a snapshot has a size and a digest")
        stated = subjects[0]["digest"].get("retraceTree1")
        if files and stated and stated != _listing_digest(files):
            raise ValueError("the files listed are not those of the folder")
        key = self._subjects(subjects)
        self._add(key, source)
        for f in files:
            if f["type"] == "file" and "sha256:" + f["sha256"] not in _EMPTY:
                self._relate(key, self._of("sha256:" + f["sha256"]), "partOf")
        if source.startswith("s3://"):
            at = self._add("uri:" + source, source)
            self._relate(key, at, "located")
            self._relate(at, key, "holds")
        self.names.append(("snapshot:" + source, key, "", False))

    def _signed_model(self, subjects, p, _statement):
        """The files of a model that is signed as the OpenSSF does. One that is signed in several shards has no digest of its own."""
        parts, resources = [], p.get("resources") or []
        for r in resources:
            shard = re.fullmatch(r"(.+):\+?(\d+):\+?(\d+)", r["name"], re.DOTALL | re.ASCII) if p["serialization"]["method"] == "shards" else None
            path, start, end = (shard[1], int(shard[2]), int(shard[3])) if shard else (r["name"], 0, 0)
            algorithm = r["algorithm"].partition("-sharded-")[0]
            if bool(shard) != (p["serialization"]["method"] == "shards") or start > end or not _is_path(path) or path == "." or not _is_digest(algorithm, r["digest"]) or len(r["digest"]) % 2:
                raise ValueError("a file of a signed model has a path and a digest")
            parts.append((path, start, f"{algorithm}:{r['digest']}"))
        root = hashlib.sha256(b"".join(bytes.fromhex(r["digest"]) for r in resources)).hexdigest()
        if len(subjects) != 1 or not subjects[0].get("name") or not parts or len(parts) > _MOST_SUBJECTS or len({r["name"] for r in resources}) != len(resources) or subjects[0]["digest"].get("sha256") != root:
            raise ValueError("the subject is not the model that is made of these files")
        key, paths = self._subjects(subjects), collections.Counter(path for path, _, _ in parts)
        for path, start, file in parts:
            if paths[path] == 1 and start == 0 and file not in _EMPTY:
                self._relate(key, self._of(file), "partOf")

    def _model(self, subjects, p, _statement):
        key, at = self._subjects(subjects), p.get("resource")
        if at is not None:
            if not at.get("uri") or at.get("digest") or at.get("content"):
                raise ValueError("what has a digest is the subject")
            key = self._describe(at)
        self.names.append((f"model:{p['name']}@{p['version']}", key, p.get("run") or "", bool(p.get("deleted"))))

    def _deployment(self, subjects, p, statement):
        name, state, deleted = "workload:" + p["workload"], "", bool(p.get("deleted"))
        of_model = name + "#model"
        if subjects[0].get("name") == name:
            _check_predicate_digest(statement)
            state, subjects = self._describe(subjects[0]), subjects[1:]
            self.names.append((name, state, "", deleted))
            name += "#image"
        if not all(_is_descriptor(m) for m in p.get("models") or []):
            raise ValueError("a model that is served has a digest or a location")
        for things, name, kind in ((subjects, name, "runs"), (p.get("models") or [], of_model, "serves")):
            keys = [self._describe(d) for d in things]
            self.names += [(name, key, "", deleted) for key in keys[:1]]
            for key in keys:
                self._relate(state, key, kind)
        revision = p.get("revision")
        if revision:
            self._relate(state, self._of("gitCommit:" + revision["commit"], revision.get("repository")), "applied", bool(revision.get("claimed")))

    def _provenance(self, subjects, p, statement):
        definition, details = p["buildDefinition"], p["runDetails"]
        kind, external, used = definition["buildType"], definition.get("externalParameters"), definition.get("resolvedDependencies") or []
        products = [d or {} for d in details.get("byproducts") or []]
        if not all(_is_descriptor(d) or not _descriptor_key(d) and d.get("name") for d in used) or not all(_are_digests(d.get("digest")) for d in products):
            raise ValueError("a dependency has a digest or a location")
        self.step = _Step((details.get("metadata") or {}).get("invocationId") or "")
        if kind in (RUN, STEP):
            self._recorded(subjects, statement, kind, external, used, products)
        for d in used:
            self._use(d)
        if kind.startswith("https://slsa.dev/container-based-build/"):
            if "externalParameters" not in definition or not _fits(external, {"source": _DESCRIPTOR, "builderImage": _DESCRIPTOR, "configPath": str}, strict=False):
                raise ValueError("its external parameters cannot be read")
            self._use_as((external or {}).get("source"), "code")
            self._use_as((external or {}).get("builderImage"), "image")
        self._generate(subjects)

    def _recorded(self, subjects, statement, kind, external, used, products):
        """What retrace itself recorded of a step is read strictly."""
        if external is None or not _fits(external, _RUN_PARAMETERS if kind == RUN else _STEP_PARAMETERS):
            raise ValueError("its external parameters cannot be read")
        if not self.step.run or subjects[0].get("name") != "run:" + self.step.run:
            raise ValueError("its first subject is not the run itself")
        if kind == RUN:
            paths = [external.get("dir") or "", *(external.get("inputs") or []), *(external.get("outputs") or [])]
            paths += [_note(d, "path") for d in used if _note(d, "path")] + [_note(d, "path") or d.get("name") or "" for d in subjects[1:]]
            if not external.get("argv") or not all(p in (".", "/") or _is_path(p[p.startswith("/") :]) for p in paths):
                raise ValueError("it has no command, or a path that leads elsewhere")
        self.step.replaces = external.get("replaces") or ""
        if self.step.replaces and not (_is_key(self.step.replaces) and self.step.replaces.startswith("sha256:")):
            raise ValueError("what it replaces is not the key of a run")
        self.step.attested_by, self.step.parent = external.get("attestedBy") or [], external.get("parent") or ""
        if not all(_is_key(k) and k.startswith("sha256:") for k in self.step.attested_by):
            raise ValueError("what attests it is not the digest of a predicate")
        _check_predicate_digest(statement)
        for d in used if kind == STEP else ():
            self._places(d)
        for d in products:
            shape = {"retrace_exitStatus": int, "retrace_metrics": {str: object}, "retrace_gaps": [{"rule": str, "detail": str}]}.get(d.get("name"))
            if shape and not _fits(_unjson(base64.b64decode(d.get("content") or "")), shape):
                raise ValueError("a byproduct cannot be read")
            if kind == STEP and _note(d, "role") == "output":
                if not d.get("uri") or d.get("digest"):
                    raise ValueError("an output with a digest is a subject")
                self.step.outputs.append(self._describe(d))
                self._places(d)

    def _places(self, d):
        """Where the version is that the URI names, and what else that place is called."""
        location = _note(d, "location")
        if location:
            at = self._add("uri:" + location, location)
            self._relate(_descriptor_key(d), at, "located", True)
            names = d["annotations"].get("aliases")
            for name in names if isinstance(names, list) else ():
                if name and isinstance(name, str):
                    other = self._add("uri:" + name, name)
                    self._relate(at, other, "alias", True)
                    self._relate(other, at, "alias", True)

    def _provenance02(self, subjects, p, _statement):
        self._old_step(p.get("metadata") or {}, p.get("materials") or [])
        source = (p.get("invocation") or {}).get("configSource") or {}
        self._use_as({m: source.get(m) for m in ("uri", "digest")}, "code")
        self._generate(subjects)

    def _provenance01(self, subjects, p, _statement):
        materials, at = p.get("materials") or [], p["recipe"].get("definedInMaterial")
        self._old_step(p.get("metadata") or {}, materials)
        if at is not None:
            if at < 0:
                raise ValueError("there is no such material")
            self._use_as(materials[at] or {}, "code")
        self._generate(subjects)

    def _link(self, subjects, p, _statement):
        self._old_step({}, p.get("materials") or [])
        self._generate(subjects)

    def _old_step(self, metadata, materials):
        self.step = _Step(metadata.get("buildInvocationId") or metadata.get("buildInvocationID") or "")
        for d in materials:
            if d and _descriptor_key(d):
                if not _is_descriptor(d):
                    raise ValueError("a material has a digest that is none")
                self._use(d)

    def _use(self, d):
        d = _commit_digest(d)
        key = self._describe(d)
        if key:
            self.step.uses.append(_Use(key, _note(d, "role") or "input", _note(d, "path"), _note(d, "producer")))

    def _use_as(self, d, role):
        """A dependency in a role, which takes the place of being a mere input."""
        if not d or not _descriptor_key(d):
            return
        if not _is_descriptor(d):
            raise ValueError("a source has a digest that is none")
        key, uses = _descriptor_key(_commit_digest(d)), self.step.uses
        at = next((i for i, u in enumerate(uses) if u.key == key and u.role == "input"), None)
        if at is None:
            self._use(d)
            at = -1
        uses[at] = uses[at]._replace(role=role)

    def _generate(self, subjects):
        for d in subjects:
            key = self._describe(d)
            if d.get("name") == "run:" + self.step.run:
                self.step.subject = key
            else:
                self.step.outputs.append(key)


class _Walk:
    """The graph of what entries state, and the walk over it that the ledger runs
    itself (schema/walk.go): nearest first, each edge once."""

    def __init__(self, facts, grades, namespaces):
        self.steps, self.grades, self.namespaces = {}, grades, namespaces
        self.producers, self.users, self.up, self.down = (collections.defaultdict(list) for _ in range(4))
        for entry, f in facts.items():
            if f.step:
                self.steps[entry] = f.step
                for key in dict.fromkeys(f.step.made()):
                    self.producers[key].append(entry)
                for key in dict.fromkeys(u.key for u in f.step.uses):
                    self.users[key].append(entry)
            for relation in f.relations:
                self.up[relation[0]].append((*relation, entry))
                self.down[relation[1]].append((*relation, entry))

    def edges(self, root, run, down, most):
        """The edges from root, whose producers are those of run if one is named, at
        most so many steps away if most is not 0."""
        self.most, self.due, self.pushed = most, collections.deque(), collections.defaultdict(set)
        self.walked = set()  # upstream: resources with their steps and relations; downstream: edges
        self._push(root, run, 0)
        while self.due:
            key, run, depth = self.due.popleft()
            # Empty content joins nothing, but a run that made it can be asked about.
            if key not in _EMPTY or depth == 0 and run and not down:
                yield from (self._downstream if down else self._upstream)(key, run, depth)

    def _push(self, key, run, depth):
        if not (self.most and depth >= self.most or self.pushed[key] & {"", run}):
            self.pushed[key].add(run)
            self.due.append((key, run, depth))

    def _edge(self, a, b, kind, entry, depth, step=-1, role="", path="", claimed=False, ambiguous=False):
        return {"from": a, "to": b, "step": step, "relation": kind, "role": role, "path": path, "entry": entry,
                "evidence": "claimed" if claimed else self.grades[entry], "ambiguous": ambiguous, "depth": depth}

    def _upstream(self, key, run, depth):
        made = self._made(key, run)
        for entry in made:
            if (key, entry) in self.walked:
                continue
            self.walked.add((key, entry))
            step, shown = self.steps[entry], set()
            for use in step.uses:
                if use[:3] not in shown:
                    shown.add(use[:3])
                    yield self._edge(key, use.key, "used", entry, depth, entry, use.role, use.path, ambiguous=len(made) > 1)
                # A copy is made of equal bytes, and goes on where another run made them.
                if use.key != key or use.producer and use.producer != step.run:
                    self._push(use.key, use.producer, depth + 1)
        if (key, None) in self.walked:
            return
        self.walked.add((key, None))
        shown = set()
        for a, b, kind, claimed, entry in self.up[key]:
            if kind == "layersOn":
                # Of several images with these layers the one that was recorded first,
                # unless a label says so already.
                image = self._all_layers(b)
                if not image or any(kind == "base" and to == image for _, to, kind, *_ in self.up[key]):
                    continue
                b, kind, claimed = image, "base", True
            elif not (kind in _FOLLOWED or kind == "partOf" and self.producers.get(b)) or (b, kind, entry) in shown:
                continue
            else:
                shown.add((b, kind, entry))
            yield self._edge(a, b, kind, entry, depth, claimed=claimed)
            if kind not in ("holds", "refers"):  # a location is not what made the bytes at it, nor an image the file that names it
                self._push(b, "", depth + 1)

    def _made(self, key, run):
        """The entries whose step made key: those of run where one is named and known,
        and of these the claimed ones only where there are no better."""
        made, names = self._runs(self.producers.get(key, []))
        named = [e for e in made if run and self.steps[names.get(e, e)].run == run]
        return [e for e in named if self.grades[e] != "claimed"] or named or made

    def _runs(self, made):
        """What several entries of a namespace state of one run is one step: of the best
        evidence, without those that another replaces."""
        if len(made) < 2:
            return made, {}
        names = {}  # of entries that name no run, those that say which it is
        runs, attests, parents, over, best = collections.defaultdict(list), {}, {}, set(), {}
        for e in made:
            step, namespace = self.steps[e], self.namespaces[e]
            if step.run:
                runs[step.run, namespace].append(e)
                attests.update({(k, namespace): e for k in step.attested_by})
                if step.parent:
                    parents[step.run, namespace] = (step.parent, namespace)
        for e in made:  # those that name no run, which a statement of one names
            by = attests.get((self.steps[e].predicate, self.namespaces[e]))
            if by is not None and not self.steps[e].run:
                names[e] = by
                runs[self.steps[by].run, self.namespaces[e]].append(e)
        for run, entries in runs.items():
            best[run] = min(_EVIDENCE.index(self.grades[e]) for e in entries)
            standing = [e for e in entries if self.grades[e] == _EVIDENCE[best[run]]]
            replaced = {self.steps[e].replaces for e in standing} - {""}
            over.update(e for e in entries if e not in standing or self.steps[e].subject in replaced)
        for run, whole in parents.items():  # what a part of a run made, the whole did not make once more
            if whole in best and whole != run and best[whole] >= best[run]:
                over.update(runs[whole])
        return [e for e in made if e not in over] or made, names

    def _all_layers(self, chain):
        return next((b for _, b, kind, *_ in self.up.get(chain, ()) if kind == "layersOf"), None)

    def _downstream(self, key, run, depth):
        for entry in self.users.get(key, ()):
            step = self.steps[entry]
            for use in step.uses:
                if use.key == key and not (run and use.producer and use.producer != run):
                    for made in step.results():
                        if entry not in self._runs(self.producers[made])[0]:
                            continue
                        yield from self._once(self._edge(made, key, "used", entry, depth, entry, use.role, use.path))
                        if made != key:
                            self._push(made, step.run, depth + 1)
        for a, b, kind, claimed, entry in self.down.get(key, ()):
            if kind in ("parent", "tree"):
                continue
            reached = [(a, b, kind, claimed, entry)]
            if kind == "layersOf":  # key has all layers of the chain a: the images whose first layers they are
                others = self.down.get(a, ()) if self._all_layers(a) == key else ()
                reached = [(image, key, "base", True, on) for image, _, other, _, on in others if other == "layersOn"]
            for a, b, kind, claimed, entry in reached:
                yield from self._once(self._edge(a, b, kind, entry, depth, claimed=claimed))
                if kind != "refers":
                    self._push(a, "", depth + 1)

    def _once(self, edge):
        same = tuple(edge[m] for m in ("from", "to", "step", "entry", "relation", "role", "path"))
        if same not in self.walked:
            self.walked.add(same)
            yield edge


# Grades of evidence, strongest first.
_EVIDENCE = ("attested", "observed", "claimed")
# Relations that lead upstream; partOf does where a step made the part.
_FOLLOWED = {"base", "builtOf", "platform", "inIndex", "configOf", "alias", "located", "holds", "runs", "serves", "applied", "pins", "refers", "restored"}
# What equals others because it is empty: files and folders.
_EMPTY = {"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
          "retraceTree1:3371c0688dcfd6a0e030491f42d24fa5d2e5da632cf08b514e7d86ce8726da2c"}


def _said(e):
    """An edge in words."""
    step = f" by step {e['step']}" if e["step"] >= 0 else ""
    use = f", {e.get('role')} {e.get('path') or ''}".rstrip() if e.get("role") else ""
    several = ", one of several ways" if e["ambiguous"] else ""
    return f"{_short(e['from'])} was made from {_short(e['to'])}{step} ({e['relation']}{use}, {e['evidence']} by entry {e['entry']}, depth {e['depth']}{several})"


def _named_by(ref, name):
    """Whether a reference may mean a name (verify/ref.go)."""
    kind, _, of = name.partition(":")
    rest = ref[len(kind) + 1 :] if ref.startswith(kind + ":") else ref
    if rest == of:
        return True
    full = of.partition("#")[2]
    return (kind == "model" and rest == of.partition("@")[0] or kind == "image" and rest + ":latest" == of
            or kind == "git" and full in (rest, "refs/heads/" + rest, "refs/tags/" + rest))


def _key(resource):
    return resource["digest"] or "uri:" + (resource["uri"] or "")


# Descriptors and digests: schema/statement.go and key.go.

_HEX_DIGITS = {"sha256": (64,), "sha384": (96,), "sha512": (128,), "md5": (32,), "sha1": (40,), "sha224": (56,), "retraceTree1": (64,), "dirHash": (64,),
               "dirHash1": (64,), "gitCommit": (40, 64), "gitTree": (40, 64), "gitTag": (40, 64), "gitBlob": (40, 64), "ripemd160": (40,), "sm3": (64,),
               "gost": (64,), "sha512_256": (64,), "sha512_224": (56,), "sha3_512": (128,), "sha3_384": (96,), "sha3_256": (64,), "sha3_224": (56,)}
_STRENGTH = """sha256 sha512 sha384 retraceTree1 gitCommit gitTree gitTag gitBlob dirHash dirHash1 sha512_256 sha512_224 sha3_512 sha3_384
    sha3_256 sha224 sha3_224 blake2b blake2s""".split()


def _is_digest(algorithm, digits):
    if not algorithm or algorithm == "uri" or re.search("[: \t\n]", algorithm) or not re.fullmatch("[0-9a-f]{1,256}", digits or ""):
        return False
    return len(digits) in _HEX_DIGITS.get(algorithm, range(257))


def _are_digests(digests):
    return all(_is_digest(a, d) for a, d in (digests or {}).items())


def _is_key(text):
    return bool(text) and _is_digest(*text.partition(":")[::2])


def _sha256_key(raw):
    return "sha256:" + hashlib.sha256(raw).hexdigest()


def _descriptor_key(d):
    """The key of what is described: the strongest digest, else of its content, else its URI."""
    digests = d.get("digest")
    if digests:
        first = next((a for a in _STRENGTH if a in digests), None) or min(digests)
        return f"{first}:{digests[first]}"
    if d.get("content"):
        return _sha256_key(base64.b64decode(d["content"]))
    return "uri:" + d["uri"] if d.get("uri") else ""


def _is_descriptor(d):
    stated = (d.get("digest") or {}).get("sha256")
    same = not d.get("content") or not stated or _sha256_key(base64.b64decode(d["content"])) == "sha256:" + stated
    return same and _descriptor_key(d) != "" and _are_digests(d.get("digest"))


def _note(d, name):
    """An annotation, if it is a text."""
    value = (d.get("annotations") or {}).get(name)
    return value if isinstance(value, str) else ""


def _commit_digest(d):
    """What SLSA before v1 wrote as the sha1 of a repository is the ID of a commit."""
    digests = d.get("digest") or {}
    if not digests.get("sha1") or digests.get("gitCommit") or not _is_repository(d.get("uri") or ""):
        return d
    return {**d, "digest": {"gitCommit": digests["sha1"], **{a: h for a, h in digests.items() if a != "sha1"}}}


def _is_repository(uri):
    if uri.startswith("git+"):
        return True
    url = urllib.parse.urlsplit(uri)
    path = urllib.parse.unquote(url.path).partition("@")[0] if not url.scheme or url.path.startswith("/") else ""
    return (url.scheme == "git" or path.endswith(".git")
            or url.scheme == "https" and url.netloc.rpartition("@")[2] in ("github.com", "gitlab.com", "bitbucket.org") and path.strip("/").count("/") == 1)


def _is_path(path):
    return bool(path) and "\0" not in path and not any(part in ("", ".", "..") for part in path.split("/"))


def _is_statement(s):
    subjects = s.get("subject") if isinstance(s, dict) and _fits(s, _STATEMENT, strict=False) else None
    return (bool(subjects) and len(subjects) <= _MOST_SUBJECTS and all(d.get("digest") and _is_descriptor(d) for d in subjects)
            and isinstance(s.get("predicate", {}), dict))


def _check_predicate_digest(statement):
    """Hold the first subject, where it is the run or the state described, to the predicate."""
    if statement["subject"][0]["digest"].get("sha256") != hashlib.sha256(_canonical(statement["predicate"])).hexdigest():
        raise ValueError("the first subject is not the digest of the predicate")


# The shapes of documents, which Go has as types.


def _fits(value, shape, strict=True):
    """Whether a JSON value has a shape: a regular expression for a text, a type, a
    function, [shape] for a list, {str: shape} for a map, else {member: shape} for an
    object, which has no other members if strict. What is absent or null is zero, as
    Go reads it, and may be so of members whose name ends in "?"."""
    if isinstance(shape, str):
        value = "" if value is None else value
        return isinstance(value, str) and re.fullmatch(shape, value, re.DOTALL) is not None
    if isinstance(shape, list):
        return value is None or isinstance(value, list) and all(_fits(v, shape[0], strict) for v in value)
    if isinstance(shape, dict):
        value = {} if value is None else value
        if not isinstance(value, dict):
            return False
        if str in shape:
            return all(_fits(v, shape[str], strict) for v in value.values())
        if strict and not all(m in shape or m + "?" in shape for m in value):
            return False
        if isinstance(shape, _One) and any(value.get(m) is None if m[-1] != "?" else value.get(m[:-1], m) in (None, "", []) for m in shape):
            return False
        return all(m[-1] == "?" and value.get(m[:-1]) is None or _fits(value.get(m.rstrip("?")), of, strict) for m, of in shape.items())
    if isinstance(shape, type):
        return value is None or shape is object or type(value) is shape
    try:
        return bool(shape(value))
    except (ValueError, TypeError, AttributeError):  # it is of another type than the function reads
        return False


class _One(dict):
    """The shape of an object that has one encoding: members are left out where they
    are empty if their name ends in "?", and never otherwise."""


def _count(value):
    return value is None or type(value) is int and value >= 0


def _base64(value):
    return value is None or isinstance(value, str) and base64.b64decode(value, validate=True) is not None


def _moment(value):
    return value is None or isinstance(value, str) and value != "" and _time(value) is not None


_OWN = "https://github.com/retrace-ledger/retrace/predicates/"
_MOST_BYTES, _MOST_SUBJECTS = 4 << 20, 16384  # of an envelope, of a statement

_WORD, _HASH, _GIT = ".+", "([0-9a-f]{64})?", "[0-9a-f]{40}([0-9a-f]{24})?"
_DESCRIPTOR = {"name": str, "uri": str, "digest": {str: str}, "content": _base64, "downloadLocation": str, "mediaType": str, "annotations": {str: object}}
_STATEMENT = {"_type": r"https://in-toto\.io/Statement/v(1|0\.1)", "subject": [_DESCRIPTOR], "predicateType": _WORD}
_ENVELOPE = {"payloadType": _WORD, "payload": _WORD, "signatures": [{"keyid": str, "sig": _WORD}]}
_SIGSTORE = {"mediaType": str, "dsseEnvelope?": {"payloadType": str, "payload": str, "signatures": [{"keyid": str, "sig": str}]}, "verificationMaterial": {
    "certificate?": {"rawBytes": _base64}, "x509CertificateChain?": {"certificates": [{"rawBytes": _base64}]}}}
_HEADER = _One({"recordedAt": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{0,5}[1-9])?Z", "namespace": str, "source?": str, "submitter?": str})
_BUNDLE = _One({"format": str, "checkpoint": str, "entries": [_One({"index": int, "body?": str, "commitment?": str, "proof": [str]})], "claim": _One({
    "ref": str, "name?": str, "entry": int, "root?": str, "run?": str, "direction?": "UPSTREAM|DOWNSTREAM", "depth": _count, "size": int, "truncated": bool,
    "edges?": [_One({"from": str, "to": str, "step": int, "relation": str, "role?": str, "path?": str, "entry": int, "evidence": str, "ambiguous": bool, "depth": int})]})})

_RUN_PARAMETERS = {"argv": [str], "dir": str, "parameters": {str: str}, "environment": {str: str}, "secrets": [str], "inputs": [str], "outputs": [str], "platform": str, "parent": str}
_STEP_PARAMETERS = {"engine": _WORD, "namespace": str, "pipeline": str, "task": str, "parent": str, "status": _WORD, "replaces": str, "attestedBy": [str], "reused": str, "skipped": [str], "argv": [str],
                    "parameters": {str: str}, "labels": {str: str}, "environment": {str: str}, "secrets": [str], "platform": str}
_BUILDER = {"id": _WORD, "version": {str: str}, "builderDependencies": [_DESCRIPTOR]}
_OLD_METADATA = {"buildInvocationId": str, "buildInvocationID": str, "buildStartedOn": _moment, "buildFinishedOn": _moment}
_PERSON = {"name": str, "email": str, "when": _moment}


def _optional_key(text):
    return text in (None, "") or isinstance(text, str) and _is_key(text)


# Each predicate type that states more than its subjects, or is checked: its shape, and how it is read.
_PREDICATES = {
    PROVENANCE: ({
        "buildDefinition": {"buildType": _WORD, "externalParameters": object, "internalParameters": object, "resolvedDependencies": [_DESCRIPTOR]},
        "runDetails": {"builder": _BUILDER, "metadata": {"invocationId": str, "startedOn": _moment, "finishedOn": _moment}, "byproducts": [_DESCRIPTOR]}}, _Facts._provenance),
    "https://slsa.dev/provenance/v0.2": ({
        "builder": _BUILDER, "buildType": _WORD, "metadata": _OLD_METADATA, "materials": [_DESCRIPTOR],
        "invocation": {"configSource": {"uri": str, "digest": {str: str}, "entryPoint": str}}}, _Facts._provenance02),
    "https://slsa.dev/provenance/v0.1": ({
        "builder": _BUILDER, "recipe": {"type": _WORD, "definedInMaterial": int, "entryPoint": str}, "metadata": _OLD_METADATA, "materials": [_DESCRIPTOR]}, _Facts._provenance01),
    "https://in-toto.io/attestation/link/v0.3": ({"name": _WORD, "command": [str], "materials": [_DESCRIPTOR]}, _Facts._link),
    "https://slsa.dev/verification_summary/v1": ({
        "verifier": {"id": _WORD, "version": {str: str}}, "timeVerified": _moment, "resourceUri": _WORD, "policy": _DESCRIPTOR, "inputAttestations": [_DESCRIPTOR],
        "verificationResult": "PASSED|FAILED", "verifiedLevels": [str], "dependencyLevels": {str: int}, "slsaVersion": str, "retrace_reasons": [str]}, _Facts._subjects),
    **{f"https://slsa.dev/verification_summary/v0.{n}": ({
        "verifier": {"id": _WORD, "version": {str: str}}, "time_verified": _moment, "resource_uri": _WORD, "policy": _DESCRIPTOR, "verification_result": "PASSED|FAILED",
        "policy_level": str}, _Facts._subjects) for n in (1, 2)},
    "https://model_signing/signature/v1.0": ({
        "resources": [{"name": _WORD, "algorithm": _WORD, "digest": _WORD}],
        "serialization": {"method": "files|shards", "hash_type": _WORD, "allow_symlinks": bool, "ignore_paths": [str], "shard_size": int}}, _Facts._signed_model),
    "genesis/v1": ({"format": int, "origin": str, "logKey": str, "observerKey": str}, _Facts._genesis),
    "trust/v1": ({
        "action": str, "role": str, "keyID": str, "key": str, "identity?": {"subject": _WORD, "issuer": _WORD, "trustedRoot": _WORD}, "name": str, "namespaces": [str], "predicateTypes": [str],
        "notBefore": _moment, "notAfter": _moment, "replaces": str, "reason": str}, _Facts._trust),
    "config/v1": ({"setting": _WORD, "values": {str: str}, "previous": _HASH}, _Facts._subjects),
    "coverage/v1": ({
        "source": _WORD, "from": _moment, "to": _moment, "count": _count, "recorded": _count, "blind": str, "leftOut": _count, "previous": _HASH,
        "refused": [{"object": _WORD, "reason": _WORD, "digest": _optional_key}]}, _Facts._coverage),
    "commit/v1": ({
        "tree": _GIT, "parents": [_GIT], "author": _PERSON, "committer": _PERSON, "message": str, "signature": str, "signer?": {"keyID": _WORD, "name": str},
        "pins": [_DESCRIPTOR], "leftOut": _count}, _Facts._commit),
    "pins/v1": ({"format": "dvc|kustomize|kubernetes|kfp", "pins": [_DESCRIPTOR], "leftOut": _count}, _Facts._pins),
    "ref/v1": ({
        "repository": _WORD, "ref": "refs/.*|HEAD", "old": f"({_GIT})?", "forced": bool, "deleted": bool, "tag": f"({_GIT})?", "previous": _HASH}, _Facts._ref),
    "image/v1": ({
        "repository": _WORD, "mediaType": _WORD, "size": _count, "config": _optional_key, "platform": str, "labels": {str: str}, "signatures": [str],
        "layers": [{"digest": _is_key, "mediaType": str, "size": int, "diffID": _optional_key}],
        "manifests": [{"digest": _is_key, "mediaType": str, "platform": str}]}, _Facts._image),
    "signature/v1": ({"payload": lambda v: bool(v) and _base64(v), "signature": _WORD, "certificate": str, "chain": str, "bundle": str}, _Facts._subjects),
    "tag/v1": ({"repository": _WORD, "tag": _WORD, "old": _optional_key, "deleted": bool, "previous": _HASH}, _Facts._tag),
    "snapshot/v1": ({
        "source": _WORD, "store": str, "handle": str, "count": _count, "bytes": _count, "excluded": [str], "run": str, "version": str, "etag": str, "modified": _moment,
        "durability": "|same-disk|other-disk|remote", "volume?": {
            "name": _WORD, "uid": str, "uri": str, "claim": str, "class": str, "deletionPolicy": "|Retain|Delete", "content": str, "volumeHandle": str, "sourceVolumeMode": str,
            "group": str, "created": _moment, "error": str, "labels": {str: str}, "pods": [{"pod": str, "uid": str, "run": str, "readOnly": bool}], "deleted": bool},
        "previous": _HASH, "files": [{"path": lambda v: isinstance(v, str) and _is_path(v), "type": "file|folder|link", "exec": bool, "size": int, "sha256": str, "target": str,
                                      "version": str, "etag": str}]}, _Facts._snapshot),
    "claim/v1": ({
        "cluster": _WORD, "claim": "pvc://.*", "uid": str, "from": [_DESCRIPTOR], "deleted": bool, "previous": _HASH}, _Facts._claim),
    "taking/v1": ({
        "action": "take|delete", "source": _WORD, "name": "[^/]*/[^/]*", "uid": _WORD, "claim": "pvc://.*", "owner": _WORD, "reason": _WORD, "run": str, "uri": str}, _Facts._subjects),
    "release/v1": ({"source": _WORD, "rules": _WORD, "previous": _HASH}, _Facts._subjects),
    "model/v1": ({
        "name": lambda v: re.fullmatch(r"(?![/.])[^@:# \t\n=]+", v) and len(v.encode()) <= 256, "version": r"[^@ \t\n]+", "resource?": _DESCRIPTOR, "run": str, "path": str,
        "moved": bool, "alias": bool, "deleted": bool, "previous": _HASH, "metrics": {str: object}, "labels": {str: str}}, _Facts._model),
    "deployment/v1": ({
        "workload": "[^/]*(/[^/]*){3}", "uid": str, "models": [_DESCRIPTOR], "images": {str: str}, "deleted": bool, "previous": _HASH,
        "containers": [{"name": _WORD, "image": _WORD, "digest": _optional_key, "platform": str}],
        "revision?": {"commit": _GIT, "repository": str, "by": _WORD, "claimed": bool}, "changed?": {"by": _WORD, "at": _moment, "user": str, "cause": str}}, _Facts._deployment),
    "attestation/v1": ({"claim": _WORD, "comment": str, "by": str}, _Facts._subjects),
    "retraction/v1": ({"index": lambda v: type(v) is int and v > 0, "reason": _WORD}, _Facts._subjects),
    "erasure/v1": ({"index": lambda v: type(v) is int and v > 0, "reason": _WORD, "by": str, "resources": [str]}, _Facts._erasure),
    "restore/v1": ({
        "ref": str, "result": "COMPLETE|INCOMPLETE", "plan": str, "size": int, "checked": int, "bytes": int, "problems": [str]}, _Facts._subjects),
    "reproduction/v1": ({
        "ref": str, "verdict": "BIT_EXACT|DIVERGED|NOT_REPLAYABLE", "reason": str, "isolation": str, "platform": str, "size": int,
        "steps": [{"step": int, "run": str, "exit": int, "outputs": [{"path": str, "recorded": str, "made": str}]}]}, _Facts._subjects),
}


# Keys, signatures and trust.


def _graded(entry, keys, trusts, observers):
    """How we know what an entry states."""
    at, grade = _time(entry.header["recordedAt"]), "claimed"
    in_force = next((key for key, since in reversed(observers[1:]) if at >= since), observers[0][0])
    for name, public in sorted(keys.items(), key=lambda k: isinstance(k[1], dict)):  # keys first, of which all can be said
        stated = trusts.get(name, [])
        if name != in_force and _trusted(stated, at, entry) and entry.signed(public):
            return "attested"
        if name == in_force and not any(t["action"] == "revoke" and at >= _time(t["notAfter"]) for t in stated) and entry.signed(public):
            grade = "observed"
    return grade


def _trusted(trusts, at, entry):
    """Whether the trust entries of a key, in their order, trust it to state an entry."""
    trusted = False
    for t in trusts:
        if t["action"] == "revoke":
            trusted = trusted and at < _time(t.get("notAfter"))
        elif t["action"] == "trust":
            within = at >= _time(t.get("notBefore")) and (not t.get("notAfter") or at < _time(t["notAfter"]))
            trusted = trusted or (within and (not t.get("namespaces") or entry.header["namespace"] in t["namespaces"])
                                  and (not t.get("predicateTypes") or entry.statement and entry.statement["predicateType"] in t["predicateTypes"]))
    return trusted


def _time(text):
    """An instant in RFC 3339 as a number and the digits behind the second, to compare; none is before all."""
    if not text:
        return (float("-inf"), "")
    parts = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)", text, re.ASCII)
    if not parts:
        raise ValueError(f"{text!r} is no time")
    whole, fraction, zone = parts.groups()
    return datetime.fromisoformat(whole + ("+00:00" if zone == "Z" else zone)).timestamp(), (fraction or "").rstrip("0")


def _unjson(raw):
    """JSON of RFC 8259 alone, without duplicate names, which readers take differently."""

    def once(pairs):
        if len({k for k, _ in pairs}) != len(pairs):
            raise ValueError("a name stands twice in an object")
        return dict(pairs)

    def refuse(name):
        raise ValueError(f"{name} is no number of JSON")

    value = json.loads(raw.decode(), object_pairs_hook=once, parse_constant=refuse)
    if b"\\u" in raw:
        json.dumps(value, ensure_ascii=False).encode()  # refuses half a surrogate pair
    return value


def _unbase64(text):
    """Base64 in its one form."""
    raw = base64.b64decode(text, validate=True)
    if _b64(raw) != text:
        raise ValueError("base64 in another than its one form")
    return raw


def _hash_of(text):
    raw = _unbase64(text)
    if len(raw) != 32:
        raise ValueError("a hash does not have 32 bytes")
    return raw


def _any_base64(text):
    """Base64 in either alphabet, padded or not, as DSSE allows."""
    text = re.sub("[\r\n]", "", text)
    if re.search("[-_]", text):
        text = text.replace("+", "!").replace("/", "!").replace("-", "+").replace("_", "/")
    return _unbase64(text if text.endswith("=") else text + "=" * (-len(text) % 4))


def _public(pem):
    """A public key in PEM of a kind that signs entries."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        public = load_pem_public_key(pem.encode())
    except UnsupportedAlgorithm as e:
        raise ValueError(str(e)) from e
    if "-----BEGIN PUBLIC KEY-----" not in pem or not isinstance(public, (ed25519.Ed25519PublicKey, ec.EllipticCurvePublicKey, rsa.RSAPublicKey)):
        raise ValueError("it is neither an Ed25519 nor an ECDSA nor an RSA key")
    return public


def _public_of(trust):
    """The key or identity that a trust entry is about, with its ID; none if it states one under the ID of another."""
    if trust.get("identity"):
        return trust["identity"], trust["keyID"]
    try:
        public = _public(trust["key"])
    except ValueError:
        return None, ""
    return (public, trust["keyID"]) if _key_id(public) == trust["keyID"] else (None, "")


def _identity_id(identity):
    return f"{identity['subject']} by {identity['issuer']} under {_sha256_key(identity['trustedRoot'].encode())}"


def _certified(der):
    """Whom a certificate of Sigstore names, and the login service that vouched for
    them (Fulcio's extensions); nothing if that cannot be told."""
    from cryptography import x509

    try:
        certificate = x509.load_der_x509_certificate(der)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        subject = (names.get_values_for_type(x509.UniformResourceIdentifier) or names.get_values_for_type(x509.RFC822Name))[0]
        extensions = {e.oid.dotted_string: e.value for e in certificate.extensions}
        issuer = extensions.get("1.3.6.1.4.1.57264.1.8")  # a UTF8String; the older one is the text itself
        text = issuer.value[2:] if issuer and issuer.value[0] == 12 and issuer.value[1] == len(issuer.value) - 2 else extensions["1.3.6.1.4.1.57264.1.1"].value
        return subject, text.decode()
    except (ValueError, KeyError, IndexError, x509.ExtensionNotFound):
        return None


def _key_id(public):
    """The SSH fingerprint of a key."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    wire = base64.b64decode(public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split()[1])
    return "SHA256:" + _b64(hashlib.sha256(wire).digest()).rstrip("=")


def _signed(public, signature, message):
    """Whether a signature by a key verifies: Ed25519, ECDSA and RSA as in-toto uses them."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

    ways = []
    if isinstance(public, ed25519.Ed25519PublicKey):
        ways = [()]
    elif isinstance(public, ec.EllipticCurvePublicKey):
        ways = [(ec.ECDSA(h),) for h in (hashes.SHA256(), {384: hashes.SHA384(), 521: hashes.SHA512()}.get(public.curve.key_size)) if h]
    elif isinstance(public, rsa.RSAPublicKey):
        ways = [(padding.PKCS1v15(), hashes.SHA256())]
    for way in ways:
        try:
            public.verify(signature, message, *way)
            return True
        except InvalidSignature:
            continue
    return False


def _vkey(key):
    """(name, hash, public key, text) of the verifier key given, or in the file named."""
    key = key or os.environ.get("RETRACE_LOG_KEY")
    if not key:
        raise RetraceError("verify needs the log's public key: the text of log.vkey or the name of that file", "BAD_INPUT")
    text = str(key).strip()
    try:
        if text.count("+") < 2 or os.path.exists(text):
            text = pathlib.Path(text).read_text().strip()
        return _vkey_of(text)
    except (OSError, ValueError) as e:
        raise RetraceError(f"reading the log's key: want the text of log.vkey or the name of that file: {e}", "BAD_INPUT") from e


def _vkey_of(text):
    """(name, hash, public key, text) of a C2SP verifier key."""
    name, digest, encoded = text.split("+", 2)
    raw = base64.b64decode(encoded, validate=True)
    if len(raw) != 33 or raw[0] != 1 or not _names_log(name):
        raise ValueError("it is not an Ed25519 verifier key (C2SP signed-note)")
    found = _log_key(name, raw[1:])
    if found[1].hex() != digest.lower():
        raise ValueError("it does not have the hash that it states")
    return found


def _log_key(name, raw):
    """(name, hash, public key, text) of the Ed25519 key of a log (C2SP signed-note)."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    digest = hashlib.sha256(name.encode() + b"\n\x01" + raw).digest()[:4]
    return name, digest, Ed25519PublicKey.from_public_bytes(raw), f"{name}+{digest.hex()}+{_b64(bytes([1]) + raw)}"


def _names_log(name):
    return name != "" and "+" not in name and not re.search(r"\s", name)


def _ed25519_bytes(public):
    """The 32 bytes of an Ed25519 key; None of another."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return public.public_bytes(Encoding.Raw, PublicFormat.Raw) if isinstance(public, Ed25519PublicKey) else None


def _open_note(note, vkey):
    """(origin, size, root) of a checkpoint (C2SP tlog-checkpoint) in a note (C2SP signed-note)."""
    text, blank, lines = note.rpartition("\n\n")
    text, lines, by_key = text + "\n", lines.split("\n"), []
    if re.search(r"[\0-\x09\x0b-\x1f]", note) or not blank or lines.pop() != "" or len(lines) > 100:
        raise ValueError("the checkpoint is not a signed note")
    for line in lines:
        dash, name, encoded = line.split(" ", 2)
        signature = base64.b64decode(encoded, validate=True)
        if dash != "—" or not _names_log(name) or len(signature) < 5:
            raise ValueError("a signature of the checkpoint is not one of a note")
        if (name, signature[:4]) == vkey[:2]:
            by_key.append(signature[4:])
    if not by_key or not _signed(vkey[2], by_key[0], text.encode()):
        raise _False("the checkpoint is not signed by the key given for it")
    origin, size, root, *more = text[:-1].split("\n")
    if origin != vkey[0]:
        raise _False("the checkpoint is of another log")
    if not re.fullmatch("0|[1-9][0-9]*", size) or "" in more:
        raise ValueError("the checkpoint is not origin, size and root")
    return origin, int(size), _hash_of(root)


def _inclusion(leaf, index, size, proof, root):
    """RFC 9162, section 2.1.3.2, which is RFC 6962's proof."""
    if not 0 <= index < size:
        raise _False(f"entry {index} is not below size {size}")
    fn, sn, r = index, size - 1, hashlib.sha256(b"\0" + leaf).digest()
    for p in proof:
        if sn == 0:
            raise _False(f"entry {index} is not in the log")
        if fn & 1 or fn == sn:
            r = hashlib.sha256(b"\1" + p + r).digest()
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = hashlib.sha256(b"\1" + r + p).digest()
        fn, sn = fn >> 1, sn >> 1
    if sn != 0 or r != root:
        raise _False(f"entry {index} is not in the log")


# Recording.


def step(name, client=None, **what):
    """Record a step of a notebook or script as a context manager.

        with retrace.step("train", inputs=["data.csv"], outputs=["model.bin"],
                          params={"rate": 0.1}, model="forecast:3") as s:
            …
            s.metrics["mae"] = 1.2

    inputs are hashed before and outputs after; files and folders. model is
    NAME:VERSION, given to the first output. The code, the installed packages and
    the Git commit are recorded with it. Nobody signs the statement, so it is
    graded as claimed; `retrace run` is what observes.
    """
    return Step(client or connect(), name, **what)


class Step:
    """A step under way. metrics and params may be added to until it ends."""

    def __init__(self, client, name, inputs=(), outputs=(), params=None, metrics=None, model=None, code=None):
        self.client, self.name, self.model = client, name, model
        self.inputs = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
        self.outputs = [outputs] if isinstance(outputs, (str, os.PathLike)) else list(outputs)
        self.params, self.metrics = dict(params or {}), dict(metrics or {})
        self.run = secrets.token_hex(8)
        self.entries = []
        self._code, self._gaps = code, []
        if model and not re.fullmatch(r"[^:@\s]+:[^:@\s]+", model):
            raise RetraceError(f"model {model!r}: want NAME:VERSION", "BAD_INPUT")
        if model and not self.outputs:
            raise RetraceError("a model is an output: name it in outputs", "BAD_INPUT")

    def __enter__(self):
        self._code = self._code or _source(sys._getframe(1))
        self._refuse_secrets()
        self._started = _now()
        self._used = [self._kept(p, "input") for p in self.inputs]
        self._before = {str(p): _digest(p) for p in self.outputs if os.path.exists(p)}
        return self

    def __exit__(self, kind, error, trace):
        made = []
        for p in self.outputs:
            if not os.path.exists(p):
                self._gap("output-missing", str(p))
            elif self._before.get(str(p)) == _digest(p):
                self._gap("output-unchanged", str(p))
                if not _among(p, self.inputs):
                    self._used.append(self._kept(p, "input"))
            else:
                made.append(self._kept(p, None))
        for before, p in zip(self._used, self.inputs):
            if not _among(p, self.outputs) and (not os.path.exists(p) or _digest(p) != before["digest"]):
                self._gap("input-changed", str(p))
        metrics = self._plain_metrics()
        statements = [self._provenance(made, metrics, kind)]
        refused = None
        if self.model and kind is None:
            try:
                statements.append(self._naming(made, metrics))
            except RetraceError as e:
                refused = e
        self._record(statements)
        if refused:
            raise RetraceError(f"the step was recorded, and named no version of a model: {refused}", refused.code) from refused
        return False

    def _record(self, statements):
        """Record statements or, if the server does not take them, keep them in a file:
        what the step did may have taken days."""
        for i, statement in enumerate(statements):
            try:
                self.entries.append(self.client.record(statement))
            except RetraceError as e:
                path = pathlib.Path(f"retrace-step-{self.run}.jsonl").resolve()
                path.write_bytes(b"".join(_canonical(s) + b"\n" for s in statements[i:]))
                raise RetraceError(f"the step ended and could not be recorded: {e}. What would have been recorded is in {path}: `retrace record {path}`", e.code) from e

    def _refuse_secrets(self):
        """Nothing that is recorded can be taken back, so this comes before anything runs.
        Source that holds a secret is left out, with a warning and a gap."""
        for name, value in self.params.items():
            why = _secret_value(_plain(value)) or _secret_name(name, _plain(value))
            if why:
                raise RetraceError(f"parameter {name} looks like a secret ({why}); nothing was recorded. Put it into an environment variable and read it from there", "BAD_INPUT")
        found = _secret_value(self._code or "")
        if found:
            warnings.warn(f"the source of step {self.name} holds what looks like {found}, so it is not recorded", stacklevel=3)
            self._gap("code-not-captured", f"the source of the step holds what looks like {found}")
            self._code = None

    def _naming(self, made, metrics):
        name, _, version = self.model.partition(":")
        wanted = _describe_name(self.outputs[0])
        found = [m for m in made if m["name"] == wanted]
        if not found:
            raise RetraceError(f"{wanted} was not made by the step", "BAD_INPUT")
        try:
            have = self.client.model(f"{name}@{version}").digest
        except RetraceError as e:
            if e.code != "NOT_FOUND":
                raise
            have = None
        ours = "%s:%s" % next(iter(found[0]["digest"].items()))
        if have not in (None, ours):
            raise RetraceError(f"{name}@{version} is {_short(have)} already, and this step made {_short(ours)}: choose another version", "CONFLICT")
        predicate = {"name": name, "version": version, "run": self.run, "path": wanted}
        if metrics:
            predicate["metrics"] = metrics
        return _in_toto(MODEL, predicate, [found[0]])

    def _plain_metrics(self):
        """The metrics as numbers and text. What is neither is a gap, as the step is over."""
        plain = {}
        for name, value in self.metrics.items():
            if hasattr(value, "item"):  # of numpy and of others that follow it
                try:
                    value = value.item()
                except (TypeError, ValueError, RuntimeError):
                    pass
            if isinstance(value, bool) or not isinstance(value, (int, float, str)):
                self._gap("metrics-not-recorded", f"{name} is neither a number nor a text")
            elif not isinstance(value, str) and not math.isfinite(value):
                self._gap("metrics-not-recorded", f"{name} is not a finite number")
            elif isinstance(value, str) and _secret_value(value):
                self._gap("metrics-not-recorded", f"{name} holds what looks like {_secret_value(value)}")
            else:
                plain[str(name)] = value
        return plain

    def _kept(self, path, role):
        """A file or folder as statements name it, which the server now keeps."""
        found = _describe(path, role)
        try:
            self.client.keep(path, found["digest"])
            found["annotations"]["content"] = "store"
        except RetraceError as e:
            self._gap("content-not-kept", f"{found['name']}: {e}")
        return found

    def _gap(self, rule, detail):
        self._gaps.append({"rule": rule, "detail": detail})

    def _provenance(self, made, metrics, failed):
        deps = list(self._used)
        for role_kind, text in (("cell", self._code), ("packages", _packages())):
            if text:
                raw = text.encode("utf-8", "replace")
                deps.append({"name": role_kind, "digest": {"sha256": hashlib.sha256(raw).hexdigest()}, "mediaType": "text/plain", "content": _b64(raw),
                             "annotations": {"role": "definition", "kind": role_kind}})
        notebook = _notebook()
        if notebook:
            deps.append(_describe(notebook, "definition"))
        deps += self._git_state()
        parameters = {"engine": "python", "task": self.name, "status": "Failed" if failed else "Succeeded", "platform": _PLATFORM}
        if re.fullmatch("[0-9a-f]{16,64}", os.environ.get("RETRACE_RUN", "")):
            parameters["parent"] = os.environ["RETRACE_RUN"]  # the notebook itself runs under `retrace run`
        given = {str(k): _plain(v) for k, v in self.params.items()}
        withheld = sorted(k for k, v in given.items() if _secret_value(v) or _secret_name(k, v))  # that came after the step began
        if withheld:
            parameters["secrets"] = withheld
        if len(given) > len(withheld):
            parameters["parameters"] = {k: v for k, v in given.items() if k not in withheld}
        environment = {k: v for k, v in os.environ.items() if (k in _RECORDED or k.startswith("LC_")) and not _secret_value(v)}
        if environment:
            parameters["environment"] = environment
        byproducts = [{"name": "retrace_exitStatus", "mediaType": "application/json", "content": _b64(b"1" if failed else b"0")}]
        if metrics:
            byproducts.append({"name": "retrace_metrics", "mediaType": "application/json", "content": _b64(_canonical(metrics))})
        if self._gaps:
            byproducts.append({"name": "retrace_gaps", "mediaType": "application/json", "content": _b64(_canonical(self._gaps))})
        predicate = {
            "buildDefinition": {"buildType": STEP, "externalParameters": parameters, "resolvedDependencies": deps},
            "runDetails": {
                "builder": {"id": BUILDER, "version": {"retrace": __version__, "python": platform.python_version()}},
                "metadata": {"invocationId": self.run, "startedOn": self._started, "finishedOn": _now()},
                "byproducts": byproducts,
            },
        }
        run = {"name": "run:" + self.run, "digest": {"sha256": hashlib.sha256(_canonical(predicate)).hexdigest()}}
        return _in_toto(PROVENANCE, predicate, [run, *made])

    def _git_state(self):
        """The commit that is checked out, which the server now keeps. What is not
        committed is not kept, unlike by `retrace run`: it is a gap."""
        commit, changed, uri, pushed = _git()
        if not commit:
            return []
        code = {"name": "commit", "digest": {"gitCommit": commit}, "annotations": {"role": "code", "kind": "git"}}
        if uri:
            code["uri"] = uri
        try:
            self.client.keep_commit(commit)
            code["annotations"]["content"] = "store"
        except RetraceError as e:
            self._gap("content-not-kept", f"commit {commit}: {e}")
        if not pushed:
            self._gap("commit-not-on-remote", commit)
        declared = [_absolute(p) for p in self.inputs + self.outputs]
        left = [_describe_name(p) for p in changed if not any(d == p or d in p.parents for d in declared)]
        if left:
            self._gap("changes-left-out", ", ".join(left[:10]) + (f" and {len(left) - 10} more" if len(left) > 10 else ""))
        return [code]


_PLATFORM = {"win32": "windows"}.get(sys.platform, sys.platform) + "/" + {"x86_64": "amd64", "AMD64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())

# Variables that are known to change results (ingest/run/env.go).
_RECORDED = set("""LANG LANGUAGE TZ SOURCE_DATE_EPOCH PYTHONHASHSEED PYTHONPATH PYTHONOPTIMIZE PYTHONUTF8 PYTHONIOENCODING PYTHONDONTWRITEBYTECODE
    CONDA_DEFAULT_ENV VIRTUAL_ENV OMP_NUM_THREADS MKL_NUM_THREADS OPENBLAS_NUM_THREADS NUMEXPR_NUM_THREADS VECLIB_MAXIMUM_THREADS MKL_CBWR OMP_SCHEDULE
    OMP_DYNAMIC CUDA_VISIBLE_DEVICES CUBLAS_WORKSPACE_CONFIG NVIDIA_TF32_OVERRIDE TF_DETERMINISTIC_OPS TF_CUDNN_DETERMINISTIC TF_ENABLE_ONEDNN_OPTS
    XLA_FLAGS JAX_PLATFORMS JAX_ENABLE_X64 WORLD_SIZE RANK LOCAL_RANK GOFLAGS GOMAXPROCS GODEBUG R_LIBS JULIA_NUM_THREADS""".split())

# What a secret looks like: the rule of `retrace run` (ingest/secrets.go).
_SECRET_FORMS = [(kind, re.compile(form)) for kind, form in (
    ("a private key", r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----"),
    ("an AWS access key", r"\b(AKIA|ASIA)[0-9A-Z]{16}\b"),
    ("a GitHub token", r"\b(gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,})"),
    ("a GitLab token", r"\bglpat-[A-Za-z0-9_-]{20,}"),
    ("a Slack token", r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}"),
    ("a Hugging Face token", r"\bhf_[A-Za-z0-9]{30,}"),
    ("a Google API key", r"\bAIza[0-9A-Za-z_-]{35}"),
    ("an API key", r"\bsk-[A-Za-z0-9_-]*[A-Za-z0-9]{20,}"),
    ("an npm token", r"\bnpm_[A-Za-z0-9]{36}"),
    ("a JSON web token", r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"),
    ("a bearer token", r"(?i)\bauthorization:\s*(bearer|basic|token)\s+\S{8,}"),
    ("a storage key", r"(?i)\b(AccountKey|SharedAccessSignature|SharedAccessKey)=\S{16,}"),
    ("a signed URL", r"(?i)[?&](X-Amz-Signature|X-Goog-Signature|sig)=[A-Za-z0-9%+/=_-]{16,}"),
    ("a URL with credentials", r"[a-zA-Z][a-zA-Z0-9+.-]*://[^\s/?#\"'<>:@]*:[^\s/?#\"'<>@]+@[^\s\"'<>]+|https?://[^\s/?#\"'<>:@]{20,}@[^\s\"'<>]+"),
)]


def _secret_value(text):
    """The kind of secret that stands in a text, or nothing."""
    return next((kind for kind, form in _SECRET_FORMS if form.search(text)), "")


def _secret_name(name, value):
    """Why a value under a name is taken for a secret, or nothing. Only the end of a
    name tells: a token_file is a path and max_tokens a number."""
    if value.lower() in ("", "true", "false", "yes", "no", "on", "off", "none", "null", "nil", "0", "1"):
        return ""
    words = re.split(r"[_.-]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", str(name)).lower().strip("_.-"))
    written_as_key = re.fullmatch(r"[A-Za-z0-9+/=_.-]{8,}", value) and (
        re.search(r"\d", value) and re.search(r"[A-Za-z]", value) or len(value) >= 24 and not re.search(r"[0-9_./-]", value))
    last = words[-1]
    if last == "token":
        return "its name ends in token" if written_as_key else ""
    if last in ("password passwd passphrase pwd secret secrets apikey credential credentials authtoken accesskey secretkey privatekey bearer").split():
        return f"its name ends in {last}"
    if last == "key" and words[-2:-1] and words[-2] in "api access secret private auth signing encryption master account service license".split():
        return f"its name ends in {words[-2]} key"
    return "its name ends in key and its value looks random" if last == "key" and len(value) >= 20 and written_as_key else ""


def _plain(value):
    """A parameter as text: text as it is, all else as JSON where it has such a form."""
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def _absolute(path):
    """Where a path is, its own last part not followed."""
    path = pathlib.Path(os.path.abspath(path))
    return path.parent.resolve() / path.name


def _among(path, others):
    return _absolute(path) in [_absolute(o) for o in others]


def _describe_name(path):
    """How statements name a path: relative below the working directory, else absolute."""
    try:
        return _absolute(path).relative_to(pathlib.Path.cwd().resolve()).as_posix()
    except ValueError:
        return _absolute(path).as_posix()


def _in_toto(kind, predicate, subjects):
    return {"_type": "https://in-toto.io/Statement/v1", "subject": subjects, "predicateType": kind, "predicate": predicate}


def _canonical(value):
    """JSON as RFC 8785 has it."""
    if isinstance(value, dict):
        members = sorted(value.items(), key=lambda m: m[0].encode("utf-16-be"))
        return b"{" + b",".join(json.dumps(k, ensure_ascii=False).encode() + b":" + _canonical(v) for k, v in members) + b"}"
    if isinstance(value, (list, tuple)):
        return b"[" + b",".join(map(_canonical, value)) + b"]"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _number(float(value)).encode()
    return json.dumps(value, ensure_ascii=False).encode()


def _number(x):
    """A number as ECMAScript writes it: Python's digits, with the point elsewhere."""
    if not math.isfinite(x):
        raise ValueError("JSON has no such number")
    if x == 0:
        return "0"
    mantissa, _, exponent = f"{abs(x)!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = int(exponent or 0) + len(whole) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    if 0 < point <= 21:
        text = digits.ljust(point, "0")[:point] + ("." + digits[point:] if digits[point:] else "")
    elif -6 < point <= 0:
        text = "0." + "0" * -point + digits
    else:
        text = digits[0] + ("." + digits[1:] if digits[1:] else "") + f"e{point - 1:+d}"
    return "-" * (x < 0) + text


def _b64(raw):
    return base64.b64encode(raw).decode()


def _now():
    return datetime.now(timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _describe(path, role):
    """A file or folder as statements name it."""
    path, name = pathlib.Path(path), _describe_name(path)
    annotations = {"path": name, "type": "folder" if path.is_dir() else "file"}
    if path.is_file():
        annotations["size"] = str(path.stat().st_size)
        if path.stat().st_mode & 0o100:
            annotations["exec"] = "true"
    if role:
        annotations["role"] = role
    return {"name": name, "digest": _digest(path), "annotations": annotations}


def _digest(path):
    path = pathlib.Path(path)
    if path.is_dir():
        return {"retraceTree1": _tree(path)}
    return {"sha256": _hash(path).hex()}


def _hash(path):
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        for block in iter(lambda: f.read(1 << 20), b""):
            digest.update(block)
    return digest.digest()


def _tree(folder):
    """The digest retraceTree1 of a folder."""
    records = {}

    def walk(at, prefix):
        for entry in os.scandir(at):
            name = prefix + os.fsencode(entry.name)
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISLNK(mode):
                records[name] = _record("link", target=os.fsencode(os.readlink(entry.path)))
            elif stat.S_ISDIR(mode):
                records[name] = _record("folder")
                walk(entry.path, name + b"/")
            elif stat.S_ISREG(mode):
                records[name] = _record("file", bool(mode & 0o100), entry.stat().st_size, _hash(entry.path))
            else:
                raise RetraceError(f"{entry.path} is neither a file nor a folder nor a link", "BAD_INPUT")

    walk(folder, b"")
    return _tree_digest(records)


def _tree_digest(records):
    """retraceTree1 of records by path (docs/formats.md, "Folders")."""
    digest = hashlib.sha256(b"retraceTree1\n")
    for name in sorted(records):
        digest.update(struct.pack(">I", len(name)) + name + records[name])
    return digest.hexdigest()


def _record(kind, executable=False, size=0, content=b"", target=b""):
    if kind == "file":
        return b"f" + bytes([executable]) + struct.pack(">Q", size) + content
    return b"d" if kind == "folder" else b"l" + struct.pack(">I", len(target)) + target


def _listing_digest(files):
    """retraceTree1 of the files that a snapshot lists."""
    records = {f["path"].encode(): _record(f["type"], bool(f.get("exec")), f.get("size") or 0, bytes.fromhex(f.get("sha256") or ""), (f.get("target") or "").encode()) for f in files}
    if len(records) != len(files):
        raise ValueError("a path is listed twice")
    return _tree_digest(records)


def _tar(folder, file):
    """Write the folder as a tar file: names, links, contents and the owner's bit."""

    def plain(info):
        info.uid = info.gid = info.mtime = 0
        info.uname = info.gname = ""
        return info

    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(os.listdir(folder)):
            archive.add(os.path.join(folder, name), arcname=name, filter=plain)


def _packages():
    from importlib import metadata

    found = {(d.metadata["Name"], d.version) for d in metadata.distributions() if d.metadata["Name"]}
    lines = [f"python=={platform.python_version()}", *sorted(f"{n}=={v}" for n, v in found)]
    return "\n".join(lines) + "\n"


def _git():
    """(commit, paths of what is not committed, URI of the remote, whether a remote
    has the commit) of the working directory; no commit where there is none, or no Git."""

    def git(*args):
        done = subprocess.run(["git", *args], capture_output=True, text=True, errors="surrogateescape")
        return done.stdout if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "--verify", "-q", "HEAD").strip()
    except OSError:
        commit = ""
    if not commit:
        return "", [], "", False
    root = pathlib.Path(git("rev-parse", "--show-toplevel").rstrip("\n")).resolve()
    names = git("-c", "status.renames=false", "status", "--porcelain", "-z", "--untracked-files=all").split("\0")
    changed = [root / n[3:] for n in names if n and ".retrace" not in pathlib.PurePosixPath(n[3:]).parts]
    pushed = bool(git("branch", "-r", "--contains", commit).strip())
    remote = urllib.parse.urlsplit(git("remote", "get-url", "origin").strip())
    if remote.scheme not in ("https", "http", "ssh"):
        return commit, changed, "", pushed
    host = remote.netloc.rpartition("@")[2]
    if remote.scheme == "ssh" and remote.username:
        host = f"{remote.username}@{host}"
    path = remote.path[:-4] if remote.path.endswith(".git") else remote.path
    return commit, changed, f"git+{remote.scheme}://{host}{path}", pushed


def _source(frame):
    """The text of the cell or file that a frame is of."""
    import linecache

    lines = linecache.getlines(frame.f_code.co_filename, frame.f_globals)
    return "".join(lines)


def _notebook():
    """The notebook's file as it was last saved, where Jupyter or VS Code says which it is."""
    name = os.environ.get("JPY_SESSION_NAME")
    if not name and "IPython" in sys.modules:
        shell = sys.modules["IPython"].get_ipython()
        name = shell and shell.user_ns.get("__vsc_ipynb_file__")
    return name if name and os.path.isfile(name) else None


# IPython: %load_ext retrace


def load_ipython_extension(ipython):
    """Define %retrace and %%retrace."""
    import argparse
    import shlex

    def magic(line, cell=None):
        words = shlex.split(line)
        if not words:
            raise RetraceError("want %retrace why|lineage|diff|gaps|verify|impact REF, or %%retrace step NAME", "BAD_INPUT")
        what, rest = words[0], words[1:]
        if cell is not None:
            if what != "step":
                raise RetraceError(f"%%retrace {what}: want %%retrace step NAME", "BAD_INPUT")
            return _run_cell(ipython, argparse, rest, cell)
        client = connect()
        actions = {
            "why": lambda ref: client.lineage(ref), "lineage": lambda ref: client.lineage(ref),
            "diff": lambda a, b: client.diff(a, b), "gaps": lambda ref: client.gaps(ref),
            "verify": lambda ref, key=None: client.lineage(ref).verify(key), "impact": lambda ref: list(client.impact(ref)),
        }
        counts = {"diff": (2,), "verify": (1, 2)}
        if what not in actions:
            raise RetraceError(f"%retrace {what}: want one of {', '.join(actions)}", "BAD_INPUT")
        if len(rest) not in counts.get(what, (1,)):
            raise RetraceError(f"%retrace {what} takes {' or '.join(map(str, counts.get(what, (1,))))} arguments, and not {len(rest)}", "BAD_INPUT")
        return actions[what](*rest)

    ipython.register_magic_function(magic, "line_cell", "retrace")


def _run_cell(ipython, argparse, words, cell):
    parser = argparse.ArgumentParser("%%retrace step", add_help=False)
    parser.add_argument("name")
    parser.add_argument("--in", dest="inputs", action="append", default=[])
    parser.add_argument("--out", dest="outputs", action="append", default=[])
    parser.add_argument("--param", action="append", default=[], metavar="K=V")
    parser.add_argument("--model", metavar="NAME:VERSION")
    def refuse(message):
        raise RetraceError(f"%%retrace step: {message}; {parser.format_usage().strip()}", "BAD_INPUT")

    parser.error = refuse
    args = parser.parse_args(words)
    params = dict(p.partition("=")[::2] for p in args.param)
    with step(args.name, inputs=args.inputs, outputs=args.outputs, params=params, model=args.model, code=cell) as s:
        ipython.user_ns["step"] = s
        ipython.run_cell(cell).raise_error()
    return s.entries
