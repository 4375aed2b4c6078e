"""Tests against a real server: RETRACE names the binary, else Go builds it."""

import base64
import builtins
import collections
import concurrent.futures
import copy
import hashlib
import http.server
import json
import os
import pathlib
import random
import shutil
import struct
import subprocess
import tempfile
import threading
import time
import unittest
import xml.dom.minidom
from unittest import mock

import retrace

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent


def need(test, module):
    try:
        __import__(module)
    except ImportError:
        if os.environ.get("RETRACE_TEST_NOSKIP") == "1":
            raise
        test.skipTest(module + " is not installed")


def setUpModule():
    global TMP, BINARY
    TMP = tempfile.mkdtemp(prefix="retrace-python-")
    BINARY = os.environ.get("RETRACE")
    if not BINARY:
        BINARY = os.path.join(TMP, "retrace")
        subprocess.run(["go", "build", "-o", BINARY, "./cmd/retrace"], cwd=ROOT, check=True)


def tearDownModule():
    shutil.rmtree(TMP)


class World(unittest.TestCase):
    """A ledger in a working directory of its own, with a server."""

    def setUp(self):
        self.dir = tempfile.mkdtemp(dir=TMP)
        self.before = os.getcwd()
        os.chdir(self.dir)
        self.addCleanup(os.chdir, self.before)
        self.run_retrace("init")
        for version, data in (("1", "a\n"), ("2", "b\n")):
            pathlib.Path("data.csv").write_text(data)
            self.run_retrace("run", "--in", "data.csv", "--out", "model.bin", "--model", "forecast", "--param", "rate=0." + version,
                             "--", "sh", "-c", "cat data.csv data.csv >model.bin")
        # Below the working directory, as it is found: connect() without a url.
        self.server = subprocess.Popen([BINARY, "serve", "--listen", "127.0.0.1:0"], stderr=subprocess.DEVNULL)
        self.addCleanup(self.server.wait)
        self.addCleanup(self.server.terminate)
        for _ in range(200):
            try:
                self.client = retrace.connect()
                self.client.query("{ checkpoint { size } }")
                break
            except retrace.RetraceError as e:
                if e.code != "UNREACHABLE":
                    raise
                time.sleep(0.05)
        self.key = pathlib.Path(".retrace/log.vkey").read_text()

    def run_retrace(self, *args):
        subprocess.run([BINARY, *args], check=True, capture_output=True)


class Ask(World):
    def test_model(self):
        m = self.client.model("forecast")
        self.assertEqual((m.name, m.version, m.kind, m.evidence), ("forecast", "2", "model", "observed"))
        self.assertEqual([n["name"] for n in m.inputs("file") if n["name"] == "data.csv"], ["data.csv"])
        self.assertEqual([x.ref for x in self.client.models()], ["model:forecast@2", "model:forecast@1"])
        self.assertIn("forecast@2", repr(m))
        self.assertEqual(self.client.resource(m.digest).digest, m.digest)

    def test_as_of(self):
        size = self.client.query("{ models(first: 1) { nodes { entry { index } } } }")["models"]["nodes"][0]["entry"]["index"] + 1
        self.assertEqual(self.client.model("forecast", as_of_size=size).version, "1")
        self.assertEqual(self.client.lineage("forecast", as_of_size=size).size, size)
        then = self.client.model("forecast", as_of_size=size)
        self.assertEqual((then.gaps().size, then.diff("forecast@1").size), (size, size))

    def test_errors(self):
        for call, code in (
            (lambda: self.client.model("nobody"), "NOT_FOUND"),
            (lambda: self.client.query("{ nothing }"), "BAD_INPUT"),
            (lambda: retrace.connect("http://127.0.0.1:1").model("x"), "UNREACHABLE"),
            (lambda: retrace.connect(self.client.url).record({}), "FORBIDDEN"),
            (lambda: retrace.connect(self.client.url, "wrong").model("forecast"), "UNAUTHORIZED"),
            (lambda: retrace.connect(dir="/"), "UNREACHABLE"),
        ):
            with self.assertRaises(retrace.RetraceError) as caught:
                call()
            self.assertEqual(caught.exception.code, code, caught.exception)

    def test_token_file(self):
        name = pathlib.Path(self.dir, "token")
        name.write_text(json.loads(pathlib.Path(".retrace/server.json").read_text())["token"] + "\n")
        with mock.patch.dict(os.environ, {"RETRACE_SERVER": self.client.url, "RETRACE_TOKEN_FILE": str(name)}):
            self.assertEqual(retrace.connect().keep("data.csv"), "sha256:" + retrace._digest("data.csv")["sha256"])

        with mock.patch.dict(os.environ, {"RETRACE_TOKEN_FILE": str(name)}):
            self.assertEqual(retrace.connect(self.client.url, "given")._authorization(), {"Authorization": "Bearer given"})
        with self.assertRaises(retrace.RetraceError) as caught:
            retrace.connect(self.client.url, token_file="nowhere").model("forecast")
        self.assertEqual(caught.exception.code, "BAD_INPUT")

    def test_token_stays_here(self):
        got = []

        class Elsewhere(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                got.append(self.headers["Authorization"])
                self.send_response(200)
                self.end_headers()

            def do_POST(self):
                self.send_response(302)
                self.send_header("Location", f"http://127.0.0.1:{server.server_port}/graphql")
                self.end_headers()

            def log_message(self, *args):
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Elsewhere)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        with self.assertRaises(retrace.RetraceError):
            retrace.connect(f"http://127.0.0.1:{server.server_port}", "sesame").model("forecast")
        self.assertEqual(got, [])

    def test_picture(self):
        lineage = self.client.model("forecast").lineage()
        svg = lineage._repr_svg_()
        xml.dom.minidom.parseString(svg)
        self.assertIn("data.csv", svg)
        lineage.resources[0]["name"] = "<script>&\x00\x1b"
        self.assertNotIn("<script>", lineage._repr_svg_())
        xml.dom.minidom.parseString(lineage._repr_svg_())
        lineage.edges = lineage.edges * 200
        self.assertIn("edges further away are not drawn", lineage._repr_svg_())
        down = self.client.lineage(self.client.model("forecast").inputs("file")[0]["digest"], down=True)
        xml.dom.minidom.parseString(down._repr_svg_())

    def test_pandas(self):
        need(self, "pandas")
        frame = self.client.model("forecast").lineage().to_pandas()
        self.assertIn("data.csv", set(frame["to"]))

    def test_diff_gaps_impact(self):
        diff = self.client.diff("forecast@1", self.client.model("forecast@2"))
        self.assertFalse(diff.same)
        self.assertEqual({(d["kind"], d["name"]) for d in diff.causes}, {("input", "data.csv"), ("parameter", "rate")})
        self.assertIn("CAUSE", repr(diff))
        gaps = self.client.gaps("forecast")
        self.assertEqual((list(gaps), gaps.score), ([], 100))
        data = next(n for n in self.client.model("forecast@2").inputs("file") if n["name"] == "data.csv")
        self.assertEqual([r["name"] for r in self.client.impact(data["digest"])], ["model:forecast@2"])

    def test_restore(self):
        seen = []
        job = self.client.restore("forecast@1", progress=lambda done, total: seen.append((done, total)))
        self.assertEqual(job["verdict"], "COMPLETE")
        self.assertEqual(seen[-1][0], seen[-1][1])
        self.assertEqual(pathlib.Path(".retrace", job["place"], "resource", "model.bin").read_text(), "a\na\n")


class Prove(World):
    def setUp(self):
        super().setUp()
        self.lineage = self.client.model("forecast").lineage()

    def check(self, bundle, key=None):
        need(self, "cryptography")
        return retrace.verify(bundle, key or self.key, self.lineage)

    def test_verified(self):
        v = self.check(self.lineage.proof)
        self.assertTrue(v, v)
        self.assertTrue(self.lineage.verify(".retrace/log.vkey"))
        self.assertIn("VERIFIED", repr(v))

    def changed(self, change):
        doc = json.loads(self.lineage.proof)
        change(doc)
        return (retrace._canonical(doc) + b"\n").decode()

    def test_every_part_counts(self):
        def flip(text):
            raw = bytearray(base64.b64decode(text))
            raw[len(raw) // 2] ^= 1
            return base64.b64encode(raw).decode()

        def swap(doc):
            doc["entries"][1]["body"], doc["entries"][0]["body"] = doc["entries"][0]["body"], doc["entries"][1]["body"]

        def edge(doc):
            return next(e for e in doc["claim"]["edges"] if e["role"] == "input")

        def turn(doc):
            e = edge(doc)
            e["from"], e["to"] = e["to"], e["from"]

        need(self, "cryptography")
        last = self.lineage.size
        for name, change, ok in (
            ("a body", lambda d: d["entries"][-1].update(body=flip(d["entries"][-1]["body"])), False),
            ("a proof", lambda d: d["entries"][-1]["proof"].__setitem__(0, flip(d["entries"][-1]["proof"][0])), False),
            ("a proof too long", lambda d: d["entries"][-1]["proof"].append(d["entries"][-1]["proof"][0]), False),
            ("an index", lambda d: d["entries"][-1].update(index=d["entries"][-1]["index"] + 1), False),
            ("two bodies", swap, False),
            ("the size", lambda d: d.update(checkpoint=d["checkpoint"].replace(f"\n{last}\n", f"\n{last + 1}\n", 1)), False),
            ("an entry left out", lambda d: d["entries"].pop(-1), False),
            ("an edge's end", lambda d: edge(d).update(to="sha256:" + "a" * 64), False),
            ("an edge's ends turned", turn, False),
            ("an edge's role", lambda d: edge(d).update(role="tool"), False),
            ("an edge's path", lambda d: edge(d).update(path="date.csv"), False),
            ("an edge's relation", lambda d: edge(d).update(relation="partOf"), False),
            ("an edge's step", lambda d: edge(d).update(step=0), False),
            ("an edge's entry", lambda d: edge(d).update(entry=0), False),
            ("an edge's evidence", lambda d: edge(d).update(evidence="attested"), False),
            ("an edge's depth", lambda d: edge(d).update(depth=3), False),
            ("an edge less", lambda d: d["claim"]["edges"].remove(edge(d)), False),
            ("an edge twice", lambda d: d["claim"]["edges"].append(edge(d)), False),
            ("the root", lambda d: d["claim"].update(root="sha256:" + "a" * 64), False),
            ("the name", lambda d: d["claim"].update(name="model:forecast@1"), False),
            ("the run", lambda d: d["claim"].update(run="0" * 16), False),
            ("the question", lambda d: d["claim"].update(ref="model:forecast@1"), False),
            ("another size", lambda d: d["claim"].update(size=last + 5), False),
            ("no proof", lambda d: d["entries"][-1].pop("proof"), None),
            ("no genesis", lambda d: d["entries"].pop(0), None),
            ("no order", lambda d: d["entries"].reverse(), None),
            ("another format", lambda d: d.update(format="retrace bundle v9"), None),
            ("a member more", lambda d: d.update(more=1), None),
            ("no claim", lambda d: d.pop("claim"), None),
        ):
            v = retrace.verify(self.changed(change), self.key)
            self.assertIs(v.ok, ok, f"{name}: {v}")
            self.assertFalse(v, name)
        for text in ("not JSON", self.lineage.proof.rstrip("\n"), self.lineage.proof.replace("{", "{ ", 1), '{"format":1,"format":2}'):
            self.assertIsNone(self.check(text).ok, text[:30])

    def test_judged_as_retrace_does(self):
        """On everything that can be asked about, this module and `retrace verify` agree."""
        need(self, "cryptography")
        for ref in ("forecast", "forecast@1", "#1", self.lineage.resources[0]["digest"], self.lineage.resources[1]["digest"]):
            for down in (False, True):
                lineage = self.client.lineage(ref, down=down)
                pathlib.Path("b").write_text(lineage.proof)
                done = subprocess.run([BINARY, "verify", "b", "--key", ".retrace/log.vkey"], capture_output=True)
                v = lineage.verify(".retrace/log.vkey")
                self.assertIs(v.ok, {0: True, 1: False, 2: None}[done.returncode], f"{ref} {down}: {v} {done.stderr}")

    def test_the_answer_that_was_asked_for(self):
        need(self, "cryptography")

        class Liar(retrace.Client):
            """Asks the server about another version than it was asked for."""

            def query(self, text, variables=None):
                if instead in text:
                    variables = {**variables, "ref": "model:forecast@1"}
                return super().query(text, variables)

        liar = Liar(self.client.url)
        instead = "lineage("
        self.assertIs(liar.model("forecast@2").verify(self.key).ok, False)
        self.assertIs(liar.lineage("forecast@2").verify(self.key).ok, False)
        instead = "model("
        with self.assertRaises(retrace.RetraceError):
            liar.model("forecast@2")
        model = self.client.model("forecast@2")
        model.digest = "sha256:" + "a" * 64
        self.assertIs(model.verify(self.key).ok, False)
        self.lineage.edges[0]["role"] = "input" if self.lineage.edges[0]["role"] != "input" else "tool"
        self.assertIs(self.lineage.verify(self.key).ok, False)

    def test_withheld(self):
        need(self, "cryptography")
        subprocess.run([BINARY, "run", "--in", "model.bin", "--out", "next", "--model", "next", "--", "cp", "model.bin", "next"], check=True, capture_output=True)
        step = next(e["entry"] for e in json.loads(self.client.lineage("next").proof)["claim"]["edges"] if e["depth"] > 0)
        self.run_retrace("prove", "next", "--redact", str(step), "--bundle", "b")
        done = subprocess.run([BINARY, "verify", "b", "--key", ".retrace/log.vkey"], capture_output=True)
        v = retrace.verify(pathlib.Path("b").read_text(), self.key)
        self.assertIs(v.ok, {0: True, 1: False, 2: None}[done.returncode], f"{v} {done.stderr}")
        self.assertIn("withheld", repr(v))

    def test_grades(self):
        need(self, "cryptography")
        token = json.loads(pathlib.Path(".retrace/server.json").read_text())["token"]
        agent = {**os.environ, "RETRACE_TOKEN": token, "XDG_CONFIG_HOME": self.dir, "HOME": self.dir}
        subprocess.run([BINARY, "--server", self.client.url, "run", "--in", "data.csv", "--out", "theirs", "--model", "theirs", "--", "cp", "data.csv", "theirs"],
                       check=True, capture_output=True, env=agent)
        key = next(pathlib.Path(self.dir).rglob("agent.pub"))
        for change, grade in ((None, "claimed"), (("trust",), "attested"), (("revoke", "--since", "1h ago", "--reason", "stolen"), "claimed")):
            if change:
                self.run_retrace("keys", change[0], str(key), *change[1:])
            lineage = self.client.lineage("theirs")
            self.assertEqual({e["evidence"] for e in lineage.edges}, {grade})
            self.assertTrue(lineage.verify(self.key), lineage.verify(self.key))
            self.lineage = lineage
            for other in {"claimed", "attested", "observed"} - {grade}:
                v = retrace.verify(self.changed(lambda d: [e.update(evidence=other) for e in d["claim"]["edges"]]), self.key)
                self.assertIs(v.ok, False, (grade, other))

    def test_identities(self):
        """Certificates are not verified here: what rests on one could not be checked."""
        need(self, "cryptography")
        corpus = ROOT.parent / "shared/corpus/sigstore/intoto-with-custom-trust-root"
        if not corpus.exists():
            if os.environ.get("RETRACE_TEST_NOSKIP") == "1":
                raise FileNotFoundError(corpus)
            self.skipTest("../shared/corpus is not beside this clone")
        beacon = "https://github.com/sigstore-conformance/extremely-dangerous-public-oidc-beacon/.github/workflows/extremely-dangerous-oidc-beacon.yml@refs/heads/main"
        made = "sha256:" + hashlib.sha256((corpus / "artifact").read_bytes()).hexdigest()
        self.run_retrace("record", str(corpus / "bundle.sigstore.json"))

        def trust(subject, *more):
            self.run_retrace("keys", "trust", "--trusted-root", str(corpus / "trusted_root.json"), "--certificate-oidc-issuer", "https://token.actions.githubusercontent.com",
                             "--certificate-identity", subject, *more)

        trust("ada@example.com")
        trust(beacon, "--type", "https://example.com/other/v1")
        lineage = self.client.lineage(made)
        self.assertEqual({e["evidence"] for e in lineage.edges}, {"claimed"})
        self.assertTrue(lineage.verify(self.key), lineage.verify(self.key))
        trust(beacon, "--name", "beacon")
        lineage = self.client.lineage(made)
        self.assertEqual({e["evidence"] for e in lineage.edges}, {"attested"})
        v = lineage.verify(self.key)
        self.assertIs(v.ok, None, v)
        self.assertIn("does not verify certificates", repr(v))

    def test_signed_model(self):
        """A model that is signed as the OpenSSF does is made of its files."""
        need(self, "cryptography")
        model = hashlib.sha256(pathlib.Path("model.bin").read_bytes()).hexdigest()
        root = hashlib.sha256(bytes.fromhex(model)).hexdigest()
        for name in ("model.bin", "weights/model.bin:0:4"):
            shards = ":" in name
            pathlib.Path("signed.json").write_text(json.dumps(in_toto("https://model_signing/signature/v1.0", {
                "resources": [{"name": name, "algorithm": "sha256-sharded-8" if shards else "sha256", "digest": model}],
                "serialization": {"method": "shards" if shards else "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": ["model.sig"]},
            }, {"name": "forecast", "digest": {"sha256": root}})))
            self.run_retrace("record", "signed.json")
        self.lineage = self.client.lineage("sha256:" + root)
        self.assertIn(("sha256:" + root, "sha256:" + model, "partOf"), {(e["from"], e["to"], e["relation"]) for e in json.loads(self.lineage.proof)["claim"]["edges"]})
        self.assertTrue(self.lineage.verify(self.key), self.lineage.verify(self.key))

    def test_another_key(self):
        other = tempfile.mkdtemp(dir=TMP)
        self.run_retrace("--dir", other + "/x", "init")
        self.assertIs(self.check(self.lineage.proof, pathlib.Path(other, "x/log.vkey").read_text()).ok, False)
        for wrong in ("x+00000000+AAAA", self.key.replace("+", "+0", 1), "a+b+c", "nowhere"):
            with self.assertRaises(retrace.RetraceError):
                self.check(self.lineage.proof, wrong)

    def test_observer_of_cosign(self):
        need(self, "cryptography")
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        key = ec.generate_private_key(ec.SECP256R1())
        public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
        # The bundle of a ledger whose observer signs with ECDSA is made by hand from
        # one of ours: each envelope is signed anew, and the tree with it.
        doc = json.loads(self.lineage.proof)
        body = base64.b64decode(doc["entries"][0]["body"])
        (n,) = struct.unpack(">I", body[32:36])
        envelope = json.loads(body[36 + n :])
        log = Ed25519PrivateKey.generate()
        raw = b"\x01" + log.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        vkey = f"x+{hashlib.sha256(b'x' + bytes([10]) + raw).digest()[:4].hex()}+{base64.b64encode(raw).decode()}"
        statement = json.loads(base64.b64decode(envelope["payload"]))
        statement["predicate"].update(origin="x", logKey=vkey, observerKey=public)
        payload = json.dumps(statement).encode()
        kind = envelope["payloadType"].encode()
        signature = key.sign(b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload), ec.ECDSA(hashes.SHA256()))
        envelope.update(payload=base64.b64encode(payload).decode(), signatures=[{"keyid": "", "sig": base64.b64encode(signature).decode()}])
        body = body[: 36 + n] + json.dumps(envelope).encode()
        leaf = hashlib.sha256(b"retrace leaf v1\n" + body).digest()
        text = f"x\n1\n{base64.b64encode(hashlib.sha256(bytes([0]) + leaf).digest()).decode()}\n"
        line = base64.b64encode(hashlib.sha256(b"x" + bytes([10]) + raw).digest()[:4] + log.sign(text.encode())).decode()
        bundle = {"format": doc["format"], "checkpoint": f"{text}\n— x {line}\n", "claim": {"ref": "entry:0", "entry": 0, "size": 1, "depth": 0, "truncated": False},
                  "entries": [{"index": 0, "proof": [], "body": base64.b64encode(body).decode()}]}
        v = retrace.verify(retrace._canonical(bundle) + b"\n", vkey)
        self.assertTrue(v, v)

    def test_without_cryptography(self):
        real = builtins.__import__

        def without(name, *args, **kwargs):
            if name.startswith("cryptography"):
                raise ImportError(name)
            return real(name, *args, **kwargs)

        with mock.patch("builtins.__import__", without):
            v = retrace.verify(self.lineage.proof, self.key)
        self.assertIsNone(v.ok)
        self.assertFalse(v)
        self.assertIn("NOT CHECKED", repr(v))


class Log:
    """A log in memory, whose keys the test holds: its bundles may hold statements that
    no retrace would record."""

    def __init__(self, random):
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        self.random, self.bodies, self.clock = random, [], 0
        self.key = lambda: Ed25519PrivateKey.from_private_bytes(bytes(random.randrange(256) for _ in range(32)))
        self.log, self.observer = self.key(), self.key()
        self.vkey = self.vkey_of(self.log)
        self.state("genesis/v1", {"format": 1, "origin": "x", "logKey": self.vkey, "observerKey": self.pem(self.observer)})

    def raw(self, private):
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        return private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def pem(self, private):
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def vkey_of(self, private):
        return retrace._log_key("x", self.raw(private))[3]

    def now(self):
        return f"2026-01-01T00:{self.clock // 60:02}:{self.clock % 60:02}Z"

    def state(self, kind, predicate, *signers):
        self.add(in_toto(kind, predicate, {"name": "it", "digest": {"sha256": "0" * 64}}), *signers or [self.observer])

    def trust(self, private, act, *signers, **more):
        self.state("trust/v1", {"action": act, "keyID": retrace._key_id(private.public_key()), "key": self.pem(private), **more}, *signers)

    def rotate(self, place, *signers, **more):
        """Put a new key in the place of the one in force, or state something like it."""
        new, old = self.key(), getattr(self, place)
        self.clock += 1
        stated = {"role": place, "replaces": retrace._key_id(old.public_key()), "notBefore": self.now(), **more}
        self.trust(new, "rotate", *signers or [self.observer, old, new][place == "observer":], **{k: v for k, v in stated.items() if v is not None})
        setattr(self, place, new)

    def add(self, statement, *signers):
        payload, kind = json.dumps(statement).encode(), b"application/vnd.in-toto+json"
        message = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
        text = lambda raw: base64.b64encode(raw).decode()
        envelope = json.dumps({"payloadType": kind.decode(), "payload": text(payload), "signatures": [{"keyid": "", "sig": text(s.sign(message))} for s in signers]}).encode()
        header = retrace._canonical({"recordedAt": self.now(), "namespace": "default"})
        self.bodies.append(bytes(32) + struct.pack(">I", len(header)) + header + envelope)

    def bundle(self, claim, signer=None):
        """The bundle of a claim over all entries."""
        leaves = [hashlib.sha256(b"\0" + hashlib.sha256(b"retrace leaf v1\n" + b).digest()).digest() for b in self.bodies]

        def root(part):
            if len(part) == 1:
                return part[0]
            k = 1 << (len(part) - 1).bit_length() - 1
            return hashlib.sha256(b"\1" + root(part[:k]) + root(part[k:])).digest()

        def path(m, part):
            if len(part) == 1:
                return []
            k = 1 << (len(part) - 1).bit_length() - 1
            return path(m, part[:k]) + [root(part[k:])] if m < k else path(m - k, part[k:]) + [root(part[:k])]

        text, private = lambda raw: base64.b64encode(raw).decode(), signer or self.log
        note = f"x\n{len(leaves)}\n{text(root(leaves))}\n"
        signature = text(retrace._log_key("x", self.raw(private))[1] + private.sign(note.encode()))
        return {"format": "retrace bundle v1", "checkpoint": f"{note}\n— x {signature}\n",
                "claim": {"depth": 0, "truncated": False, "size": len(leaves), "ref": "", "entry": -1, **claim},
                "entries": [{"index": i, "body": text(b), "proof": list(map(text, path(i, leaves)))} for i, b in enumerate(self.bodies)]}

    def answer(self, root, run="", down=False, depth=0):
        """The bundle of the walk that this module takes over all entries."""
        claim = {"root": root, "run": run, "direction": "DOWNSTREAM" if down else "UPSTREAM", "depth": depth}
        proof = retrace._Proof(encode(self.bundle({"ref": "", "root": root})), retrace._vkey_of(self.vkey), [], [])
        proof._answer = lambda: None
        proof.check(None)
        walk = retrace._Walk(proof.facts, proof.grades, proof.namespaces).edges(root, run, down, depth)
        claim["edges"] = [{k: v for k, v in e.items() if v != ""} for e in walk]
        return self.bundle({k: v for k, v in claim.items() if v not in ("", [])}), proof.facts


def encode(bundle):
    return retrace._canonical(bundle) + b"\n"


def in_toto(kind, predicate, *subjects):
    kind = kind if "://" in kind else "https://github.com/retrace-ledger/retrace/predicates/" + kind
    return {"_type": "https://in-toto.io/Statement/v1", "subject": list(subjects), "predicateType": kind, "predicate": predicate}


def thing(name, digit, algorithm="sha256", **more):
    return {"name": name, "digest": {algorithm: digit * {"sha512": 128, "sha256": 64}.get(algorithm, 40)}, **more}


def recorded(kind, run, external, used, outputs, products=()):
    predicate = {"buildDefinition": {"buildType": f"https://github.com/retrace-ledger/retrace/{kind}/v1", "externalParameters": external, "resolvedDependencies": used},
                 "runDetails": {"builder": {"id": "me"}, "metadata": {"invocationId": run}, "byproducts": list(products)}}
    return in_toto("https://slsa.dev/provenance/v1", predicate, {"name": "run:" + run, "digest": {"sha256": hashlib.sha256(retrace._canonical(predicate)).hexdigest()}}, *outputs)


def attested():
    """A build that says no run, and the run that a watcher says it is."""
    predicate = {"builder": {"id": "b"}, "buildType": "t", "materials": [thing("data", "d")]}
    key = "sha256:" + hashlib.sha256(retrace._canonical(predicate)).hexdigest()
    whole = recorded("step", "r6", {"engine": "tekton", "status": "Succeeded"}, [thing("lib", "e")], [thing("image", "5")])
    part = recorded("step", "r5", {"engine": "tekton", "status": "Succeeded", "parent": "r6", "attestedBy": [key]}, [thing("model", "a")], [thing("image", "5")])
    return [whole, part, in_toto("https://slsa.dev/provenance/v0.2", predicate, thing("image", "5"))]


def restated():
    """Two statements of one run, of which the second takes the place of the first."""
    first = recorded("step", "r4", {"engine": "argo", "status": "Running"}, [thing("data", "d")], [thing("image", "5")])
    key = "sha256:" + first["subject"][0]["digest"]["sha256"]
    table = {"name": "t", "uri": "s3://bucket/t?version=3", "annotations": {"location": "s3://bucket/t", "aliases": ["hive://m/t", "s3://bucket/in"]}}
    left = {"name": "o", "uri": "s3://bucket/o?version=1", "annotations": {"role": "output", "location": "s3://bucket/o"}}
    return [first, recorded("step", "r4", {"engine": "argo", "status": "Succeeded", "replaces": key}, [thing("model", "a"), table], [thing("image", "5")], [left])]


def samples():
    """A statement of every predicate type, joined so that each is reached from others."""
    when, text = "2026-01-01T00:00:00.5+01:00", lambda value: base64.b64encode(json.dumps(value).encode()).decode()
    layers = [{"digest": "sha256:" + d * 64, "mediaType": "layer", "size": 1, "diffID": "sha256:" + d * 64} for d in "789"]
    image = {"repository": "reg/app", "mediaType": "m", "size": 5, "config": "sha256:" + "6" * 64, "platform": "linux/amd64", "labels": {
        "org.opencontainers.image.revision": "c" * 40, "org.opencontainers.image.base.digest": "sha256:" + "5" * 64}}
    state = {"workload": "c/ns/Deployment/app", "models": [thing("model", "a")], "containers": [{"name": "a", "image": "reg/app"}], "revision": {"commit": "c" * 40, "by": "argo", "claimed": True}}
    folder = [{"path": "a", "type": "file", "size": 3, "sha256": "d" * 64}, {"path": "b", "type": "link", "target": "a"}, {"path": "c", "type": "folder"}]
    twice = {"name": "lib", "digest": {"sha256": "e" * 64, "sha512": "e" * 128, "gitBlob": "e" * 40}, "annotations": {"producer": "r1", "path": "lib"}}
    return [
        recorded("run", "r1", {"argv": ["make"], "dir": ".", "inputs": ["data"], "platform": "linux/amd64"}, [thing("data", "d", annotations={"path": "data", "role": "input"}), twice],
                 [thing("model", "a", annotations={"path": "out/model"})], [{"name": "retrace_exitStatus", "content": text(0)}, {"name": "retrace_gaps", "content": text([{"rule": "x", "detail": "y"}])}]),
        recorded("step", "r2", {"engine": "argo", "status": "Succeeded", "pipeline": "p"}, [thing("model", "a", annotations={"producer": "r1"}), {"name": "at", "uri": "s3://bucket/in"}, thing("data", "d")],
                 [thing("model", "a")], [{"name": "o", "uri": "s3://bucket/out", "annotations": {"role": "output"}}, {"name": "retrace_metrics", "content": text({"mae": 1.5})}]),
        *restated(),
        *attested(),
        in_toto("https://slsa.dev/provenance/v1", {"buildDefinition": {"buildType": "https://slsa.dev/container-based-build/v0.1", "externalParameters": {
            "source": {"uri": "git+https://x.example/r", "digest": {"sha1": "c" * 40}}, "builderImage": thing("reg/app", "1"), "configPath": "x"}, "resolvedDependencies": [
                thing("data", "d"), {"name": "only a name"}, {"uri": "git+https://x.example/r", "digest": {"sha1": "c" * 40}}]},
            "runDetails": {"builder": {"id": "b", "version": {"v": "1"}}, "metadata": {"startedOn": when}}}, thing("lib", "e")),
        in_toto("https://slsa.dev/provenance/v0.2", {"builder": {"id": "b"}, "buildType": "t", "invocation": {"configSource": {"uri": "https://github.com/a/b", "digest": {"sha1": "c" * 40}, "entryPoint": "e"}},
                "metadata": {"buildInvocationID": "r3"}, "materials": [{"uri": "https://github.com/a/b", "digest": {"sha1": "c" * 40}}, thing("data", "d"), {}]}, thing("lib", "e", "sha512")),
        in_toto("https://slsa.dev/provenance/v0.1", {"builder": {"id": "b"}, "recipe": {"type": "t", "definedInMaterial": 1, "entryPoint": "e"}, "metadata": {"buildFinishedOn": when},
                "materials": [thing("data", "d"), {"uri": "pkg:x/y.git", "digest": {"sha1": "b" * 40}}]}, thing("image", "5")),
        in_toto("https://in-toto.io/attestation/link/v0.3", {"name": "n", "command": ["c"], "materials": [thing("model", "a"), {"content": base64.b64encode(b"inline").decode()}]}, thing("blob", "e", "gitBlob")),
        in_toto("https://slsa.dev/verification_summary/v1", {"verifier": {"id": "v"}, "timeVerified": when, "resourceUri": "u", "policy": {"uri": "p"}, "verificationResult": "PASSED", "verifiedLevels": []},
                {"name": "m", "digest": {"sha256": "a" * 64, "sha1": "a" * 40}}),
        in_toto("config/v1", {"setting": "s", "values": {"a": "b"}, "previous": "a" * 64}, thing("c", "3")),
        in_toto("coverage/v1", {"source": "s", "from": when, "to": "2026-01-01T00:00:00Z", "count": 1, "recorded": 1, "refused": [{"object": "o", "reason": "r", "digest": "sha256:" + "a" * 64}]},
                {"digest": {"sha256": "d" * 64, "sha384": "d" * 96}}),
        in_toto("commit/v1", {"tree": "f" * 40, "parents": ["b" * 40], "author": {"name": "A", "email": "e", "when": when}, "committer": {"name": "A", "email": "e", "when": when}, "message": "m",
                "signer": {"keyID": "k"}, "pins": [thing("x.dvc", "e", "gitBlob"), thing("data", "d")]}, thing("commit", "c", "gitCommit", uri="git+https://x.example/r")),
        in_toto("pins/v1", {"format": "dvc", "pins": [{"name": "data", "digest": {"md5": "d" * 32}}]}, thing("x.dvc", "e", "gitBlob")),
        in_toto("pins/v1", {"format": "kustomize", "pins": [thing("reg/app", "1")]}, thing("k.yaml", "f", "gitBlob")),
        in_toto("ref/v1", {"repository": "r", "ref": "refs/heads/main", "old": "b" * 40, "forced": True}, thing("commit", "c", "gitCommit")),
        in_toto("image/v1", {**image, "layers": layers}, thing("reg/app", "1")),
        in_toto("image/v1", {**image, "labels": {}, "layers": layers[:2], "config": "sha256:" + "4" * 64}, thing("reg/base", "2")),
        in_toto("image/v1", {"repository": "reg/app", "mediaType": "index", "size": 1, "manifests": [{"digest": "sha256:" + "1" * 64, "mediaType": "m", "platform": "linux/amd64"}]}, thing("reg/app", "3")),
        in_toto("signature/v1", {"payload": "e30=", "signature": "s"}, thing("reg/app", "1")),
        in_toto("tag/v1", {"repository": "reg/app", "tag": "latest", "old": "sha256:" + "2" * 64}, thing("reg/app", "1")),
        in_toto("snapshot/v1", {"source": "s3://bucket/in", "count": 3, "bytes": 3, "files": folder, "modified": when}, {"name": "f", "digest": {"retraceTree1": retrace._listing_digest(folder)}}),
        in_toto("snapshot/v1", state_of := {"source": "csi://c/ns/raw", "count": 0, "bytes": 5, "volume": {"name": "s1", "uri": "csi://d/h", "claim": "pvc://ns/raw", "deletionPolicy": "Retain",
                "created": when, "pods": [{"pod": "p", "uid": "u"}]}}, {"name": "snapshot:csi://c/ns/raw#s1", "digest": {"sha256": hashlib.sha256(retrace._canonical(state_of)).hexdigest()}}),
        in_toto("claim/v1", {"cluster": "c", "claim": "pvc://ns/new", "from": [{"uri": "csi://d/h"}, {"uri": "pvc://ns/raw"}]}, thing("claim:c/ns/new", "7")),
        in_toto("taking/v1", {"action": "take", "source": "csi://c", "name": "ns/s1", "uid": "u", "claim": "pvc://ns/raw", "owner": "o", "reason": "every 10m"}, thing("taking:ns/s1", "6")),
        in_toto("release/v1", {"source": "dir:///a", "rules": "{}"}, thing("s", "d")),
        in_toto("model/v1", {"name": "m", "version": "1", "run": "r1", "metrics": {"mae": 1}}, thing("model", "a")),
        in_toto("model/v1", {"name": "m", "version": "2", "run": "r2", "resource": {"uri": "s3://bucket/out"}}, thing("run:r2", "b")),
        in_toto("model/v1", {"name": "m", "version": "champion", "deleted": True, "previous": "a" * 64}, thing("model", "a")),
        in_toto("deployment/v1", state, {"name": "workload:c/ns/Deployment/app", "digest": {"sha256": hashlib.sha256(retrace._canonical(state)).hexdigest()}}, thing("reg/app", "1")),
        in_toto("deployment/v1", {"workload": "c/ns/Deployment/b", "deleted": True, "changed": {"by": "kubectl", "at": when}}, thing("reg/app", "2")),
        in_toto("attestation/v1", {"claim": "approved"}, thing("model", "a")),
        in_toto("retraction/v1", {"index": 3, "reason": "r"}, {"digest": {"sha256": "a" * 64, "gitTree": "f" * 40}}),
        in_toto("erasure/v1", {"index": 3, "reason": "r", "resources": ["a", "b"]}, {"digest": {"sha256": "d" * 64, "dirHash1": "d" * 64}}),
        in_toto("restore/v1", {"ref": "r", "result": "COMPLETE", "plan": "p", "size": 1, "checked": 1, "bytes": 1}, {"digest": {"sha256": "a" * 64, "x-own": "a"}}),
        in_toto("reproduction/v1", {"ref": "r", "verdict": "DIVERGED", "isolation": "i", "platform": "p", "size": 1, "steps": [{"step": 1, "exit": 0, "outputs": [{"path": "p", "recorded": "k"}]}]},
                {"digest": {"sha256": "a" * 64, "sha224": "a" * 56}}),
        in_toto("https://spdx.dev/Document/v2.3", {"packages": []}, {"digest": {"sha256": "a" * 64, "sha3_256": "a" * 64}}),
    ]


def places(value, at=()):
    """The paths of all that is in a JSON value."""
    yield at
    if isinstance(value, (dict, list)):
        for k, v in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(v, (*at, k))


def mutated(random, value, pool):
    """A copy of a JSON value in which one place was changed."""
    value = copy.deepcopy(value)
    *at, last = random.choice([p for p in places(value) if p])
    inside = value
    for k in at:
        inside = inside[k]
    way = random.randrange(6)
    if way == 0:
        del inside[last]
    elif way == 1 and isinstance(inside, dict):
        inside["more"] = inside[last]
    elif way == 1:
        inside.insert(random.randrange(len(inside) + 1), inside[last])
    elif way == 2:
        inside[last] = random.choice([None, "", 0, -1, 1.5, True, False, [], {}, [None], "x", "2026-13-01T00:00:00Z", 10**6])
    elif way == 3 and isinstance(inside[last], str) and inside[last]:
        i = random.randrange(len(inside[last]))
        inside[last] = inside[last][:i] + random.choice("0aA/-=\n é") + inside[last][i + random.randrange(2):]
    else:
        like = [v for v in pool if type(v) is type(inside[last])]
        inside[last] = copy.deepcopy(random.choice(like or pool))
    return value


class Same(unittest.TestCase):
    """On every proof, good or bad, the verdict is that of `retrace verify`."""

    def setUp(self):
        need(self, "cryptography")
        self.dir = tempfile.mkdtemp(dir=TMP)
        self.before = os.getcwd()
        os.chdir(self.dir)
        self.addCleanup(os.chdir, self.before)
        self.random = random.Random(int(os.environ.get("RETRACE_TEST_SEED", "1")))

    def retrace(self, *args):
        done = subprocess.run([BINARY, *args], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, f"{args}: {done.stderr}")
        return done.stdout

    def judge(self, cases):
        """Hold each (what, bundle, key) to what the binary says of it: how many hold."""

        def one(n):
            pathlib.Path(f"case-{n}").write_bytes(cases[n][1])
            return subprocess.run([BINARY, "verify", f"case-{n}", "--key", cases[n][2]], capture_output=True, text=True)

        said, differ = collections.Counter(), []
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for (what, bundle, key), done in zip(cases, pool.map(one, range(len(cases)))):
                v = retrace.verify(bundle, key)
                said[done.returncode, v.ok] += 1
                if done.returncode not in (0, 1, 2) or (v.ok is True) != (done.returncode == 0):
                    differ.append(f"{what}: exit {done.returncode} {done.stderr or done.stdout.splitlines()[0]} and here {v}")
        if os.environ.get("RETRACE_TEST_SAY") == "1":
            print(f"{self.id()}: {len(cases)} bundles, by exit status and verdict here: {dict(said)}")
        self.assertFalse(differ, f"{len(differ)} of {len(cases)} differ:\n" + "\n".join(differ[:10]))
        return sum(n for (code, _), n in said.items() if code == 0)

    def proofs(self):
        """Proofs of every form, before and after the keys of the ledger are rotated: (what, bundle, key)."""
        self.retrace("init")
        pathlib.Path("data.csv").write_text("a\n")

        def run(source, out, *more):
            self.retrace("run", "--in", source, "--out", out, *more, "--", "sh", "-c", f"cat {source} {source} >{out}")

        run("data.csv", "model.bin", "--model", "forecast", "--param", "rate=0.1")
        run("data.csv", "model.bin")  # the same bytes again: a second producer
        run("model.bin", "next", "--model", "next")
        run("next", "copy", "--model", "copy")
        pathlib.Path("more.jsonl").write_text("".join(json.dumps(s) + "\n" for s in samples()))
        self.retrace("record", "more.jsonl")
        made, data, image = ("sha256:" + d for d in (retrace._digest("model.bin")["sha256"], retrace._digest("data.csv")["sha256"], "1" * 64))
        commit = "gitCommit:" + "c" * 40
        asked = [("forecast",), ("forecast@1", "--depth", "1"), ("copy",), ("copy", "--depth", "2"), ("next", "--down"), (made,), (made, "--down"), (data, "--down"), (data, "--down", "--depth", "2"),
                 ("#1",), ("entry:2",), ("step:1",), ("step:1", "--down"), ("m@1",), ("m@2",), (image,), (image, "--down"), (commit,), (commit, "--down"), ("workload:c/ns/Deployment/app",),
                 ("image:reg/app:latest",), ("git:r#refs/heads/main",), ("sha256:" + "3" * 64,), ("sha256:" + "d" * 64, "--down"), ("copy", "--redact", "1"), ("copy", "--redact", "4"),
                 (made, "--redact", "3"), ("copy", "--as-of-size", "8")]
        found = []
        for rotated in ((), ("log",), ("observer",), ("log", "observer")):
            if rotated:
                for role in rotated:
                    self.retrace("keys", "rotate", role)
                run("data.csv", "model.bin", "--model", "forecast")
            keys = [f.read_text() for f in pathlib.Path(".retrace").glob("log*.vkey")]
            for question in asked if not rotated else [asked[i] for i in (0, 2, 5, 7, -4)]:
                self.retrace("prove", *question, "--bundle", "b")
                found += [(f"{question} after {rotated}", pathlib.Path("b").read_bytes(), key) for key in sorted(keys)]
        return found

    def test_proofs_and_changed_claims(self):
        proofs = self.proofs()
        self.assertEqual(self.judge(proofs), len(proofs))
        docs = [json.loads(b) for _, b, _ in proofs]
        pool = {}  # values of each member of claims and edges
        for d in docs:
            for part in [d["claim"], *d["claim"].get("edges", [])]:
                for k, v in part.items():
                    pool.setdefault(k, {})[json.dumps(v)] = v
        pool = {k: list(v.values()) for k, v in pool.items()}
        cases = []
        for n in range(200):
            what, _, key = proofs[n % len(proofs)]
            doc = copy.deepcopy(docs[n % len(proofs)])
            changes = []
            for _ in range(self.random.choice((1, 1, 1, 2))):
                changes.append(self.change(doc, pool))
            cases.append((f"{what}, {changes}", encode(doc), key))
        good = self.judge(cases)
        self.assertTrue(10 < good < 190, good)

    def change(self, doc, pool):
        """Change what a bundle claims, or which of its entries it shows, and say how."""
        claim, entries, r = doc["claim"], doc["entries"], self.random
        edges = claim.get("edges", [])
        ways = ["claim", "claim", "entry left out", "body withheld", "proofs swapped"] + ["edge"] * 5 * bool(edges) + ["left out", "twice", "turned", "cut", "cut off", "moved"] * bool(edges)
        way = r.choice(ways)
        i = r.randrange(len(edges)) if edges else 0
        if way in ("claim", "edge"):
            part = claim if way == "claim" else edges[i]
            member = r.choice([m for m in pool if m in part or m in ("role", "path", "run", "name")])
            part[member] = r.choice(pool[member])
            way += " " + member
        elif way == "left out":
            edges.pop(i)
        elif way == "twice":
            edges.insert(r.randrange(len(edges) + 1), dict(edges[i]))
        elif way == "turned":
            edges[i]["from"], edges[i]["to"] = edges[i]["to"], edges[i]["from"]
        elif way == "moved":
            edges.insert(r.randrange(len(edges)), edges.pop(i))
        elif way in ("cut", "cut off"):
            del edges[i:]
            claim["truncated"] = way == "cut off"
        elif way == "entry left out":
            entries.pop(r.randrange(len(entries)))
        elif way == "body withheld":
            e = r.choice(entries)
            if "body" in e:
                e["commitment"] = base64.b64encode(hashlib.sha256(b"retrace leaf v1\n" + base64.b64decode(e.pop("body"))).digest()).decode()
        else:
            a, b = r.choice(entries), r.choice(entries)
            a["proof"], b["proof"] = b["proof"], a["proof"]
        if not edges:
            claim.pop("edges", None)
        return way

    def test_changed_bytes(self):
        self.retrace("init")
        pathlib.Path("a").write_text("a")
        self.retrace("run", "--in", "a", "--out", "b", "--model", "m", "--", "cp", "a", "b")
        self.retrace("keys", "rotate", "log")
        self.retrace("prove", "m", "--bundle", "b")
        raw, key, cases = pathlib.Path("b").read_bytes(), pathlib.Path(".retrace/log.vkey").read_text(), []
        for n in range(25):
            doc = mutated(self.random, json.loads(raw), ["x", 0, -1, 1, True, [], {}, None, "sha256:" + "a" * 64])
            cases.append((f"a member {n}", encode(doc), key))
            i = self.random.randrange(len(raw))
            cases.append((f"byte {i}", raw[:i] + bytes([raw[i] ^ 1 << self.random.randrange(7)]) + raw[i + 1 :], key))
        self.judge(cases)

    def test_changed_statements(self):
        """Whatever entries hold, both find the same edges in them, or none: of statements
        that were changed at random, the walk that is taken here is proved to the binary."""
        statements, cases = samples(), []
        pool = [v for s in statements for v in (at(s, p) for p in places(s)) if not isinstance(v, (dict, list)) or len(json.dumps(v)) < 300]
        for n in range(40):
            log = Log(self.random)
            trusted = log.key()
            log.trust(trusted, "trust", **self.random.choice([{}, {"notAfter": "2026-01-01T00:00:20Z"}, {"predicateTypes": ["https://slsa.dev/provenance/v1"]}, {"namespaces": ["default", "x"]}]))
            for s in self.random.sample(statements, 12):
                for _ in range(self.random.choice((1, 1, 2)) if n else 0):
                    if s.get("predicate") and self.random.randrange(4):
                        s = {**s, "predicate": mutated(self.random, s["predicate"], pool)}
                    else:
                        s = mutated(self.random, s, pool)
                    if s.get("subject") and self.random.randrange(3):
                        try:
                            first = s["subject"][0]
                            if first["name"].startswith(("run:", "workload:")):
                                first["digest"]["sha256"] = hashlib.sha256(retrace._canonical(s["predicate"])).hexdigest()
                        except (KeyError, TypeError, AttributeError, IndexError):
                            pass
                kind = str(s.get("predicateType"))
                if kind.startswith((retrace._OWN, "https://slsa.dev/provenance/")) and kind.removeprefix(retrace._OWN) not in retrace._PREDICATES:
                    continue  # a type to come
                log.clock += 1
                log.add(s, *self.random.sample([log.observer, trusted, log.key()], self.random.randrange(3)))
            if n % 7 == 3:
                log.trust(trusted, "revoke", notAfter="2026-01-01T00:00:05Z")
            if n % 7 == 4:
                log.rotate("observer")
            _, facts = log.answer("sha256:" + "0" * 64)
            keys = list(dict.fromkeys(k for f in facts.values() for k in [*f.resources, *(x for r in f.relations for x in r[:2])]))
            descriptors = [{"uri": k[4:]} if k.startswith("uri:") else {"digest": dict([k.split(":", 1)])} for k in keys]
            log.add(in_toto("https://in-toto.io/attestation/link/v0.3", {"name": "hub", "materials": descriptors}, thing("hub", "9")), log.observer)
            log.add(in_toto("https://in-toto.io/attestation/link/v0.3", {"name": "hub", "materials": [thing("source", "8")]}, *[d for d in descriptors if "digest" in d]), log.observer)
            for root, down in (("sha256:" + "9" * 64, False), ("sha256:" + "8" * 64, True)):
                bundle, _ = log.answer(root, down=down, depth=self.random.choice((0, 0, 2, 4)))
                cases.append((f"log {n} {'down' if down else 'up'}, {len(bundle['claim'].get('edges', ()))} edges", encode(bundle), log.vkey))
        self.assertEqual(self.judge(cases), len(cases))

    def test_changed_rotations(self):
        """Rotations that do not put a key in the place of the one in force as they should."""
        cases = []
        for n in range(30):
            log, r = Log(self.random), self.random
            vkeys = [log.vkey]
            for _ in range(r.randrange(1, 4)):
                place, thief, signers, more = r.choice(("log", "observer")), log.key(), (), {}
                way = r.randrange(10)
                if way == 0:
                    signers = (log.observer, thief)
                elif way == 1:
                    signers = (getattr(log, place), thief)
                elif way == 2:
                    more = {"replaces": retrace._key_id(thief.public_key())}
                elif way == 3:
                    more = {"notBefore": "2026-01-01T00:00:00Z"}
                elif way == 4:
                    more = {r.choice(("replaces", "notBefore", "keyID", "key", "action")): r.choice((None, "x", ""))}
                log.rotate(place, *signers, **more)
                vkeys.append(log.vkey_of(log.log))
                log.clock += 1
                log.state("attestation/v1", {"claim": "approved"}, log.observer)
            bundle = log.bundle({"ref": "entry:1", "entry": 1}, r.choice((log.log, log.log, log.log, log.key())))
            cases += [(f"log {n}", encode(bundle), vkey) for vkey in {vkeys[0], vkeys[-1]}]
        good = self.judge(cases)
        self.assertTrue(5 < good < len(cases) - 5, good)

    def test_a_type_to_come(self):
        """Statements of types that retrace may come to read are named, and nothing is said to be verified."""
        log = Log(self.random)
        log.add(in_toto("recipe/v1", {}, thing("model", "a")), log.observer)
        v = retrace.verify(encode(log.bundle({"ref": "entry:1", "entry": 1})), log.vkey)
        self.assertIsNone(v.ok)
        self.assertIn("predicates/recipe/v1", v.problem)


def at(value, path):
    for k in path:
        value = value[k]
    return value


class Record(World):
    def test_step(self):
        subprocess.run(["git", "init", "-q"], check=True)
        with retrace.step("train", inputs=["data.csv"], outputs=["out"], params={"rate": 0.1, "kind": "é"}, model="mine:1") as s:
            os.makedirs("out/sub")
            pathlib.Path("out/sub/model").write_text("weights")
            os.symlink("sub/model", "out/newest")
            os.chmod("out/sub/model", 0o755)
            s.metrics["mae"] = 1.25
        m = self.client.model("mine@1")
        self.assertEqual((m.evidence, m.metrics), ("claimed", {"mae": 1.25}))
        names = {n["name"]: n for n in m.inputs()}
        self.assertLessEqual({"data.csv", "cell", "packages"}, set(names))
        found = m.lineage().steps[0]
        self.assertEqual((found["name"], found["parameters"], found["run"]), ("train", {"rate": "0.1", "kind": "é"}, s.run))
        # The folder has the digest that the ledger gives it, and comes back.
        job = self.client.restore("mine@1")
        self.assertEqual(job["verdict"], "COMPLETE")
        place = pathlib.Path(".retrace", job["place"])
        self.assertEqual(retrace._digest(place / "resource" / "out"), {"retraceTree1": m.digest.partition(":")[2]})

    def test_failed_step(self):
        with self.assertRaises(ZeroDivisionError):
            with retrace.step("train", inputs=["data.csv"], outputs=["never"], model="mine:1"):
                pathlib.Path("data.csv").write_text("changed")
                1 / 0
        entry = self.client.query('{ entries(last: 1) { nodes { statement } } }')["entries"]["nodes"][0]["statement"]
        products = {b["name"]: json.loads(base64.b64decode(b["content"])) for b in entry["predicate"]["runDetails"]["byproducts"]}
        self.assertEqual(products["retrace_exitStatus"], 1)
        self.assertEqual({g["rule"] for g in products["retrace_gaps"]}, {"output-missing", "input-changed"})
        with self.assertRaises(retrace.RetraceError):
            self.client.model("mine@1")

    def test_refused(self):
        before = self.client.query("{ checkpoint { size } }")
        for what in ({"model": "mine", "outputs": ["x"]}, {"model": "mine:1"}, {"model": "a:b:c", "outputs": ["x"]},
                     {"params": {"api_token": "tok_51Hc9abcdef"}}, {"params": {"dbPassword": "hunter22"}}, {"params": {"u": "https://ada:" + "hunter2@x.example/"}}):
            with self.assertRaises(retrace.RetraceError) as caught:
                with retrace.step("train", **what):
                    self.fail("it ran")
            self.assertEqual(caught.exception.code, "BAD_INPUT")
        with retrace.step("train", params={"token_file": "/run/x", "max_tokens": 40, "pad_token": "<pad>", "key": "id", "password": None}, outputs=[]):
            pass
        self.assertEqual(self.client.query("{ checkpoint { size } }")["checkpoint"]["size"], before["checkpoint"]["size"] + 1)

    def test_source_with_a_secret(self):
        with self.assertWarns(UserWarning):
            with retrace.step("train", code="key = 'ghp_" + "a1B2c3D4e5" * 3 + "'"):
                pass
        predicate, products = self.last()
        self.assertIn("code-not-captured", {g["rule"] for g in products["retrace_gaps"]})
        self.assertNotIn("cell", {d["name"] for d in predicate["buildDefinition"]["resolvedDependencies"]})

    def last(self, n=1):
        entry = self.client.query("query($n: Int!) { entries(last: $n) { nodes { statement } } }", {"n": n})["entries"]["nodes"][0]["statement"]
        return entry["predicate"], {b["name"]: json.loads(base64.b64decode(b["content"])) for b in entry["predicate"]["runDetails"]["byproducts"]}

    def test_metrics_and_late_parameters(self):
        class Scalar:  # as those of numpy
            def item(self):
                return 1.5

        with retrace.step("train", inputs=["data.csv"], outputs=["data.csv"]) as s:
            pathlib.Path("data.csv").write_text("more\n")
            s.metrics.update(mae=Scalar(), loss=float("nan"), shape=(1, 2), kind="small", n=3)
            s.params.update(path=pathlib.Path("x"), api_key="k3y" * 10, n=3)
        predicate, products = self.last()
        self.assertEqual(products["retrace_metrics"], {"mae": 1.5, "kind": "small", "n": 3})
        self.assertEqual([g["rule"] for g in products["retrace_gaps"]], ["metrics-not-recorded"] * 2)
        given = predicate["buildDefinition"]["externalParameters"]
        self.assertEqual((given["secrets"], given["parameters"]), (["api_key"], {"path": '"x"', "n": "3"}))
        self.assertNotIn("k3y", json.dumps(predicate))

    def test_versions_are_not_moved(self):
        for text, code in (("one", None), ("one", None), ("two", "CONFLICT"), (None, "BAD_INPUT")):
            pathlib.Path("out").unlink(missing_ok=True)
            before = self.client.query("{ checkpoint { size } }")["checkpoint"]["size"]
            try:
                with retrace.step("train", outputs=["out"], model="mine:1"):
                    if text:
                        pathlib.Path("out").write_text(text)
                self.assertIsNone(code)
            except retrace.RetraceError as e:
                self.assertEqual(e.code, code, e)
                self.assertEqual(self.client.query("{ checkpoint { size } }")["checkpoint"]["size"], before + 1)  # the step
        self.assertEqual(self.client.model("mine@1").digest, "sha256:" + hashlib.sha256(b"one").hexdigest())

    def test_server_gone_meanwhile(self):
        with self.assertRaises(retrace.RetraceError) as caught:
            with retrace.step("train", inputs=["data.csv"], outputs=["out"], model="mine:1") as s:
                pathlib.Path("out").write_text("days of work")
                self.server.terminate()
                self.server.wait()
        self.assertEqual(caught.exception.code, "UNREACHABLE")
        kept = f"retrace-step-{s.run}.jsonl"
        self.assertIn(kept, str(caught.exception))
        self.run_retrace("record", kept)
        done = subprocess.run([BINARY, "lineage", f"run:{s.run}"], capture_output=True, text=True, check=True)
        self.assertIn("content-not-kept", done.stdout)

    def test_git(self):
        git = ["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.com"]
        pathlib.Path(".gitignore").write_text(".retrace\n")
        pathlib.Path("lib.py").write_text("A = 1\n")
        subprocess.run([*git, "init", "-q"], check=True)
        subprocess.run([*git, "add", "-A"], check=True)
        subprocess.run([*git, "commit", "-q", "-m", "first"], check=True)
        subprocess.run([*git, "remote", "add", "origin", "https://ada:" + "hunter2@git.example/ml/x.git"], check=True)
        for name in ("lib.py", "data.csv", "new name"):
            pathlib.Path(name).write_text("dirty")
        commit, changed, uri, pushed = retrace._git()
        self.assertEqual((len(commit), {p.name for p in changed}, uri, pushed), (40, {"lib.py", "data.csv", "new name"}, "git+https://git.example/ml/x", False))
        with retrace.step("train", inputs=["data.csv"], outputs=["out"], model="mine:1"):
            pathlib.Path("out").write_text("x")
        _, products = self.last(2)
        self.assertEqual({g["rule"]: g["detail"] for g in products["retrace_gaps"]},
                         {"commit-not-on-remote": commit, "changes-left-out": "lib.py, new name"})
        shutil.rmtree(".git")  # the commit comes back without the repository
        place = pathlib.Path(".retrace", self.client.restore("mine@1")["place"])
        self.assertEqual([p.read_text() for p in place.rglob("lib.py")], ["A = 1\n"])

    def test_magics(self):
        need(self, "IPython")
        from IPython.core.interactiveshell import InteractiveShell

        shell = InteractiveShell()
        shell.run_line_magic("load_ext", "retrace")
        self.assertIsInstance(shell.run_line_magic("retrace", "why forecast@2"), retrace.Lineage)
        self.assertEqual(shell.run_line_magic("retrace", "gaps forecast").score, 100)
        entries = shell.run_cell_magic("retrace", "step train --in data.csv --out made --param n=3 --model cells:1",
                                       "import pathlib\npathlib.Path('made').write_text(pathlib.Path('data.csv').read_text() * 3)\nstep.metrics['n'] = 3\n")
        self.assertEqual(len(entries), 2)
        m = self.client.model("cells@1")
        self.assertEqual(m.metrics, {"n": 3})
        for wrong in ("nothing", "diff forecast@1", ""):
            with self.assertRaises(retrace.RetraceError):
                shell.run_line_magic("retrace", wrong)
        with self.assertRaises(retrace.RetraceError):
            shell.run_cell_magic("retrace", "step train --bogus", "1")


if __name__ == "__main__":
    unittest.main()
