"""series(), sessions(), plans(): images whole, numbers right, one move however many ask, and the GIL free meanwhile."""

import contextlib
import datetime as dt
import json
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest

import qatrack_ext
from archives import DEADLINE_S
from conftest import AXES

ACQUIRED = dt.datetime(2026, 11, 20, 7, 5)


def served(archive, patient, node):
    archive.load(patient.directory)
    node.write(archive)


def test_the_newest_session_comes_whole_with_its_numbers_and_stored_pixels(patient, orthanc, node):
    plan = patient.plan("WL_10MV")
    patient.session(plan, ACQUIRED - dt.timedelta(days=7), AXES[:4])
    newest = patient.session(plan, ACQUIRED, AXES, kv=2)
    served(orthanc, patient, node)
    s = qatrack_ext.series("QA_TB_WL", "WL_10MV")
    assert (s.patient_id, s.plan_label, s.plan_uid, s.series_uid) == ("QA_TB_WL", "WL_10MV", plan, newest)
    assert s.acquired == ACQUIRED and len(s) == len(AXES)
    angles = zip(s.gantry_iec_deg, s.collimator_iec_deg, s.couch_iec_deg)
    assert [tuple(map(round, axes)) for axes in angles] == AXES
    assert sorted(path.name for path in s.path.iterdir()) == sorted(path.name for path in s.files)
    assert s.images.shape == (len(AXES), 1280, 1280) and s.images is s.images
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pydicom

        for index, file in enumerate(s.files):
            stored = pydicom.dcmread(str(file))
            assert stored.SOPInstanceUID == s.instance_uids[index]
            assert np.array_equal(stored.pixel_array, s.images[index]) and stored.pixel_array.dtype == s.images.dtype
            assert float(stored.RTImageSID) == s.sid_mm[index]
            assert list(map(float, stored.ImagePlanePixelSpacing)) == list(s.pixel_spacing_mm[index])
    assert np.array_equal(s.image(-1), s.images[-1])
    with pytest.raises(IndexError):
        s.image(len(s))
    kept = s.to_dict()
    assert json.loads(json.dumps(kept, allow_nan=False)) == kept
    assert kept["gantry_iec_deg"] == list(s.gantry_iec_deg)

    older = qatrack_ext.series("QA_TB_WL", "WL_10MV", date=ACQUIRED.date() - dt.timedelta(days=7))
    assert older.acquired == ACQUIRED - dt.timedelta(days=7) and len(older) == 4
    same = qatrack_ext.series("QA_TB_WL", "WL_10MV", before=ACQUIRED)
    assert same.series_uid == older.series_uid
    kv = qatrack_ext.series("QA_TB_WL", "WL_10MV", kv=True)
    assert len(kv) == 2 and not set(kv.instance_uids) & set(s.instance_uids)

    listed = qatrack_ext.sessions("QA_TB_WL", "WL_10MV")
    assert [(entry["acquired"], entry["n_images"]) for entry in listed] == [(s.acquired, 8), (older.acquired, 4)]
    assert qatrack_ext.sessions("QA_TB_WL", date="2026-11-20")[0]["series_uid"] == newest
    assert qatrack_ext.sessions("QA_TB_WL", limit=1) == listed[:1]
    assert [entry["plan_uid"] for entry in qatrack_ext.plans("QA_TB_WL")] == [plan]

    orthanc.stop()
    offline = qatrack_ext.series("QA_TB_WL", "WL_10MV", fetch=False)
    assert offline.instance_uids == s.instance_uids


def test_what_an_image_does_not_state_is_nan_in_arrays_and_none_in_a_dict(patient, orthanc, node):
    def unstated(image):
        del image.GantryAngle
        image.RTImageSID = None

    patient.session(patient.plan("WL_10MV"), ACQUIRED, AXES[:2], change=unstated)
    served(orthanc, patient, node)
    s = qatrack_ext.series("QA_TB_WL", "WL_10MV")
    assert np.isnan(s.gantry_iec_deg).all() and np.isnan(s.sid_mm).all()
    assert s.to_dict()["gantry_iec_deg"] == [None, None] == s.to_dict()["sid_mm"]


def test_images_of_another_type_are_not_taken(patient, orthanc, node):
    plan = patient.plan("WL_10MV")

    def dose(image):
        image.ImageType = ["ORIGINAL", "PRIMARY", "PORTAL", "ACQUIRED_DOSE"]

    patient.session(plan, ACQUIRED, AXES[:2], change=dose)
    portal = patient.session(plan, ACQUIRED - dt.timedelta(hours=1), AXES[:3])
    served(orthanc, patient, node)
    assert len(qatrack_ext.series("QA_TB_WL", "WL_10MV", image_type="ACQUIRED_DOSE")) == 2
    exact = qatrack_ext.series("QA_TB_WL", "WL_10MV", image_type="ORIGINAL\\PRIMARY\\PORTAL")
    assert exact.series_uid == portal


def test_errors_stand_alone_and_are_of_the_right_class(patient, orthanc, node):
    patient.session(patient.plan("WL_10MV"), ACQUIRED, AXES[:1])
    served(orthanc, patient, node)
    cases = [
        (("QA_TB_WL", "WL_15MV"), {}, qatrack_ext.NotFoundError, "WL_10MV"),
        (("NOBODY", "WL_10MV"), {}, qatrack_ext.NotFoundError, "WL_10MV"),
        (("QA_TB_WL", "WL_10MV"), {"date": "2020-01-01"}, qatrack_ext.NotFoundError, "2020"),
        (("QA_TB_WL", "WL_10MV"), {"plan_uid": "x"}, qatrack_ext.MisuseError, "no UID"),
        (("QA_TB_WL", "WL_10MV"), {"timeout": -1}, qatrack_ext.MisuseError, "timeout"),
        (("QA_TB_WL", "WL_10MV"), {"before": "noon"}, qatrack_ext.MisuseError, "no datetime"),
        (("QA_TB_WL", "WL_10MV"), {"archive": "pacs"}, qatrack_ext.MisuseError, "aria"),
        (("", "WL_10MV"), {}, qatrack_ext.MisuseError, "patient"),
        (("QA_TB_WL", None), {}, qatrack_ext.MisuseError, "plan"),
    ]
    for arguments, options, kind, told in cases:
        with pytest.raises(kind) as caught:
            qatrack_ext.series(*arguments, **options)
        assert told in str(caught.value) and "\n" not in str(caught.value), (arguments, options, str(caught.value))
    orthanc.stop()
    with pytest.raises(ConnectionError) as caught:
        qatrack_ext.plans("QA_TB_WL", timeout=10.0)
    assert isinstance(caught.value, qatrack_ext.PeerError) and "ORTHANC" in str(caught.value)


def test_other_threads_run_while_images_are_fetched(patient, aria, node):
    patient.session(patient.plan("WL_10MV"), ACQUIRED, AXES[:4])
    aria.load()
    aria.order(delay_ms=250)
    node.write(aria)
    ticks, fetching = [], threading.Event()
    fetching.set()

    def tick():
        while fetching.is_set():
            ticks.append(time.monotonic())
            time.sleep(0.01)

    thread = threading.Thread(target=tick)
    thread.start()
    began = time.monotonic()
    try:
        qatrack_ext.series("QA_TB_WL", "WL_10MV", timeout=60.0)
    finally:
        ended = time.monotonic()
        fetching.clear()
        thread.join()
    # Four images with 250 ms before each: a held GIL would let the thread tick at the ends only.
    during = [tick for tick in ticks if began + 0.1 < tick < ended - 0.1]
    assert len(during) >= 10


ASK = """
import json, sys, threading
import qatrack_ext
answers, errors = [], []
barrier = threading.Barrier(4)

def ask():
    try:
        barrier.wait()
        s = qatrack_ext.series("QA_TB_WL", "WL_10MV", timeout=120.0)
        answers.append([str(s.path)] + s.instance_uids)
    except Exception as error:
        errors.append(repr(error))

threads = [threading.Thread(target=ask) for _ in range(4)]
print("ready", flush=True)
sys.stdin.readline()
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(json.dumps([answers, errors]))
"""


def test_sixteen_threads_in_four_processes_get_one_answer_by_one_move(patient, aria, node):
    patient.session(patient.plan("WL_10MV"), ACQUIRED, AXES[:4], kv=1)
    aria.load()
    node.write(aria)
    before = aria.order()["moves"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", ASK],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            universal_newlines=True,
        )
        for _ in range(4)
    ]
    try:
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        told = [json.loads(process.communicate(timeout=5 * DEADLINE_S)[0]) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
            with contextlib.suppress(OSError):
                process.stdin.close()
            process.stdout.close()
    assert [errors for _, errors in told] == [[]] * 4
    answers = [answer for each, _ in told for answer in each]
    assert len(answers) == 16 and all(answer == answers[0] for answer in answers)
    assert len(answers[0]) == 1 + 4
    assert aria.order()["moves"] - before == 1


def test_the_wrappers_readme_example_runs_with_one_changed_import(patient, orthanc, node, tmp_path):
    from tempfile import TemporaryDirectory
    from pathlib import Path

    from qatrack_ext.compat import PynetdicomWrapper

    plan = patient.plan("WL_10MV")
    patient.session(plan, ACQUIRED - dt.timedelta(days=1), AXES[:4])
    patient.session(plan, ACQUIRED, AXES[:3], kv=1)
    served(orthanc, patient, node)
    with TemporaryDirectory() as directory:
        pndw = PynetdicomWrapper("QA_TB_WL", "WL_10MV")
        assert pndw.plan_uid == plan and pndw.study_uid == patient.study_uid
        assert pndw.get_series(Path(directory), "ORIGINAL\\PRIMARY\\PORTAL") == "20261120070500"
        assert len(list(Path(directory).glob("*.dcm"))) == 3
        assert {path.stem for path in Path(directory).iterdir()} <= set(patient.images)
    everything, earlier = tmp_path / "everything", tmp_path / "earlier"
    everything.mkdir(), earlier.mkdir()
    pndw.get_series(everything, "ORIGINAL\\PRIMARY\\PORTAL", ignore_kV=False)
    assert len(list(everything.iterdir())) == 4
    pndw.get_series(earlier, "ORIGINAL\\PRIMARY\\PORTAL", seriesdate=ACQUIRED.date() - dt.timedelta(days=1))
    assert len(list(earlier.iterdir())) == 4


def test_the_wrappers_exceptions_are_raised(patient, orthanc, node, tmp_path):
    from qatrack_ext.compat import AEConfig, PynetdicomWrapper

    patient.plan("WL_6FFF")
    patient.plan("WL_6FFF")
    plan = patient.plan("WL_10MV")
    served(orthanc, patient, node)
    with pytest.raises(ValueError, match="No plan SOPInstanceUID found for plan name WL_15MV"):
        PynetdicomWrapper("QA_TB_WL", "WL_15MV")
    with pytest.raises(ValueError, match="More than one plan found with name WL_6FFF"):
        PynetdicomWrapper("QA_TB_WL", "WL_6FFF")
    with pytest.raises(TypeError, match="get_plan_uids"):
        PynetdicomWrapper().get_series(tmp_path, "PORTAL")
    with pytest.raises(RuntimeError):
        PynetdicomWrapper("QA_TB_WL", "WL_10MV").get_series(tmp_path / "x", "ORIGINAL\\PRIMARY\\PORTAL")
    later = PynetdicomWrapper()
    later.local_conf = AEConfig(aet=node.ae_title, ip="127.0.0.1", port=node.port)
    later.remote_conf = AEConfig(aet=orthanc.ae_title, ip="127.0.0.1", port=orthanc.port)
    later.get_plan_uids("QA_TB_WL", "WL_10MV")
    assert later.plan_uid == plan
    later.remote_conf = AEConfig(aet="NOBODY", ip="127.0.0.1", port=1)
    with pytest.raises(ConnectionError):
        later.get_plan_uids("QA_TB_WL", "WL_10MV")
    for wrong in (("A", "1.2.3", 104), ("A", "1.2.3.4", 70000)):
        with pytest.raises(ValueError):
            AEConfig(*wrong)


def test_a_part_of_a_series_is_never_handed_out(patient, aria, node, tmp_path):
    from qatrack_ext.compat import PynetdicomWrapper

    patient.session(patient.plan("WL_10MV"), ACQUIRED, AXES[:4])
    aria.load()
    aria.order(fail=[patient.images[2]])
    node.write(aria)
    with pytest.raises(qatrack_ext.IncompleteError) as caught:
        qatrack_ext.series("QA_TB_WL", "WL_10MV")
    assert caught.value.missing == (patient.images[2],)
    wrapper = PynetdicomWrapper("QA_TB_WL", "WL_10MV")
    with pytest.raises(ConnectionError):
        wrapper.get_series(tmp_path / "part", "ORIGINAL\\PRIMARY\\PORTAL")
    aria.order(fail=[])
    assert len(qatrack_ext.series("QA_TB_WL", "WL_10MV")) == 4
