"""Ask a retrace ledger from Python: what made a model, why two differ, what
stands in the way of restoring one, with proof; and record steps of a notebook.

    import retrace
    client = retrace.connect()
    client.model("forecast@3").inputs()

Standard library only. Signatures are checked with the package `cryptography`;
without it, verify() says that it could not check.
"""

import base64
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
GENESIS = "https://github.com/retrace-ledger/retrace/predicates/genesis/v1"
TRUST = "https://github.com/retrace-ledger/retrace/predicates/trust/v1"
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
    """Check a bundle with the log's public key: that the log signed its
    checkpoint; that each entry is in the log; that the entries name what was
    asked for and state each edge, and are signed by those whose word the edge is
    said to be; that no input of a step shown is left out; with lineage, that it is
    the answer that was shown. Not checked is what only a walk over the entries
    tells: that they state no further edges. `retrace verify` walks."""
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
    unchecked.append("that the entries state no further edges: `retrace verify` walks them all; nor that no entry was left out, which no proof shows")
    unchecked.append("that what the signers of the entries state is true")
    return Verification(True, "", checked, unchecked)


# Members of a claim and of an edge that are left out where they are empty.
_CLAIM = ("name", "root", "run", "direction", "edges")
_EDGE = ("role", "path")


class _Proof:
    """A bundle (docs/formats.md, "Bundle") that is being checked. What held is
    said in checked, what cannot be known from here in unchecked."""

    def __init__(self, bundle, vkey, checked, unchecked):
        self.vkey, self.checked, self.unchecked = vkey, checked, unchecked
        raw = bundle.encode() if isinstance(bundle, str) else bytes(bundle)
        self.doc = _unjson(raw)
        if self.doc["format"] != "retrace bundle v1":
            raise _Unknown(f"its format is {self.doc['format']!r}, and this module reads 'retrace bundle v1'")
        if _canonical(self.doc) + b"\n" != raw:
            raise ValueError("it is not in its one encoding, canonical JSON and a newline")
        if not (set(self.doc) <= {"format", "checkpoint", "entries", "claim"} and all(set(e) <= {"index", "body", "commitment", "proof"} for e in self.doc["entries"])):
            raise ValueError("it has members that are not known")
        self.claim = self.doc["claim"]
        self.edges = self.claim.get("edges") or []
        for part, optional in ((self.claim, _CLAIM), *((e, _EDGE) for e in self.edges)):
            if any(part.get(m) in ("", []) for m in optional) or part.get("depth", 0) < 0:
                raise ValueError("it states what is left out in its one encoding")
        self.entries = {}  # by index; None where the body is withheld
        indexes = [e["index"] for e in self.doc["entries"]]
        if not indexes or indexes[0] != 0 or indexes != sorted(set(indexes)):
            raise ValueError("its entries are not in ascending order from genesis, entry 0, on")

    def check(self, lineage):
        bodies = [_unbase64(e["body"]) if "body" in e else None for e in self.doc["entries"]]
        if any(b and _Entry(b).rotates() for b in bodies):
            raise _Unknown("a key of this log was rotated; `retrace verify` follows rotations, this module does not")
        origin, size, root = _open_note(self.doc["checkpoint"], self.vkey)
        self.checked.append(f"the log {origin} signed its first {size} entries")
        if not 1 <= self.claim["size"] <= size:
            raise _False(f"it speaks for {self.claim['size']} entries, and {size} were signed")
        for e, body in zip(self.doc["entries"], bodies):
            leaf = hashlib.sha256(b"retrace leaf v1\n" + body).digest() if body is not None else _unbase64(e["commitment"])
            _inclusion(leaf, e["index"], size, [_unbase64(h) for h in e["proof"]], root)
            if e["index"] >= self.claim["size"]:
                raise _False(f"it rests on entry {e['index']} and speaks for the first {self.claim['size']}")
            self.entries[e["index"]] = _Entry(body) if body is not None else None
        self.checked.append(f"{len(bodies)} entries are in it, byte for byte")
        self._genesis(origin)
        self._grade()
        if self.claim.get("name"):
            self._name()
        self._asked()
        self._walk()
        if None in self.entries.values():
            self.unchecked.append("what entries state whose bodies are withheld or erased")
        if lineage is not None:
            self._shown(lineage)

    def _genesis(self, origin):
        genesis = self.entries[0]
        if genesis is None or genesis.statement is None:
            raise ValueError("genesis, entry 0, has no body")
        stated = genesis.statement["predicate"]
        if genesis.statement["predicateType"] != GENESIS or stated.get("origin") != origin or stated.get("logKey", "").strip() != self.vkey[3]:
            raise _False("entry 0 is not the genesis of the log with this key")
        self.observer = _public(stated["observerKey"])
        if not genesis.signed(self.observer):
            raise _False("entry 0 is not signed by the observer that it names")

    def _grade(self):
        """Grade each entry by the trust entries in the bundle (schema/trust.go)."""
        trusts, keys, observer = {}, {}, _key_id(self.observer)
        for e in self.entries.values():
            if e and e.statement and e.statement["predicateType"] == TRUST and e.signed(self.observer):
                trust = e.statement["predicate"]
                public = _public(trust["key"])
                if _key_id(public) == trust["keyID"] and trust not in trusts.setdefault(trust["keyID"], []):
                    trusts[trust["keyID"]].append(trust)
                    keys[trust["keyID"]] = public
        self.grades = {}
        for index, e in self.entries.items():
            grade = "claimed"
            if e and e.statement:
                at = _time(e.header["recordedAt"])
                revoked = any(t["action"] == "revoke" and at >= _time(t.get("notAfter")) for t in trusts.get(observer, []))
                if not revoked and e.signed(self.observer):
                    grade = "observed"
                for key_id, public in keys.items():
                    if key_id != observer and _trusted(trusts[key_id], at, e) and e.signed(public):
                        grade = "attested"
            self.grades[index] = grade
        graded = list(self.grades.values())
        self.checked.append(", ".join(f"{graded.count(g)} of them are {how}" for g, how in (
            ("observed", "signed by the log's own observer"), ("attested", "signed by a key that its operator trusts"), ("claimed", "claims")) if g in graded))

    def _name(self):
        name, root, index = self.claim["name"], self.claim["root"], self.claim["entry"]
        if index not in self.entries:
            raise _False(f"entry {index}, which is said to name {name}, is not in it")
        entry = self.entries[index]
        if entry is None:
            raise _Unknown(f"the body of entry {index}, which is said to name {name}, is withheld")
        if not any(n == name and root in keys and run == (self.claim.get("run") or "") for n, keys, run in _names(entry.statement)):
            raise _False(f"entry {index} does not state that {name} is {_short(root)}")
        if self.grades[index] == "claimed":
            better = [i for i, e in self.entries.items() if e and self.grades[i] != "claimed" and any(n == name for n, _k, _r in _names(e.statement))]
            if better:
                raise _False(f"entry {index} only claims what {name} is, and entry {better[0]} says it")
        self.checked.append(f"entry {index} states that {name} is {_short(root)} ({self.grades[index]})")

    def _asked(self):
        """That the question which the bundle says was asked leads to its answer."""
        ref, name, root = self.claim["ref"], self.claim.get("name"), self.claim.get("root") or ""
        kind, _, rest = ref.partition(":")
        if ref.startswith("#"):
            kind, rest = "entry", ref[1:]
        if kind == "image" and "@" in rest:
            rest = rest.partition("@")[2]
        if name:
            leads = _named_by(ref, name)
        elif kind in ("entry", "step"):
            entry = self.entries.get(int(rest)) if rest.isdigit() else None
            leads = entry is not None and (root in entry.made() if root else int(rest) == self.claim["entry"])
        elif kind == "run":
            leads = bool(rest) and (self.claim.get("run") or "").startswith(rest)
        else:
            abbreviated = [ref, rest, "gitCommit:" + rest if kind == "git" else "", "retraceTree1:" + rest if kind == "snapshot" else ""]
            leads = any(text.partition(":")[2] and root.startswith(text) for text in abbreviated)
            if not leads and (ref.startswith((".", "/")) or "://" in ref):
                self.unchecked.append(f"that {ref!r} is what the proof is about")
                return
        if not leads:
            raise _False(f"it is about {name or _short(root)}, and {ref!r} was asked for")

    def _walk(self):
        """Check that the edges are connected to the root, nearest first, each stated
        by its entry, and that of no step an input was left out."""
        down, last = self.claim.get("direction") == "DOWNSTREAM", 0
        near, far = ("to", "from") if down else ("from", "to")
        reached, used, foreign, seen = {(self.claim.get("root"), 0)}, {}, 0, set()
        for edge in self.edges:
            if edge["depth"] < last or (edge[near], edge["depth"]) not in reached:
                raise _False(f"the edge at {_short(edge[near])} is not connected to {_short(self.claim.get('root'))} by those before it")
            last, same = edge["depth"], json.dumps({**edge, "depth": 0}, sort_keys=True)
            if same in seen:
                raise _False(f"the edge from {_short(edge['from'])} to {_short(edge['to'])} stands in it twice")
            seen.add(same)
            reached.add((edge[far], last + 1))
            self._edge(edge)
            if edge["relation"] == "used":
                use = edge[far], edge.get("role") or "", edge.get("path") or ""
                used.setdefault((edge[near], edge["step"]), set()).add(use)
                foreign += self.entries[edge["step"]].uses() is None
        for (key, step), shown in used.items():
            stated = self.entries[step].uses()
            if not down and not self.claim.get("truncated") and stated is not None and len(set(stated)) != len(shown):
                raise _False(f"entry {step} states more that {_short(key)} was made from than the {len(shown)} edges shown")
        self.checked.append(f"{len(self.edges)} edges are stated by these entries" + ("" if down else ", and of no step an input is left out"))
        if self.claim.get("truncated"):
            self.unchecked.append("what lies beyond: the answer was cut off")
        elif self.claim.get("depth"):
            self.unchecked.append(f"what lies deeper than {self.claim['depth']} edges: that was not asked for")
        if foreign:
            self.unchecked.append(f"the roles and paths of {foreign} edges of steps in a form of others: their entries mention both ends")

    def _edge(self, edge):
        index = edge["entry"]
        if index not in self.entries:
            raise _False(f"entry {index}, which is said to state an edge, is not in it")
        entry = self.entries[index]
        if entry is None:
            raise _Unknown(f"the body of entry {index}, which is said to state an edge, is withheld")
        stated = entry.statement is not None and (_states(entry, edge, index) or self._built_on(entry, edge))
        if not stated:
            raise _False(f"entry {index} does not state that {_short(edge['from'])} was made from {_short(edge['to'])} ({edge['relation']} {edge.get('role') or ''} {edge.get('path') or ''})")
        label = edge["evidence"] == "claimed" and edge["relation"] in ("base", "builtOf", "applied")
        if edge["evidence"] != self.grades[index] and not label:
            raise _False(f"an edge is said to be {edge['evidence']}, and entry {index} is {self.grades[index]}")

    def _built_on(self, entry, edge):
        """Whether the layers of an image begin with all those of another."""
        if edge["relation"] != "base" or edge["step"] != -1 or edge["from"] not in _keys(entry.statement["subject"][0]):
            return False
        layers = _layers(entry.statement)
        bases = (_layers(e.statement) for e in self.entries.values() if e and e.statement and edge["to"] in _keys(e.statement["subject"][0]))
        return any(base and len(base) < len(layers) and layers[: len(base)] == base for base in bases)

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
    """The body of an entry: what the ledger says of it, and what it states."""

    def __init__(self, body):
        (n,) = struct.unpack(">I", body[32:36])
        self.header, self.statement, self.signatures = _unjson(body[36 : 36 + n]), None, []
        try:
            envelope = _unjson(body[36 + n :])
            envelope = envelope.get("dsseEnvelope") or envelope
            payload, kind = base64.b64decode(envelope["payload"]), envelope["payloadType"].encode()
            self.signatures = [base64.b64decode(s["sig"]) for s in envelope.get("signatures") or []]
            self.message = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
            statement = _unjson(payload)
            statement["predicateType"], statement["subject"][0]["digest"]
            self.statement = statement
        except (KeyError, ValueError, TypeError, IndexError, AttributeError):
            pass  # The ledger holds what nobody can read, too: it states nothing.

    def signed(self, public):
        return any(_signed(public, s, self.message) for s in self.signatures)

    def rotates(self):
        return self.statement is not None and self.statement["predicateType"] == TRUST and self.statement["predicate"].get("action") == "rotate"

    def uses(self):
        """(keys, role, path) of all that a step used; None where its form is not retrace's own."""
        definition = self.statement["predicate"].get("buildDefinition") or {}
        if definition.get("buildType") not in (RUN, STEP):
            return None
        found = []
        for d in definition.get("resolvedDependencies") or []:
            notes = d.get("annotations") or {}
            if _keys(d):
                found.append((frozenset(_keys(d)), notes.get("role") or "input", notes.get("path") or ""))
        return found

    def made(self):
        """The keys of what a step made, and of its run."""
        products = [b for b in self.statement["predicate"].get("runDetails", {}).get("byproducts") or [] if (b.get("annotations") or {}).get("role") == "output"]
        return set().union(*(_keys(d) for d in self.statement["subject"] + products))


# Relations that an entry states of its subjects, and to its subjects.
_FROM_SUBJECT = {"base", "builtOf", "platform", "pins", "refers", "runs", "serves", "applied", "partOf", "located"}
_TO_SUBJECT = {"inIndex", "configOf", "holds"}
_RELATIONS = _FROM_SUBJECT | _TO_SUBJECT | {"alias"}


def _states(entry, edge, index):
    """Whether an entry states an edge: of a step, that it made the one and used
    the other in that role and path; of a relation, that it is about the right end
    and mentions the other."""
    statement, near, far = entry.statement, edge["from"], edge["to"]
    text = json.dumps(statement, ensure_ascii=False)

    def mentioned(key):
        value = key.partition(":")[2]
        return value in text or json.dumps(value, ensure_ascii=False)[1:-1] in text

    if edge["relation"] == "used":
        if edge["step"] != index or near not in entry.made():
            return False
        stated = entry.uses()
        if stated is None:
            return mentioned(far)
        return any(far in keys and role == (edge.get("role") or "") and path == (edge.get("path") or "") for keys, role, path in stated)
    about = set().union(*(_keys(d) for d in statement["subject"]))
    if edge["step"] != -1 or edge["relation"] not in _RELATIONS or near == far or edge["relation"] in _FROM_SUBJECT and near not in about or edge["relation"] in _TO_SUBJECT and far not in about:
        return False
    return mentioned(near) and mentioned(far)


def _layers(statement):
    """What the layers of an image unpack to; nothing where that is not stated."""
    layers = [layer.get("diffID") for layer in statement.get("predicate", {}).get("layers") or []]
    return layers if all(layers) else []


def _names(statement):
    """(name, keys of what it points at, run) as a statement names things."""
    if statement is None:
        return
    kind, predicate = statement["predicateType"].rpartition("/predicates/")[2], statement.get("predicate") or {}
    keys = _keys(statement["subject"][0])
    if predicate.get("deleted"):
        return
    if kind == "model/v1":
        target = _keys(predicate["resource"]) if predicate.get("resource") else keys
        yield f"model:{predicate.get('name')}@{predicate.get('version')}", target, predicate.get("run") or ""
    elif kind == "ref/v1":
        yield f"git:{predicate.get('repository')}#{predicate.get('ref')}", keys, ""
    elif kind == "tag/v1":
        yield f"image:{predicate.get('repository')}:{predicate.get('tag')}", keys, ""
    elif kind == "snapshot/v1":
        yield f"snapshot:{predicate.get('source')}", keys, ""
    elif kind == "deployment/v1":
        name, subjects = f"workload:{predicate.get('workload')}", statement["subject"]
        if subjects[0].get("name") == name:
            yield name, keys, ""
            name, subjects = name + "#image", subjects[1:]
        for suffix, things in ((name, subjects), (f"workload:{predicate.get('workload')}#model", predicate.get("models") or [])):
            if things:
                yield suffix, _keys(things[0]), ""


def _named_by(ref, name):
    """Whether a reference may mean a name (verify/ref.go)."""
    kind, _, of = name.partition(":")
    rest = ref[len(kind) + 1 :] if ref.startswith(kind + ":") else ref
    if rest == of:
        return True
    full = of.partition("#")[2]
    return (kind == "model" and rest == of.partition("@")[0] or kind == "image" and rest + ":latest" == of
            or kind == "git" and full in (rest, "refs/heads/" + rest, "refs/tags/" + rest))


def _keys(descriptor):
    """The keys by which statements may mean a descriptor."""
    digests = descriptor.get("digest") or {}
    keys = {f"{algorithm}:{value}" for algorithm, value in digests.items()}
    if "sha1" in digests:
        keys.add("gitCommit:" + digests["sha1"])  # as SLSA before v1 wrote it
    if not keys and descriptor.get("content"):
        keys.add("sha256:" + hashlib.sha256(base64.b64decode(descriptor["content"])).hexdigest())
    return keys or ({"uri:" + descriptor["uri"]} if descriptor.get("uri") else set())


def _key(resource):
    return resource["digest"] or "uri:" + (resource["uri"] or "")


def _trusted(trusts, at, entry):
    """Whether the trust entries of a key, in their order, trust it to state an entry."""
    trusted = False
    for t in trusts:
        if t["action"] == "revoke":
            trusted = trusted and at < _time(t.get("notAfter"))
        elif t["action"] == "trust":
            within = at >= _time(t.get("notBefore")) and (not t.get("notAfter") or at < _time(t["notAfter"]))
            trusted = trusted or (within and (not t.get("namespaces") or entry.header["namespace"] in t["namespaces"])
                                  and (not t.get("predicateTypes") or entry.statement["predicateType"] in t["predicateTypes"]))
    return trusted


def _time(text):
    """An instant in RFC 3339 as a number and the digits behind the second, to compare; none is before all."""
    if not text:
        return (float("-inf"), "")
    whole, fraction, zone = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)", text).groups()
    return datetime.fromisoformat(whole + ("+00:00" if zone == "Z" else zone)).timestamp(), (fraction or "").rstrip("0")


def _unjson(raw):
    """JSON without duplicate names, which readers take differently."""

    def once(pairs):
        if len({k for k, _ in pairs}) != len(pairs):
            raise ValueError("a name stands twice in an object")
        return dict(pairs)

    return json.loads(raw.decode(), object_pairs_hook=once)


def _unbase64(text):
    """Base64 in its one form."""
    raw = base64.b64decode(text, validate=True)
    if _b64(raw) != text:
        raise ValueError("base64 in another than its one form")
    return raw


def _public(pem):
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    return load_pem_public_key(pem.encode())


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
    else:
        raise _Unknown("a key in it is neither Ed25519, ECDSA nor RSA; `retrace verify` may know it")
    for way in ways:
        try:
            public.verify(signature, message, *way)
            return True
        except InvalidSignature:
            continue
    return False


def _vkey(key):
    """(name, hash, public key, text) of a C2SP verifier key."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    key = key or os.environ.get("RETRACE_LOG_KEY")
    if not key:
        raise RetraceError("verify needs the log's public key: the text of log.vkey or the name of that file", "BAD_INPUT")
    text = str(key).strip()
    try:
        if text.count("+") < 2 or os.path.exists(text):
            text = pathlib.Path(text).read_text().strip()
        name, digest, encoded = text.split("+", 2)
        raw = base64.b64decode(encoded, validate=True)
    except (OSError, ValueError) as e:
        raise RetraceError(f"reading the log's key: want the text of log.vkey or the name of that file: {e}", "BAD_INPUT") from e
    if len(raw) != 33 or raw[0] != 1:
        raise RetraceError("the log's key is not an Ed25519 verifier key (C2SP signed-note)", "BAD_INPUT")
    want = hashlib.sha256(name.encode() + b"\n" + raw).digest()[:4]
    if want.hex() != digest:
        raise RetraceError("the log's key does not have the hash that it states", "BAD_INPUT")
    return name, want, Ed25519PublicKey.from_public_bytes(raw[1:]), text


def _open_note(note, vkey):
    """(origin, size, root) of a checkpoint (C2SP tlog-checkpoint)."""
    text, _, lines = note.partition("\n\n")
    text += "\n"
    for line in lines.splitlines():
        dash, name, encoded = line.split(" ", 2)
        signature = base64.b64decode(encoded, validate=True)
        if dash == "—" and name == vkey[0] and signature[:4] == vkey[1]:
            if not _signed(vkey[2], signature[4:], text.encode()):
                break
            origin, size, root = text.split("\n")[:3]
            if origin != vkey[0]:
                raise _False("the checkpoint is of another log")
            return origin, int(size), _unbase64(root)
    raise _False("the checkpoint is not signed by the key given for it")


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
    """JSON as RFC 8785 has it, for values of text, whole numbers and floats."""

    def order(v):
        if isinstance(v, dict):
            return {k: order(v[k]) for k in sorted(v, key=lambda k: k.encode("utf-16-be"))}
        return [order(x) for x in v] if isinstance(v, (list, tuple)) else v

    return json.dumps(order(value), separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


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
    """The digest retraceTree1 of a folder (docs/formats.md, "Folders")."""
    records = []

    def walk(at, prefix):
        for entry in os.scandir(at):
            name = prefix + os.fsencode(entry.name)
            head = struct.pack(">I", len(name)) + name
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISLNK(mode):
                target = os.fsencode(os.readlink(entry.path))
                records.append((name, head + b"l" + struct.pack(">I", len(target)) + target))
            elif stat.S_ISDIR(mode):
                records.append((name, head + b"d"))
                walk(entry.path, name + b"/")
            elif stat.S_ISREG(mode):
                size = entry.stat().st_size
                records.append((name, head + b"f" + bytes([1 if mode & 0o100 else 0]) + struct.pack(">Q", size) + _hash(entry.path)))
            else:
                raise RetraceError(f"{entry.path} is neither a file nor a folder nor a link", "BAD_INPUT")

    walk(folder, b"")
    digest = hashlib.sha256(b"retraceTree1\n")
    for _, record in sorted(records):
        digest.update(record)
    return digest.hexdigest()


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
