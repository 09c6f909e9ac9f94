"""icom(), icom_deliveries(), linac_state() and the pack Linac state, on what `scp-node icom listen` wrote of an emulated linac."""

import contextlib
import datetime as dt
import json
import os
import subprocess
import time

import numpy as np
import pytest

import qatrack_ext
from conftest import ROOT, need
from qatrack_page import Page, load_list

MESSAGES = 40
MU = 120.0 + 87.5
DEADLINE_S = 60


def eventually(what, condition):
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, "waited in vain for " + what
        time.sleep(0.02)


@contextlib.contextmanager
def killed_at_the_end(process):
    with process:  # closes its pipes
        try:
            yield
        finally:
            process.kill()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The directory of a listener that heard two patients, and then nothing more."""
    program = os.environ.get("SCP_NODE")
    need(program and os.path.exists(program), "scp-node (SCP_NODE)")
    out = tmp_path_factory.mktemp("icom")
    environment = dict(os.environ, SCP_NODE_CONFIG=os.devnull)
    emulate = [program, "icom", "emulate", "--port", "0", "--rate", "200", "--messages", str(MESSAGES)]
    linac = subprocess.Popen(emulate, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, universal_newlines=True)
    with killed_at_the_end(linac):
        address = linac.stderr.readline().split(" at ")[1].split(",")[0]
        listen = [program, "icom", "listen", "--linac", "4299=" + address, "--out", str(out), "--beam-off-wait", "0"]
        listener = subprocess.Popen(listen, env=environment, stderr=subprocess.DEVNULL)
        with killed_at_the_end(listener):
            assert linac.wait(DEADLINE_S) == 0, "all is sent"
            eventually("two records", lambda: len(list(out.glob("patients/*/*.xz"))) == 2)
            listener.terminate()
            assert listener.wait(DEADLINE_S) == 0
    return str(out)


def test_a_snapshot_is_like_a_dict_with_units_in_its_names_and_fit_for_json(recorded):
    snapshot = qatrack_ext.icom("4299", max_age=3600, dir=recorded)
    assert json.loads(json.dumps(dict(snapshot), allow_nan=False)) == dict(snapshot)
    assert snapshot.machine_id == snapshot["machine_id"] == "4299"
    assert snapshot.gantry_bipolar_deg == 179.0 and snapshot.gantry_iec_deg == 179.0
    assert snapshot.meterset_mu == 87.5 and snapshot.energy == "6 MV"
    assert snapshot.table_lateral_raw is None, "sent as no value"
    assert np.shape(snapshot.mlc_mm) == (80, 2) and snapshot.jaw_mm == [50.0, 50.0]
    assert 0 <= snapshot.age_s < 3600
    assert "patient_id" in snapshot and len(snapshot) == len(list(snapshot))
    with pytest.raises(KeyError):
        snapshot["nonsense"]
    with pytest.raises(AttributeError):
        snapshot.nonsense
    assert "4299" in repr(snapshot)


def test_too_old_or_never_seen_is_an_error_that_says_since_when(recorded):
    with pytest.raises(qatrack_ext.NotFoundError, match=r"s old, last message at 20.*; the link is stopped"):
        qatrack_ext.icom("4299", max_age=0.001, dir=recorded)
    with pytest.raises(qatrack_ext.NotFoundError, match="never seen .* known linacs: 4299"):
        qatrack_ext.icom("4300", dir=recorded)
    with pytest.raises(qatrack_ext.MisuseError, match="max_age"):
        qatrack_ext.icom("4299", max_age=-1, dir=recorded)


def test_the_directory_comes_from_the_settings(recorded, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text("[icom]\ndir = '{}'\n".format(recorded))
    assert qatrack_ext.icom("4299", 3600, config=str(config)).machine_id == "4299"
    assert len(qatrack_ext.icom_deliveries(config=str(config))) == 2


def test_records_are_found_by_linac_patient_and_day(recorded):
    every = qatrack_ext.icom_deliveries(dir=recorded)
    assert [record.patient_id for record in every] == ["9434765910", "9434765911"]
    assert [round(record.mu, 6) for record in every] == [MU, MU]
    (second,) = qatrack_ext.icom_deliveries(linac="4299", patient="9434765911", day=every[1].start.date(), dir=recorded)
    assert second.path == every[1].path and second.patient_name == "MÜLLER, JÜRGEN"
    assert "9434765911" not in repr(second)
    assert isinstance(second.start, dt.datetime) and second.start <= second.end and second.gaps == 0
    summary = second.summary()
    assert [field["field_id"] for field in summary["fields"]] == ["1-1", "1-2"]
    assert json.dumps(summary, allow_nan=False)
    assert qatrack_ext.icom_deliveries(patient="nobody", dir=recorded) == []
    assert qatrack_ext.icom_deliveries(day="2001-01-01", dir=recorded) == []
    with pytest.raises(qatrack_ext.MisuseError, match="has the listener run"):
        qatrack_ext.icom_deliveries(dir=recorded + "/none")


def test_a_delivery_has_arrays_in_the_frame_of_pymedphys(recorded):
    record = qatrack_ext.icom_deliveries(dir=recorded)[0]
    delivery = record.delivery()
    assert isinstance(delivery, qatrack_ext.Delivery)
    n = len(delivery)
    assert n > MESSAGES
    assert delivery.mlc_mm.shape == (n, 80, 2) and delivery.jaw_mm.shape == (n, 2)
    assert delivery.meterset_mu[0] == 0 and round(delivery.meterset_mu[-1], 6) == MU
    assert np.all(np.diff(delivery.meterset_mu) >= 0)
    assert delivery.gantry_bipolar_deg.min() >= -180 and delivery.gantry_bipolar_deg.max() <= 180
    assert set(delivery.to_pymedphys()) == {"monitor_units", "gantry", "collimator", "mlc", "jaw"}
    assert delivery.metersetmap(grid_resolution=5).max() > 0
    by_path = qatrack_ext.icom_record(record.path)
    assert by_path.mu == record.mu and by_path.linac is None
    assert np.array_equal(by_path.delivery(compatible=True).mlc_mm, record.delivery(compatible=True).mlc_mm)


def test_what_is_no_record_is_an_error_that_says_so(tmp_path):
    note = tmp_path / "note.xz"
    note.write_bytes(b"not a record")
    with pytest.raises(qatrack_ext.MalformedError, match="no iCom message"):
        qatrack_ext.icom_record(note)
    with pytest.raises(qatrack_ext.IoError):
        qatrack_ext.icom_record(tmp_path / "none.xz")


def test_linac_state_always_has_the_same_keys_and_no_patient(recorded):
    waiting = qatrack_ext.linac_state("4299", when=None, dir=recorded)
    read = qatrack_ext.linac_state("4299", max_age=3600, dir=recorded)
    missing = qatrack_ext.linac_state("4300", dir=recorded)
    assert set(waiting) == set(read) == set(missing)
    assert (waiting["status"], read["status"], missing["status"]) == ("waiting", "read", "not read")
    assert "never seen" in missing["reason"] and missing["gantry_iec_deg"] is None
    assert (read["y1_jaw_mm"], read["y2_jaw_mm"]) == (-50.0, 50.0)
    assert not any("patient" in key for key in read)


def test_the_pack_compares_each_readout_with_what_is_expected(recorded, tmp_path, monkeypatch):
    config = tmp_path / "config.toml"
    config.write_text("[icom]\ndir = '{}'\n".format(recorded))
    monkeypatch.setenv("SCP_NODE_CONFIG", str(config))
    state = qatrack_ext.linac_state
    monkeypatch.setattr(qatrack_ext, "linac_state", lambda linac, when: state(linac, when, max_age=3600), raising=False)
    page = Page(load_list(ROOT / "testpacks" / "linac-state.tpk", "linac-state"), dt.datetime.now(dt.timezone.utc), {"ls_linac": "4299"})
    assert page.shown["ls_gantry"] is None and page.shown["ls_status"].startswith("waiting")
    page.enter(ls_gantry_expected=359.5, ls_collimator_expected=10.0, ls_y1_expected=-49.0, ls_y2_expected=50.0)
    page.enter(ls_mu_expected=87.5, ls_energy_expected="6 mv", ls_now=True)
    assert not any(page.errors.values())
    assert page.shown["ls_status"].startswith("read, ")
    assert page.shown["ls_gantry_difference"] == pytest.approx(179.5)
    assert page.shown["ls_collimator_difference"] == pytest.approx(0.0)
    assert page.shown["ls_y1_difference"] == pytest.approx(-1.0)
    assert page.shown["ls_y2_difference"] == pytest.approx(0.0)
    assert page.shown["ls_mu_difference"] == pytest.approx(0.0)
    assert page.shown["ls_energy"] == "6 MV" and page.shown["ls_energy_as_expected"] == 1
