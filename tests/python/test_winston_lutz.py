"""The Winston-Lutz list from the built pack, evaluated as QATrack+ does, on images that an archive serves."""

import datetime as dt
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest

from archives import DEADLINE_S
from conftest import AXES, ROOT, Offsets
from qatrack_page import ZONE, Page, load_list

PACK = ROOT / "testpacks" / "winston-lutz.tpk"
STARTED = dt.datetime(2026, 11, 20, 7, 0, tzinfo=ZONE)
ACQUIRED = dt.datetime(2026, 11, 20, 7, 5)
TOLERANCE_MM = 0.1
GANTRY_ONLY = [axes for axes in AXES if axes[1:] == (0, 0)]
NUMBERS = [
    "wl_cax_bb_max", "wl_cax_bb_median", "wl_cax_bb_mean", "wl_cax_epid_max", "wl_iso_gantry", "wl_iso_collimator",
    "wl_iso_couch", "wl_iso_gantry_collimator", "wl_shift_x", "wl_shift_y", "wl_shift_z",
]  # fmt: skip


PREVIOUS = {"wl_patient": "QA_TB_WL", "wl_plan": "WL_10MV"}


def opened(report=False, started=STARTED, **previous):
    """The list as a physicist finds it: patient and plan are those of the last one.

    Drawing the report takes most of the time; tests that are not about it leave it out.
    """
    element = load_list(PACK, "winston-lutz")
    for dependency in element["dependencies"]:
        fields = dependency["fields"]
        if not report and fields.get("slug") == "wl_data":
            assert "when=wl_done," in fields["calculation_procedure"]
            fields["calculation_procedure"] = fields["calculation_procedure"].replace("when=wl_done,", "when=wl_done, attach=False,")
    return Page(element, started, dict(PREVIOUS, **previous))


def finished(page, report=False):
    """Evaluates again, as every input of the user does, until all is there; then what is shown."""
    end = time.monotonic() + 120
    while page.shown["wl_data"]["status"] != "done" or (report and not page.kept.get("wl_data")):
        assert time.monotonic() < end, page.shown
        assert page.shown["wl_data"]["status"] in ("waiting", "done"), page.shown["wl_status"]
        page.evaluate()
    return page.shown


def check_offsets(shown):
    """The shift brings the ball back: the opposite of where it was put."""
    assert shown["wl_shift_x"] == pytest.approx(Offsets.left, abs=TOLERANCE_MM)  # from the left to the right
    assert shown["wl_shift_y"] == pytest.approx(-Offsets.into, abs=TOLERANCE_MM)  # y is towards the gantry
    assert shown["wl_shift_z"] == pytest.approx(-Offsets.up, abs=TOLERANCE_MM)
    # The largest in-plane distance is that of the view from gantry 0 or 180 degrees.
    assert shown["wl_cax_bb_max"] == pytest.approx(math.hypot(Offsets.left, Offsets.into), abs=TOLERANCE_MM)
    assert shown["wl_cax_epid_max"] == pytest.approx(0.0, abs=TOLERANCE_MM)
    assert shown["wl_iso_gantry"] == pytest.approx(0.0, abs=TOLERANCE_MM)


def nothing_given(page, status):
    assert page.shown["wl_status"].split(":")[0] == status, page.shown["wl_status"]
    assert [name for name in NUMBERS if page.shown[name] is not None] == []
    assert page.attachments == [] and not page.dropped
    assert [slug for slug, error in page.errors.items() if error] == []


@pytest.fixture
def today(patient, orthanc, node):
    """An archive with today's full session of the plan, and an older one."""
    plan = patient.plan("WL_10MV")
    patient.session(plan, ACQUIRED - dt.timedelta(days=7))
    patient.session(plan, ACQUIRED, kv=1)
    orthanc.load(patient.directory)
    node.write(orthanc)
    return patient


def test_while_images_are_taken_the_list_waits_and_asks_nobody(patient, node):
    node.file.write_text("")  # no archive at all: whoever asked one would fail
    page = opened()
    assert page.values["wl_patient"] == "QA_TB_WL" and page.values["wl_plan"] == "WL_10MV"
    assert page.values["wl_date"] == "20 Nov 2026"
    nothing_given(page, "waiting")
    page.enter(wl_done=0)
    nothing_given(page, "waiting")
    page.enter(wl_plan="", wl_done=1)
    nothing_given(page, "waiting")
    assert "enter the patient ID" in page.shown["wl_status"]


def test_a_full_set_gives_the_offsets_and_one_report_however_often_it_is_evaluated_edited_or_shared(today, orthanc):
    page = opened(report=True)
    page.enter(wl_done=1)
    shown = finished(page, report=True)
    check_offsets(shown)
    assert shown["wl_status"] == "done"
    assert shown["wl_acquired"] == "2026-11-20 07:05:00"
    assert [shown["wl_n_" + axis] for axis in ("images", "gantry", "collimator", "couch")] == [8, 4, 3, 3]
    assert shown["wl_software"].startswith("pylinac 3.")
    assert shown["wl_iso_collimator"] is not None and shown["wl_iso_couch"] is not None
    names = [name for name, _ in page.attachments]
    assert names == ["winston-lutz-20261120-070500.png", "winston-lutz-20261120-070500.pdf"]
    assert page.attachments[0][1].startswith(b"\x89PNG") and page.attachments[1][1].startswith(b"%PDF")
    form = list(page.kept["wl_data"])
    for _ in range(20):
        page.evaluate()
        assert page.shown == shown
    assert len(page.attachments) == 2 and page.kept["wl_data"] == form
    # A day later, when newer images are there, the list is edited: same images, nothing attached again.
    for later in (ACQUIRED + dt.timedelta(hours=10), ACQUIRED + dt.timedelta(days=1)):
        today.session(shown["wl_data"]["plan_uid"], later)
    orthanc.load(today.directory)
    page.edit(completed=STARTED + dt.timedelta(minutes=20))
    assert page.shown == shown and len(page.attachments) == 2
    # Another list of the same images has them at once, with a report of its own.
    other = opened(report=True, started=STARTED + dt.timedelta(minutes=3), wl_date=None)
    other.completed = STARTED + dt.timedelta(minutes=20)
    other.enter(wl_done=1)
    assert other.shown["wl_cax_bb_max"] == shown["wl_cax_bb_max"] and len(other.attachments) == 2


def test_a_gantry_only_set_gives_no_collimator_and_couch_isocentre(patient, orthanc, node):
    patient.session(patient.plan("WL_10MV"), ACQUIRED, GANTRY_ONLY)
    orthanc.load(patient.directory)
    node.write(orthanc)
    page = opened()
    page.enter(wl_done=1)
    shown = finished(page)
    check_offsets(shown)
    for axis in ("collimator", "couch", "gantry_collimator"):
        assert shown["wl_iso_" + axis] is None
    assert [shown["wl_n_" + axis] for axis in ("gantry", "collimator", "couch")] == [4, 0, 0]
    assert "not given: collimator (no images); couch (no images)" in shown["wl_status"]


def test_opposite_gantry_angles_give_no_shift_and_no_isocentre(patient, orthanc, node):
    patient.session(patient.plan("WL_10MV"), ACQUIRED, [(0, 0, 0), (180, 0, 0)])
    orthanc.load(patient.directory)
    node.write(orthanc)
    page = opened()
    page.enter(wl_done=1)
    shown = finished(page)
    assert [shown[name] for name in ("wl_iso_gantry", "wl_shift_x", "wl_shift_y", "wl_shift_z")] == [None] * 4
    assert shown["wl_cax_bb_max"] == pytest.approx(math.hypot(Offsets.left, Offsets.into), abs=TOLERANCE_MM)
    assert "BB shift (needs gantry angles that are not opposite)" in shown["wl_status"]


def test_without_images_of_the_day_the_newest_day_is_named(today):
    page = opened(started=STARTED + dt.timedelta(days=1))
    page.enter(wl_done=1)
    nothing_given(page, "no images")


def test_a_plan_that_the_archive_does_not_have_is_told(today):
    page = opened(wl_plan="WL_15MV")
    page.enter(wl_done=1)
    nothing_given(page, "no images")
    assert "WL_15MV" in page.shown["wl_status"] and "WL_10MV" in page.shown["wl_status"]


def test_an_archive_that_is_down_is_told_and_the_list_works_once_it_is_back(today, orthanc, node):
    orthanc.process.kill()
    orthanc.process.wait()
    page = opened()
    page.enter(wl_done=1)
    nothing_given(page, "error")
    assert "ORTHANC" in page.shown["wl_status"]


def test_images_that_the_archive_lists_but_does_not_send_give_nothing(patient, aria, node):
    patient.session(patient.plan("WL_10MV"), ACQUIRED, GANTRY_ONLY)
    aria.load()
    aria.order(fail=[sorted(patient.images)[0]])
    node.write(aria)
    page = opened()
    page.enter(wl_done=1)
    nothing_given(page, "incomplete")
    aria.order(fail=[])
    page.evaluate()
    check_offsets(finished(page))


def test_the_simulated_aria_gives_the_offsets_that_were_put_in(patient, aria, node):
    patient.session(patient.plan("WL_10MV"), ACQUIRED)
    aria.load()
    node.write(aria)
    page = opened()
    page.enter(wl_done=1)
    check_offsets(finished(page))
    assert aria.order()["moves"] == 1


def series_code(**arguments):
    return "import json, qatrack_ext; s = qatrack_ext.winston_lutz(None, None, attach=False, **json.loads({!r})); print(json.dumps(s, allow_nan=False))".format(
        json.dumps(arguments)
    )


def told(run_python, code):
    """What a fresh process is told once the analysis is through."""
    end = time.monotonic() + 120
    while True:
        answer = json.loads(run_python(code))
        if answer["status"] != "waiting" or time.monotonic() > end:
            return answer


def test_a_damaged_result_is_made_again(today, node, run_python):
    code = series_code(patient="QA_TB_WL", plan="WL_10MV")
    first = told(run_python, code)
    assert first["status"] == "done"
    (result,) = (node.cache / "winston_lutz_worker").glob("*/result.json")
    whole = result.read_text()
    result.write_text(whole.replace("0.", "9.", 1))
    assert told(run_python, code) == first
    assert result.read_text() == whole


@pytest.mark.parametrize("damage", ["half", "", "[]", '{"format": 1, "result": 5}', "\x00" * 100])
def test_whatever_a_kept_result_is_damaged_to_it_is_thrown_away(tmp_path, damage):
    from qatrack_ext import _analysis, _winston_lutz_worker

    path = tmp_path / "result.json"
    _winston_lutz_worker._write_json(str(path), _winston_lutz_worker._sealed({"n_images": 8, "x_mm": 0.25}))
    assert _analysis._read_result(path) == {"n_images": 8, "x_mm": 0.25}
    path.write_text(path.read_text()[:40] if damage == "half" else damage)
    (tmp_path / "report.json").write_text("{}")
    assert _analysis._read_result(path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_report_is_drawn_again(tmp_path):
    from qatrack_ext import _analysis, _winston_lutz_worker as worker

    def draw(path):
        pathlib.Path(path).write_bytes(b"%PDF whole")

    def outcome():
        return _analysis.Outcome("key", {}, tmp_path, _analysis._read_report(tmp_path))

    def made():
        worker._write_json(str(tmp_path / "report.json"), {"report.pdf": worker._drawn(str(tmp_path / "report.pdf"), draw)})

    made()
    assert _analysis.content(outcome(), "report.pdf") == b"%PDF whole"
    (tmp_path / "report.pdf").write_bytes(b"%PDF other")  # same length
    assert _analysis.content(outcome(), "report.pdf") is None
    assert outcome().files is None
    made()
    (tmp_path / "report.pdf").write_bytes(b"%PDF")
    assert outcome().files is None
    made()
    (tmp_path / "report.pdf").unlink()
    assert outcome().files is None


def test_what_was_not_used_for_keep_days_is_removed_but_not_what_is_used_now(tmp_path, monkeypatch):
    from qatrack_ext import _analysis

    settings = _analysis.Settings(sys.executable, tmp_path, 60.0, 25.0, 90)
    places = ["winston_lutz_worker/a", "attached/b", "views/c", "views/used"]
    long_ago = time.time() - 91 * 86_400
    for place in places:
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "file").write_text("")
        os.utime(str(tmp_path / place), (long_ago, long_ago))
    (tmp_path / "views" / "new").mkdir()
    (tmp_path / "entry").mkdir()
    monkeypatch.setattr(_analysis, "_pruned_at", 0.0)
    job = _analysis.Job("no_worker.py", "pylinac", tmp_path / "views" / "used", ["1.2"], {}, [], False)
    _analysis._start(job, settings, sys.executable, tmp_path / "entry")
    _analysis._running.pop(str(tmp_path / "entry")).wait()
    assert [place for place in places + ["views/new"] if (tmp_path / place).exists()] == ["views/used", "views/new"]


def test_what_pylinac_says_reaches_the_user_and_is_not_kept_for_long(today, node, run_python):
    code = series_code(patient="QA_TB_WL", plan="WL_10MV", bb_mm=40.0)
    answer = told(run_python, code)
    assert answer["status"] == "error" and answer["reason"] and answer["max_2d_cax_to_bb_mm"] is None
    (result,) = (node.cache / "winston_lutz_worker").glob("*/result.json")
    os.utime(str(result), (1, 1))
    assert told(run_python, code)["status"] == "error"
    assert result.stat().st_mtime > 1, "it was not tried again"


def test_an_interpreter_without_pylinac_is_told_with_what_to_do(today, orthanc, node, run_python, tmp_path):
    empty = tmp_path / "empty"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(empty)], check=True)
    python = empty / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    for interpreter, what in ((python, "cannot import pylinac"), (tmp_path / "nowhere", "cannot start")):
        node.write(orthanc, "python = '{}'".format(interpreter))
        answer = json.loads(run_python(series_code(patient="QA_TB_WL", plan="WL_10MV")))
        assert answer["status"] == "error"
        assert what in answer["reason"] and "[analysis] python" in answer["reason"], answer["reason"]


def test_pylinac_may_live_in_another_environment_than_qatracks(today, orthanc, node, tmp_path, installed_wheel):
    empty, site = tmp_path / "empty", tmp_path / "site"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(empty)], check=True)
    shutil.copytree(str(installed_wheel), str(site / "qatrack_ext"))
    node.write(orthanc, "python = '{}'".format(sys.executable))
    python = empty / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    code = series_code(patient="QA_TB_WL", plan="WL_10MV")
    environment = dict(os.environ, PYTHONPATH=str(site))  # QATrack+'s, which must not reach the other interpreter

    def run(code):
        return subprocess.run([str(python), "-c", code], env=environment, stdout=subprocess.PIPE, check=True).stdout

    assert subprocess.run([str(python), "-c", "import pylinac"], stderr=subprocess.DEVNULL).returncode == 1
    answer = told(run, code)
    assert answer["status"] == "done", answer["reason"]
    assert answer["software"].startswith("pylinac 3.")


STUB = """
import types
__version__ = {version!r}

class WinstonLutz:
    def __init__(self, directory):
        self.bb_shift_vector = types.SimpleNamespace(x=1.0, y=float("nan"), z=3.0)
        self.images = [
            types.SimpleNamespace(variable_axis=axis, gantry_angle=g, collimator_angle=0, couch_angle=p, cax2epid_distance=d)
            for axis, g, p, d in [("Reference", 0, 0, 0.1), ("Gantry", 90, 0, 0.2), ("Gantry", 180, 0, 0.6), ("Couch", 0, 90, 0.3)]
        ]

    def analyze(self, bb_size_mm):
        pass

    def results_data(self):
        names = ["max_2d_cax_to_bb_mm", "median_2d_cax_to_bb_mm", "mean_2d_cax_to_bb_mm", "gantry_3d_iso_diameter_mm",
                 "coll_2d_iso_diameter_mm", "couch_2d_iso_diameter_mm", "gantry_coll_3d_iso_diameter_mm"]
        return types.SimpleNamespace(max_2d_cax_to_epid_mm=9.9, **{{name: 0.5 for name in names if name != {missing!r}}})
"""


def by_stub(tmp_path, installed_wheel, version="3.26.0", missing=None, **job):
    """What the worker makes of a pylinac of which only the version and the results are true."""
    (tmp_path / "pylinac.py").write_text(STUB.format(version=version, missing=missing))
    (tmp_path / "matplotlib.py").write_text("def use(backend):\n    pass\n")
    out = tmp_path / "out"
    out.mkdir()
    job = dict({"images": "", "out": str(out), "parameters": {"bb_size_mm": 5.0}, "notes": [], "report": False, "timeout_s": 60, "n_images": 4}, **job)
    (tmp_path / "job.json").write_text(json.dumps(job))
    worker = str(installed_wheel / "_winston_lutz_worker.py")
    environment = dict(os.environ, PYTHONPATH=str(tmp_path))
    subprocess.run([sys.executable, worker, str(tmp_path / "job.json")], env=environment, check=True)
    return json.loads((out / "result.json").read_text())["result"]


@pytest.mark.parametrize(("version", "fits"), [("2.5.0", False), ("3.19.0", False), ("3.20.0", True), ("3.49.0", True), ("4.0.0", False)])
def test_a_pylinac_that_does_not_fit_is_told(tmp_path, installed_wheel, version, fits):
    result = by_stub(tmp_path, installed_wheel, version)
    assert ("error" not in result) == fits
    if not fits:
        assert version in result["error"] and "3.20 or newer, below 4, is needed" in result["error"]


def test_a_result_that_moved_in_pylinac_is_told_by_name(tmp_path, installed_wheel):
    result = by_stub(tmp_path, installed_wheel, missing="median_2d_cax_to_bb_mm")
    assert "this pylinac's results have no median_2d_cax_to_bb_mm" in result["error"]


def test_a_parameter_that_pylinac_does_not_know_is_told(tmp_path, installed_wheel):
    result = by_stub(tmp_path, installed_wheel, parameters={"bb_size_mm": 5.0, "open_field": True})
    assert result["error"] == "pylinac 3.26.0 has no parameter open_field for Winston-Lutz"


def test_images_that_pylinac_left_out_are_told(tmp_path, installed_wheel):
    assert "pylinac took 4 of 5 images" in by_stub(tmp_path, installed_wheel, n_images=5)["error"]


@pytest.mark.parametrize(("version", "shift"), [("3.21.1", [None, None, None]), ("3.22.0", [1.0, None, 3.0])])
def test_only_what_is_right_and_finite_is_given(tmp_path, installed_wheel, version, shift):
    result = by_stub(tmp_path, installed_wheel, version)
    assert [result["bb_shift_{}_mm".format(axis)] for axis in "xyz"] == shift  # couch rotated; y is no number
    assert result["max_2d_cax_to_epid_mm"] == 0.6 and result["median_2d_cax_to_epid_mm"] == pytest.approx(0.25)
    assert result["gantry_3d_iso_diameter_mm"] == 0.5
    assert result["coll_2d_iso_diameter_mm"] is None and result["couch_2d_iso_diameter_mm"] is None
    assert "couch (2 angles, needs 3)" in result["not_covered"]


def test_an_analysis_that_takes_too_long_is_ended_and_told(today, orthanc, node, run_python):
    node.write(orthanc, "timeout_s = 0.3")
    answer = json.loads(run_python(series_code(patient="QA_TB_WL", plan="WL_10MV")))
    assert answer["status"] == "error" and "took longer than 0.3 s" in answer["reason"]


def test_a_slow_analysis_does_not_hold_the_page_and_its_result_comes_later(today, orthanc, node, run_python):
    node.write(orthanc, "answer_within_s = 1.0")
    code = series_code(patient="QA_TB_WL", plan="WL_10MV")
    answers = []
    end = time.monotonic() + 4 * DEADLINE_S
    while not answers or answers[-1]["status"] != "done":
        assert time.monotonic() < end, answers[-1]
        answers.append(json.loads(run_python(code)))
    assert {answer["status"] for answer in answers[:-1]} <= {"waiting"}
    assert len(list((node.cache / "winston_lutz_worker").iterdir())) == 1


def test_the_hooks_command_prepares_what_the_list_then_finds(today, node):
    import qatrack_ext

    series = qatrack_ext.series("QA_TB_WL", "WL_10MV")
    directory = pathlib.Path(str(series.files[0])).parent
    command = [sys.executable, "-W", "error", "-m", "qatrack_ext", "analyze", str(directory)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
    assert done.returncode == 0, done.stderr
    prepared = json.loads(done.stdout)["result"]
    (entry,) = (node.cache / "winston_lutz_worker").iterdir()
    made = (entry / "result.json").stat().st_mtime_ns
    page = opened(report=True)
    page.enter(wl_done=1)
    assert page.shown["wl_cax_bb_max"] == prepared["max_2d_cax_to_bb_mm"]
    assert len(page.attachments) == 2, "the report was there at the first evaluation"
    assert (entry / "result.json").stat().st_mtime_ns == made
    elsewhere = subprocess.run(command[:-1] + ["/"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
    assert elsewhere.returncode == 1 and "is no session of the catalog" in elsewhere.stderr


def test_a_nan_would_empty_the_page_so_the_harness_can_fail():
    element = load_list(PACK, "winston-lutz")
    for dependency in element["dependencies"]:
        if dependency["model"] == "qa.test" and dependency["fields"]["slug"] == "wl_data":
            dependency["fields"]["calculation_procedure"] = "wl_data = {'status': wl_done, 'x': float('nan')}\n"
    assert Page(element, STARTED).dropped


def test_attachments_are_listed_again_inside_qatrack_but_never_doubled(tmp_path, monkeypatch):
    """A page loaded anew in the same minute has forgotten its attachments; QATrack+'s own table says whose they are."""
    import types

    from qatrack_ext import _attachments
    from qatrack_page import Utils

    page = types.SimpleNamespace(attachments=[], previous={})
    rows = {}
    models = types.ModuleType("qatrack.attachments.models")
    chosen = lambda pk__in: [rows[pk] for pk in pk__in if pk in rows]  # noqa: E731
    models.Attachment = types.SimpleNamespace(objects=types.SimpleNamespace(filter=chosen))
    for name, module in (("qatrack", None), ("qatrack.attachments", None), (models.__name__, models)):
        monkeypatch.setitem(sys.modules, name, module or types.ModuleType(name))
    performing = {"test_list_name": "WL", "unit_number": 1, "work_started": STARTED, "work_completed": ""}
    editing = dict(performing, work_completed=STARTED)

    def evaluate(meta):
        context = {}
        utils = Utils(context, page)
        _attachments.attach_once(utils, meta, tmp_path, "key", [("a.png", b"1"), ("a.pdf", b"2")])
        return [attachment["attachment_id"] for attachment in context["__user_attached__"]]

    assert evaluate(performing) == [1, 2]
    rows.update({n: types.SimpleNamespace(testinstance_id=None) for n in (1, 2)})
    assert evaluate(performing) == [1, 2] and len(page.attachments) == 2
    for row in rows.values():
        row.testinstance_id = 7  # submitted
    assert evaluate(editing) == [] and len(page.attachments) == 2
    assert evaluate(performing) == [3, 4], "another list of the same minute gets its own"
    del rows[1]
    rows.update({n: types.SimpleNamespace(testinstance_id=None) for n in (3, 4)})
    assert evaluate(performing) == [3, 4]
    del rows[3]
    assert evaluate(performing) == [5, 6], "deleted ones are made again"
