"""Tests against a real server: RETRACE names the binary, else Go builds it."""

import base64
import builtins
import hashlib
import http.server
import json
import os
import pathlib
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
        bundle = {"format": doc["format"], "checkpoint": f"{text}\n— x {line}\n", "claim": {"ref": "entry:0", "entry": 0, "size": 1},
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

    def test_rotated(self):
        self.server.terminate()
        self.server.wait()
        self.run_retrace("keys", "rotate", "log")
        self.run_retrace("prove", "forecast", "--bundle", "b")
        for key in (self.key, pathlib.Path(".retrace/log.vkey").read_text()):
            v = self.check(pathlib.Path("b").read_text(), key)
            self.assertIsNone(v.ok, v)  # it holds, and that it does is not for this module to say
            self.assertIn("retrace verify", v.problem)


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
