"""Tolerances through QATrack+'s REST API: one that may be written, and 3.1.1's, which may only be read."""

import contextlib
import http.server
import json
import subprocess
import sys
import threading
import types
import urllib.parse

import pytest

TOKEN = "0123456789abcdef"


class Api(http.server.BaseHTTPRequestHandler):
    """The part of /api/qa/ that the command uses, over dicts."""

    def log_message(self, *arguments):
        pass

    def _answer(self, status, value, allow=None):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if allow:
            self.send_header("Allow", allow)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _go(self):
        state = self.server.state
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        state["requests"].append((self.command, self.path))
        if self.headers.get("Authorization") != "Token " + TOKEN:
            return self._answer(401, {"detail": "Invalid token."})
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        parts = url.path.strip("/").split("/")  # api qa kind [id]
        if parts[:2] != ["api", "qa"] or parts[2] not in state["rows"]:
            return self._answer(404, {"detail": "Not found."})
        rows = state["rows"][parts[2]]
        if self.command == "OPTIONS":
            writable = "GET, PUT, PATCH, DELETE, HEAD, OPTIONS" if state["writable"] else "GET, HEAD, OPTIONS"
            return self._answer(200, {}, writable)
        if self.command == "GET" and len(parts) == 4:
            return self._answer(200, rows[int(parts[3]) - 1])
        if self.command == "GET":
            return self._answer(200, self._page(parts[2], rows, query))
        if not state["writable"]:
            return self._answer(405, {"detail": "Method not allowed."})
        if self.command == "POST":
            row = dict(body, url="{}/api/qa/{}/{}/".format(state["url"], parts[2], len(rows) + 1))
            rows.append(row)
            return self._answer(201, row)
        rows[int(parts[3]) - 1].update(body)
        return self._answer(200, rows[int(parts[3]) - 1])

    def _page(self, kind, rows, query):
        if kind == "unittestinfos":
            wanted = (int(query["unit__number"]), query["test__slug"])
            rows = [row for row in rows if (row["_unit"], row["_slug"]) == wanted]
        # Two a page, so that paging is used.
        offset = int(query.get("offset", 0))
        more = "{}/api/qa/{}/?{}".format(
            self.server.state["url"], kind, urllib.parse.urlencode(dict(query, offset=offset + 2))
        )
        return {"results": rows[offset : offset + 2], "next": more if len(rows) > offset + 2 else None}

    do_GET = do_POST = do_PATCH = do_OPTIONS = _go


@contextlib.contextmanager
def qatrack(writable):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api)
    url = "http://127.0.0.1:{}".format(server.server_address[1])
    info = {"url": url + "/api/qa/unittestinfos/1/", "_unit": 3, "_slug": "wl_cax_bb_max"}
    info.update(reference=None, tolerance=None)
    others = [
        {"url": "{}/api/qa/tolerances/{}/".format(url, n + 1), "type": "absolute", "act_high": 2.0 + n}
        for n in range(3)
    ]
    rows = {"unittestinfos": [info], "references": [], "tolerances": others}
    server.state = {"url": url, "writable": writable, "rows": rows, "requests": []}
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def command(state, *arguments, token=TOKEN):
    import os

    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "qatrack_ext", "testpack", "tolerances", "--url", state["url"]]
        + ["--unit", "3"] + list(arguments),
        env=dict(os.environ, QATRACK_TOKEN=token),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )  # fmt: skip


@pytest.mark.parametrize(("profile", "act_high"), [("srs", 1.0), ("sbrt", 1.5)])
def test_sets_reference_and_tolerance_and_a_second_run_changes_nothing(profile, act_high):
    with qatrack(writable=True) as state:
        done = command(state, "--profile", profile)
        assert done.returncode == 0, done.stderr
        assert "wl_cax_bb_max: reference 0, act_high {:g} (AAPM MPPG 9.a, Table 1".format(act_high) in done.stdout
        info = state["rows"]["unittestinfos"][0]
        assert info["reference"] == state["rows"]["references"][0]["url"]
        assert state["rows"]["references"][0]["value"] == 0.0
        made = state["rows"]["tolerances"][3]
        assert info["tolerance"] == made["url"]
        assert (made["type"], made["act_high"], made["tol_high"], made["act_low"]) == ("absolute", act_high, None, None)
        again = command(state, "--profile", profile)
        assert again.stdout.strip() == "wl_cax_bb_max: already set"
        assert len(state["rows"]["tolerances"]) == 4 and len(state["rows"]["references"]) == 1


def test_an_api_that_may_only_be_read_is_left_alone_and_the_script_is_named():
    with qatrack(writable=False) as state:
        done = command(state, "--profile", "srs")
        assert done.returncode == 1
        assert "--script" in done.stderr and "manage.py shell" in done.stderr
        assert {method for method, _ in state["requests"]} <= {"GET", "OPTIONS"}


@pytest.mark.parametrize(
    ("arguments", "token", "told"),
    [
        (["--profile", "srs"], "wrong", "the token is not valid"),
        (["--profile", "srs", "--unit", "9"], TOKEN, "unit 9 has no tests called wl_cax_bb_max"),
        (["--profile", "srs", "--url", "http://127.0.0.1:1"], TOKEN, "cannot be reached"),
        (["--profile", "srs"], "", "needs a token"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(arguments, token, told):
    with qatrack(writable=True) as state:
        done = command(state, *arguments, token=token)
    assert done.returncode == 1 and told in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_script_sets_the_same_through_the_models(monkeypatch, capsys):
    from qatrack_ext import _tolerances

    text = _tolerances.script(_tolerances.wanted("winston-lutz", "sbrt"), 3)
    made = []

    class Rows:
        def __init__(self, kind):
            self.kind = kind

        def filter(self, **fields):
            return self

        def first(self):
            return None

        def create(self, **fields):
            made.append((self.kind, fields))
            return (self.kind, fields)

        def get(self, **fields):
            made.append((self.kind, fields))
            return types.SimpleNamespace(save=lambda: made.append(("saved", fields)))

    models = types.ModuleType("qatrack.qa.models")
    for kind in ("Reference", "Tolerance", "UnitTestInfo"):
        setattr(models, kind, types.SimpleNamespace(objects=Rows(kind)))
    qa = types.ModuleType("qatrack.qa")
    qa.models = models
    utils = types.ModuleType("qatrack.qa.utils")
    utils.get_internal_user = lambda: "internal"
    database = types.ModuleType("django.db")
    database.transaction = types.SimpleNamespace(atomic=contextlib.nullcontext)
    for name, module in (("qatrack", types.ModuleType("qatrack")), ("qatrack.qa", qa), ("qatrack.qa.models", models),
                         ("qatrack.qa.utils", utils), ("django", types.ModuleType("django")), ("django.db", database)):  # fmt: skip
        monkeypatch.setitem(sys.modules, name, module)
    exec(compile(text, "script", "exec"), {})
    kinds = [kind for kind, _ in made]
    assert kinds == ["UnitTestInfo", "Reference", "Tolerance", "saved"]
    assert made[0][1] == {"unit__number": 3, "test__slug": "wl_cax_bb_max"}
    assert made[1][1]["value"] == 0.0 and made[2][1]["act_high"] == 1.5 and made[2][1]["tol_high"] is None
    assert "wl_cax_bb_max" in capsys.readouterr().out
