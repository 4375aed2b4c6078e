"""Tests against a real server: RETRACE names the binary, else Go builds it."""

import base64
import builtins
import hashlib
import json
import os
import pathlib
import shutil
import struct
import subprocess
import tempfile
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

    def test_picture(self):
        lineage = self.client.model("forecast").lineage()
        svg = lineage._repr_svg_()
        xml.dom.minidom.parseString(svg)
        self.assertIn("data.csv", svg)
        lineage.resources[0]["name"] = "<script>&"
        self.assertNotIn("<script>", lineage._repr_svg_())
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

    def test_every_part_counts(self):
        def changed(change):
            doc = json.loads(self.lineage.proof)
            change(doc)
            return json.dumps(doc)

        def flip(text):
            raw = bytearray(base64.b64decode(text))
            raw[len(raw) // 2] ^= 1
            return base64.b64encode(raw).decode()

        def swap(doc):
            doc["entries"][1]["body"], doc["entries"][0]["body"] = doc["entries"][0]["body"], doc["entries"][1]["body"]

        for name, change in {
            "a body": lambda d: d["entries"][-1].update(body=flip(d["entries"][-1]["body"])),
            "a proof": lambda d: d["entries"][-1]["proof"].__setitem__(0, flip(d["entries"][-1]["proof"][0])),
            "a proof too long": lambda d: d["entries"][-1]["proof"].append(d["entries"][-1]["proof"][0]),
            "no proof": lambda d: d["entries"][-1].pop("proof"),
            "an index": lambda d: d["entries"][-1].update(index=d["entries"][-1]["index"] - 1),
            "two bodies": swap,
            "the size": lambda d: d.update(checkpoint=d["checkpoint"].replace("\n%d\n" % self.lineage.size, "\n%d\n" % (self.lineage.size + 1), 1)),
            "no genesis": lambda d: d["entries"].pop(0),
            "an entry left out": lambda d: d["entries"].pop(-1),
            "an edge's end": lambda d: d["claim"]["edges"][0].update(to="sha256:" + "a" * 64),
            "an edge's entry": lambda d: d["claim"]["edges"][0].update(entry=0),
            "an edge less": lambda d: d["claim"]["edges"].pop(),
            "another size": lambda d: d["claim"].update(size=self.lineage.size + 5),
            "another format": lambda d: d.update(format="retrace bundle v9"),
            "no claim": lambda d: d.pop("claim"),
        }.items():
            v = self.check(changed(change))
            self.assertIs(v.ok, False, name)
            self.assertFalse(v, name)
        self.assertIs(self.check("not JSON").ok, False)

    def test_another_key(self):
        other = tempfile.mkdtemp(dir=TMP)
        self.run_retrace("--dir", other + "/x", "init")
        self.assertIs(self.check(self.lineage.proof, pathlib.Path(other, "x/log.vkey").read_text()).ok, False)
        for wrong in ("x+00000000+AAAA", self.key.replace("+", "+0", 1)):
            with self.assertRaises((retrace.RetraceError, ValueError)):
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
        v = retrace.verify(json.dumps(bundle), vkey)
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
        v = self.check(pathlib.Path("b").read_text(), pathlib.Path(".retrace/log.vkey").read_text())
        self.assertIs(v.ok, False)
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
        for what in ({"model": "mine", "outputs": ["x"]}, {"model": "mine:1"}):
            with self.assertRaises(retrace.RetraceError) as caught:
                retrace.step("train", **what)
            self.assertEqual(caught.exception.code, "BAD_INPUT")

    def test_git(self):
        git = ["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.com"]
        pathlib.Path(".gitignore").write_text(".retrace\n")
        subprocess.run([*git, "init", "-q"], check=True)
        subprocess.run([*git, "add", "-A"], check=True)
        subprocess.run([*git, "commit", "-q", "-m", "first"], check=True)
        subprocess.run([*git, "remote", "add", "origin", "https://ada:hunter2@git.example/ml/x.git"], check=True)
        pathlib.Path("data.csv").write_text("dirty")
        commit, dirty, uri = retrace._git()
        self.assertEqual((len(commit), dirty, uri), (40, "data.csv", "git+https://git.example/ml/x"))

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
        with self.assertRaises(retrace.RetraceError):
            shell.run_line_magic("retrace", "nothing")


if __name__ == "__main__":
    unittest.main()
