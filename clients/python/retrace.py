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
import os
import pathlib
import platform
import secrets
import stat
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from datetime import datetime, timezone

__version__ = "0.1.0"
__all__ = ["connect", "Client", "RetraceError", "step", "Lineage", "Verification"]

PROVENANCE = "https://slsa.dev/provenance/v1"
MODEL = "https://github.com/retrace-ledger/retrace/predicates/model/v1"
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
    record and to restore, is given, or read from token_file or RETRACE_TOKEN_FILE
    each time, or RETRACE_TOKEN, or that of the local server.
    """
    token_file = token_file or os.environ.get("RETRACE_TOKEN_FILE")
    token = token or os.environ.get("RETRACE_TOKEN")
    url = url or os.environ.get("RETRACE_SERVER")
    if not url:
        local = _local_server(dir)
        url, token = local["address"], token or local.get("token")
    return Client(url, token, token_file)


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
        self._token, self._token_file = token, token_file

    def __repr__(self):
        return f"retrace.connect({self.url!r})"

    def query(self, text, variables=None):
        """Answer a GraphQL query: its data. An error of any field is raised."""
        body = json.dumps({"query": text, "variables": variables or {}}).encode()
        headers = {"Content-Type": "application/json", "Accept": "application/graphql-response+json", **self._authorization()}
        request = urllib.request.Request(self.url + "/graphql", body, headers)
        try:
            with urllib.request.urlopen(request) as answer:
                raw = answer.read()
        except urllib.error.HTTPError as e:
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
        return Resource(self, ref, self._one(q, ref, at, as_of_size), at, as_of_size)

    def resource(self, ref, at=None, as_of_size=None):
        """Whatever a reference refers to: a digest, image:…, git:…, snapshot:…, run:…, a URI."""
        q = "query($ref: String!, $at: Time, $size: Long) { found: resource(ref: $ref, at: $at, asOfSize: $size) { %s name } }"
        return Resource(self, ref, self._one(q, ref, at, as_of_size), at, as_of_size)

    def _one(self, query, ref, at, size):
        fields = "id kind uri digest digests mediaType size content state"
        return self.query(query % fields, {"ref": ref, "at": at, "size": size})["found"]

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
        direction = "DOWNSTREAM" if down else "UPSTREAM"
        found = self.query(q, {"ref": ref, "d": direction, "depth": depth, "at": at, "size": as_of_size})["lineage"]
        return Lineage(found)

    def diff(self, left, right):
        """Why two resources differ, causes first. Models may be given as objects."""
        q = """query($l: String!, $r: String!) { diff(left: $l, right: $r) { same size leftMetrics rightMetrics
          differences { kind name left right depth cause } } }"""
        return Diff(_ref(left), _ref(right), self.query(q, {"l": _ref(left), "r": _ref(right)})["diff"])

    def gaps(self, ref):
        """What stands in the way of restoring and reproducing, and a score of 100."""
        q = "query($ref: String!) { gaps(ref: $ref) { score size gaps { rule severity name detail explain remedy } } }"
        return Gaps(_ref(ref), self.query(q, {"ref": _ref(ref)})["gaps"])

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
        if job["verdict"] != "COMPLETE":
            raise RetraceError(f"restoring {_ref(ref)} into {job['place']}: {job['verdict'] or job['state']}: {job['problem']}", "INCOMPLETE")
        return job

    def keep(self, path):
        """Send a file or folder to the server, which keeps it for restoring; what
        it keeps already is not sent. Return its key."""
        key = "%s:%s" % next(iter(_digest(path).items()))
        url = f"{self.url}/v1/content/{key.replace(':', '%3A')}"
        try:
            self._send("HEAD", url)
            return key
        except RetraceError as e:
            if e.code != "NOT_FOUND":
                raise
        if os.path.isdir(path):
            with tempfile.TemporaryFile() as archive:
                _tar(path, archive)
                archive.seek(0)
                self._send("PUT", url, archive)
        else:
            with open(path, "rb") as f:
                self._send("PUT", url, f)
        return key

    def _send(self, method, url, body=None):
        headers = {"Content-Type": "application/octet-stream"} if body else {}
        if body:
            headers["Content-Length"] = str(os.fstat(body.fileno()).st_size)
        request = urllib.request.Request(url, body, {**headers, **self._authorization()}, method=method)
        try:
            with urllib.request.urlopen(request) as answer:
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
            token = pathlib.Path(self._token_file).read_text().strip()
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
        return self.client.gaps(self.ref)

    def diff(self, other):
        return self.client.diff(self.ref, other)

    def verify(self, key=None):
        """Check the proof of its lineage locally: see Lineage.verify."""
        return self.lineage().verify(key)

    def restore(self, target=None, progress=None):
        return self.client.restore(self.ref, target, progress)


class Lineage:
    """The part of the graph that an answer showed: resources, steps and edges as
    dictionaries, the size of the ledger that it speaks for, and its proof."""

    def __init__(self, found):
        self.ref, self.name, self.size = found["ref"], found["name"], found["size"]
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


def _draw(lineage):
    """The graph from left to right: resources in boxes, steps between them."""
    links = []
    for e in lineage.edges:
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
        out.append(f'<path d="M{x1} {y1} C{mid} {y1} {mid} {y2} {x2} {y2}" fill="none" stroke="#888"{dash}><title>{html.escape(label)}{" (claimed)" if claimed else ""}</title></path>')
    for node, (x, y) in place.items():
        n = lineage._nodes.get(node)
        if n:
            first, second, kind, w = n["name"] or n["uri"] or n["kind"] or "", f'{n["kind"] or ""} {_short(n["digest"]) if n["digest"] else ""}', n["kind"], _WIDTH
            full = f'{first}\n{n["digest"] or n["uri"] or ""}'
        else:
            s = lineage._steps.get(node, {})
            first, second, kind, w = _command(s.get("name") or "step"), s.get("evidence") or "", "step", _WIDTH // 2
            full = f'{s.get("name") or first}\nrun {s.get("run")}'
        out.append(f'<g><title>{html.escape(full)}</title><rect x="{x}" y="{y}" width="{w}" height="{_HEIGHT}" rx="{4 if n else 18}" fill="{_FILL.get(kind, "#eeeeee")}" stroke="#555"/>')
        out.append(f'<text x="{x + 8}" y="{y + 17}">{html.escape(_clip(first, w))}</text><text x="{x + 8}" y="{y + 32}" fill="#666" font-size="10">{html.escape(_clip(second, w))}</text></g>')
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
    """A proof that cannot be checked here."""


def verify(bundle, key=None, lineage=None):
    """Check a bundle with the log's public key: that the log signed its
    checkpoint, that each entry is in the log, that the observer that the log
    named signed those that are graded observed, and that each edge is stated by
    an entry that mentions both its ends. `retrace verify` checks more: it walks
    the statements and compares every edge."""
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError:
        return Verification(None, "the package cryptography is not installed, so no signature can be checked; `pip install cryptography`, or use `retrace verify`")

    def ed25519(public, signature, message, what):
        try:
            public.verify(signature, message)
        except InvalidSignature:
            raise _False(f"{what} is not signed by the key given for it") from None

    def observes(public):
        if isinstance(public, Ed25519PublicKey):
            return public.verify
        if isinstance(public, ec.EllipticCurvePublicKey):  # of cosign
            return lambda signature, message: public.verify(signature, message, ec.ECDSA(hashes.SHA256()))
        raise _Unknown("the observer's key is neither Ed25519 nor ECDSA; `retrace verify` may know it")

    checked = []
    try:
        vkey = _vkey(key)
        doc = json.loads(bundle)
        if doc.get("format") != "retrace bundle v1":
            raise _False("it is not a bundle of retrace")
        public = Ed25519PublicKey.from_public_bytes(vkey[2])
        origin, size, root = _open_note(doc["checkpoint"], vkey, lambda s, m: ed25519(public, s, m, "the checkpoint"))
        checked.append(f"the log {origin} signed its first {size} entries")
        claim, entries = doc["claim"], {}
        if not claim["size"] <= size:
            raise _False("it speaks for more entries than were signed")
        for e in doc["entries"]:
            index = e["index"]
            body = base64.b64decode(e["body"], validate=True) if "body" in e else None
            leaf = hashlib.sha256(b"retrace leaf v1\n" + body).digest() if body else base64.b64decode(e["commitment"], validate=True)
            _inclusion(leaf, index, size, [base64.b64decode(h, validate=True) for h in e.get("proof") or []], root)
            entries[index] = _statement(body) if body else None
        checked.append(f"{len(entries)} entries are in it, byte for byte")
        if 0 not in entries or entries[0] is None:
            raise _False("the first entry, which names the observer, is not in it")
        genesis = entries[0][0]["predicate"]
        if genesis.get("origin") != origin or genesis.get("logKey", "").strip() != vkey[3]:
            raise _False("the first entry is of another log, or its key was rotated since; `retrace verify` follows rotations")
        observer = observes(load_pem_public_key(genesis["observerKey"].encode()))
        observed = {i for i, s in entries.items() if s and _signed(s, observer, InvalidSignature)}
        if 0 not in observed:
            raise _False("the first entry is not signed by the observer that it names")
        checked.append(f"{len(observed)} of them are signed by the log's own observer")
        if claim.get("name"):
            _name(claim, entries)
            checked.append(f"entry {claim['entry']} states that {claim['name']} is {_short(claim['root'])}")
        for e in claim.get("edges") or []:
            _edge(e, entries, observed, claim["size"])
        checked.append(f"{len(claim.get('edges') or [])} edges are stated by entries that mention both ends")
        if lineage is not None:
            _same(claim, lineage)
            checked.append("they are the edges shown")
    except _Unknown as e:
        return Verification(None, str(e), checked)
    except _False as e:
        return Verification(False, str(e), checked)
    except (KeyError, ValueError, TypeError, IndexError, struct.error) as e:
        return Verification(False, f"it is not a well-formed bundle: {type(e).__name__}: {e}", checked)
    return Verification(True, "", checked, ["that the statements imply these edges and no others, and who is trusted for what: `retrace verify` does"])


def _vkey(key):
    """(name, hash, public key, text) of a C2SP verifier key."""
    key = key or os.environ.get("RETRACE_LOG_KEY")
    if not key:
        raise RetraceError("verify needs the log's public key: the text of log.vkey or the name of that file", "BAD_INPUT")
    text = str(key).strip()
    if "+" not in text or os.path.exists(text):
        text = pathlib.Path(text).read_text().strip()
    name, digest, encoded = text.split("+", 2)
    raw = base64.b64decode(encoded, validate=True)
    if len(raw) != 33 or raw[0] != 1:
        raise RetraceError("the log's key is not an Ed25519 verifier key (C2SP signed-note)", "BAD_INPUT")
    want = hashlib.sha256(name.encode() + b"\n" + raw).digest()[:4]
    if want.hex() != digest:
        raise RetraceError("the log's key does not have the hash that it states", "BAD_INPUT")
    return name, want, raw[1:], text


def _open_note(note, vkey, check):
    """(origin, size, root) of a checkpoint (C2SP tlog-checkpoint)."""
    text, _, lines = note.partition("\n\n")
    text += "\n"
    for line in lines.splitlines():
        dash, name, encoded = line.split(" ", 2)
        signature = base64.b64decode(encoded, validate=True)
        if dash == "—" and name == vkey[0] and signature[:4] == vkey[1]:
            check(signature[4:], text.encode())
            origin, size, root = text.split("\n")[:3]
            if origin != vkey[0]:
                raise _False("the checkpoint is of another log")
            return origin, int(size), base64.b64decode(root, validate=True)
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


def _statement(body):
    """(statement, envelope, header) of an entry's body."""
    (n,) = struct.unpack(">I", body[32:36])
    header, envelope = json.loads(body[36 : 36 + n]), json.loads(body[36 + n :])
    envelope = envelope.get("dsseEnvelope") or envelope
    return json.loads(base64.b64decode(envelope["payload"])), envelope, header


def _signed(entry, check, invalid):
    """Whether a signature of the envelope is one that check takes (DSSE)."""
    envelope = entry[1]
    kind, payload = envelope["payloadType"].encode(), base64.b64decode(envelope["payload"])
    message = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
    for s in envelope.get("signatures") or []:
        try:
            check(base64.b64decode(s["sig"]), message)
            return True
        except invalid:
            continue
    return False


def _name(claim, entries):
    entry = entries.get(claim["entry"])
    kind, _, name = claim["name"].partition(":")
    predicate = entry[0]["predicate"] if entry else {}
    stated = kind != "model" or name == f"{predicate.get('name')}@{predicate.get('version')}"
    if not entry or not stated or claim["root"].partition(":")[2] not in json.dumps(entry[0], ensure_ascii=False):
        raise _False(f"no entry in it states that {claim['name']} is {claim['root']}")


def _edge(edge, entries, observed, size):
    index = edge["entry"]
    entry = entries.get(index)
    if entry is None or index >= size:
        raise _False(f"the entry {index}, which is said to state an edge, is not in it")
    if edge["evidence"] == "observed" and index not in observed:
        raise _False(f"entry {index} is said to be observed, and the observer did not sign it")
    ends = [edge["from"], edge["to"]]
    if edge["relation"] == "base" and edge["evidence"] == "claimed":
        ends = ends[:1]  # the other end may be known by its layers alone
    text = json.dumps(entry[0], ensure_ascii=False)
    for end in ends:
        if end.partition(":")[2] not in text and json.dumps(end.partition(":")[2], ensure_ascii=False)[1:-1] not in text:
            raise _False(f"entry {index} does not mention {end}, an end of the edge that it is said to state")


def _same(claim, lineage):
    def proved(e):
        return e["from"], e["to"], e["relation"], e["entry"]

    def shown(e):
        return _key(lineage._nodes[e["from"]["id"]]), _key(lineage._nodes[e["to"]["id"]]), e["relation"], e["entry"]["index"]

    if [proved(e) for e in claim.get("edges") or []] != [shown(e) for e in lineage.edges] or claim["size"] != lineage.size:
        raise _False("it proves other edges than those shown")


def _key(resource):
    return resource["digest"] or "uri:" + (resource["uri"] or "")


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
        if model and ":" not in model:
            raise RetraceError(f"model {model!r}: want NAME:VERSION", "BAD_INPUT")
        if model and not self.outputs:
            raise RetraceError("a model is an output: name it in outputs", "BAD_INPUT")

    def __enter__(self):
        self._started = _now()
        self._used = [self._kept(p, "input") for p in self.inputs]
        self._before = {str(p): _digest(p) for p in self.outputs if os.path.exists(p)}
        if self._code is None:
            self._code = _source(sys._getframe(1))
        return self

    def __exit__(self, kind, error, trace):
        made = []
        for p in self.outputs:
            if not os.path.exists(p):
                self._gap("output-missing", str(p))
            elif self._before.get(str(p)) == _digest(p):
                self._gap("output-unchanged", str(p))
                self._used.append(self._kept(p, "input"))
            else:
                made.append(self._kept(p, None))
        for before, p in zip(self._used, self.inputs):
            if not os.path.exists(p) or _digest(p) != before["digest"]:
                self._gap("input-changed", str(p))
        self.entries.append(self.client.record(self._provenance(made, kind)))
        if self.model and kind is None:
            name, _, version = self.model.partition(":")
            wanted = next((m for m in made if m["digest"] == _digest(self.outputs[0])), None)
            if wanted is None:
                raise RetraceError(f"{self.outputs[0]} was not made by the step, so no version of {name} was named", "BAD_INPUT")
            predicate = {"name": name, "version": version, "run": self.run, "path": wanted["name"]}
            if self.metrics:
                predicate["metrics"] = self.metrics
            self.entries.append(self.client.record(_in_toto(MODEL, predicate, [wanted])))
        return False

    def _kept(self, path, role):
        """A file or folder as statements name it, which the server now keeps."""
        found = _describe(path, role)
        try:
            self.client.keep(path)
            found["annotations"]["content"] = "store"
        except RetraceError as e:
            self._gap("content-not-kept", f"{found['name']}: {e}")
        return found

    def _gap(self, rule, detail):
        self._gaps.append({"rule": rule, "detail": detail})

    def _provenance(self, made, failed):
        deps = list(self._used)
        for role_kind, text in (("cell", self._code), ("packages", _packages())):
            if text:
                raw = text.encode()
                deps.append({"name": role_kind, "digest": {"sha256": hashlib.sha256(raw).hexdigest()}, "mediaType": "text/plain", "content": _b64(raw),
                             "annotations": {"role": "definition", "kind": role_kind}})
        notebook = _notebook()
        if notebook:
            deps.append({**_describe(notebook, "definition")})
        commit, dirty, remote = _git()
        if commit:
            code = {"name": "commit", "digest": {"gitCommit": commit}, "annotations": {"role": "code", "kind": "git"}}
            if remote:
                code["uri"] = remote
            deps.append(code)
            if dirty:
                self._gap("dirty-tree", dirty)
        parameters = {"engine": "python", "task": self.name, "status": "Failed" if failed else "Succeeded"}
        if self.params:
            parameters["parameters"] = {k: v if isinstance(v, str) else json.dumps(v) for k, v in self.params.items()}
        byproducts = [{"name": "retrace_exitStatus", "mediaType": "application/json", "content": _b64(b"1" if failed else b"0")}]
        if self.metrics:
            byproducts.append({"name": "retrace_metrics", "mediaType": "application/json", "content": _b64(_canonical(self.metrics))})
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
    """A file or folder as statements name it: below the working directory by its
    relative path, else by its absolute one."""
    path = pathlib.Path(path)
    full = path.resolve()
    try:
        name = full.relative_to(pathlib.Path.cwd().resolve()).as_posix()
    except ValueError:
        name = full.as_posix()
    annotations = {"path": name, "type": "folder" if path.is_dir() else "file"}
    if path.is_file():
        annotations["size"] = str(path.stat().st_size)
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
    """(commit, what is uncommitted, URI of the remote) of the working directory."""

    def git(*args):
        done = subprocess.run(["git", *args], capture_output=True, text=True)
        return done.stdout.rstrip() if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "HEAD")
    except OSError:
        return "", "", ""
    if not commit:
        return "", "", ""
    changes = [line[3:] for line in git("status", "--porcelain").splitlines()]
    remote = git("remote", "get-url", "origin")
    uri = ""
    if remote.startswith(("https://", "http://", "ssh://")):
        scheme, _, rest = remote.partition("://")
        user, at, host = rest.partition("@")
        uri = f"git+{scheme}://{host if at and scheme != 'ssh' else rest}"
    return commit, ", ".join(changes[:10]), uri.removesuffix(".git") if hasattr(uri, "removesuffix") else uri


def _source(frame):
    """The text of the cell or file that a frame is of."""
    import linecache

    lines = linecache.getlines(frame.f_code.co_filename, frame.f_globals)
    return "".join(lines)


def _notebook():
    """The notebook file, where the kernel says so."""
    name = os.environ.get("JPY_SESSION_NAME") or globals().get("__vsc_ipynb_file__")
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
        if what not in actions:
            raise RetraceError(f"%retrace {what}: want one of {', '.join(actions)}", "BAD_INPUT")
        return actions[what](*rest)

    ipython.register_magic_function(magic, "line_cell", "retrace")


def _run_cell(ipython, argparse, words, cell):
    parser = argparse.ArgumentParser("%%retrace step", exit_on_error=False)
    parser.add_argument("name")
    parser.add_argument("--in", dest="inputs", action="append", default=[])
    parser.add_argument("--out", dest="outputs", action="append", default=[])
    parser.add_argument("--param", action="append", default=[], metavar="K=V")
    parser.add_argument("--model", metavar="NAME:VERSION")
    args = parser.parse_args(words)
    params = dict(p.partition("=")[::2] for p in args.param)
    with step(args.name, inputs=args.inputs, outputs=args.outputs, params=params, model=args.model, code=cell) as s:
        ipython.user_ns["step"] = s
        ipython.run_cell(cell).raise_error()
    return s.entries
