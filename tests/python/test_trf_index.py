"""trf(machine=…), trf_find(), delivery_check() and the pack Delivery check, on an index that `scp-node trf index` made."""

import datetime as dt
import json
import os
import subprocess

import pytest

import qatrack_ext as qx
from conftest import ROOT, need
from qatrack_page import Page, load_list
from test_delivery import log_bytes, plan_bytes
from trf_files import record

# The records of trf_files end at 07:00 UTC on a site that is an hour ahead.
ENDED = dt.datetime(2020, 1, 31, 8, 0, 0)


@pytest.fixture(scope="module")
def indexed(tmp_path_factory):
    """A directory with settings and an index of three records of machine 1234, one of them unreadable."""
    program = os.environ.get("SCP_NODE")
    need(program and os.path.exists(program), "scp-node (SCP_NODE)")
    place = tmp_path_factory.mktemp("trf")
    incoming = place / "trf" / "to_be_indexed" / "LA1"
    incoming.mkdir(parents=True)
    (incoming / "qa.trf").write_bytes(log_bytes())
    (incoming / "early.trf").write_bytes(record(3, [], field="1-1/AP", date="20/01/30 07:00:00 Z"))
    (incoming / "service.trf").write_bytes(record(3, [], field="QUICK BEAM", date="20/01/31 05:00:00 Z"))
    (incoming / "bad.trf").write_bytes(b"no record")
    config = place / "config.toml"
    text = "[trf]\nroot = '{}'\n[[site]]\nname = 'Site'\n[[site.linac]]\nname = 'LA1'\n".format(place / "trf")
    config.write_text(text)
    (place / "plan.dcm").write_bytes(plan_bytes())
    done = subprocess.run(
        [program, "--config", str(config), "trf", "index"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True
    )
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture
def config(indexed, monkeypatch):
    monkeypatch.setenv("SCP_NODE_CONFIG", str(indexed / "config.toml"))
    return indexed / "config.toml"


def test_a_record_is_found_by_machine_field_and_time(config):
    assert qx.trf(machine="1234").header["field"] == "2-2/DIR SCALP"
    assert qx.trf(machine="LA1", field="AP").header["field_label"] == "1-1"
    near = qx.trf(machine="LA1", near=dt.datetime(2020, 1, 31, 5, 30))
    assert near.header["field"] == "QUICK BEAM"
    utc = dt.datetime(2020, 1, 31, 7, 30, tzinfo=dt.timezone.utc).astimezone()
    assert qx.trf(machine="LA1", near=utc, within_h=24).path is not None


def test_what_is_not_there_is_an_error_with_a_remedy(config, monkeypatch):
    with pytest.raises(qx.NotFoundError) as caught:
        qx.trf(machine="9999")
    assert "trf find" in caught.value.hint
    with pytest.raises(qx.NotFoundError, match="h away"):
        qx.trf(machine="LA1", near=dt.datetime(2020, 2, 3))
    with pytest.raises(qx.MisuseError):
        qx.trf()
    with pytest.raises(qx.MisuseError):
        qx.trf(log_bytes(), machine="LA1")
    with pytest.raises(qx.MisuseError):
        qx.trf_find(state="lost")
    monkeypatch.setenv("SCP_NODE__TRF__ROOT", str(config.parent / "elsewhere"))
    with pytest.raises(qx.MisuseError, match="no index"):
        qx.trf_find()


def test_trf_find_gives_plain_dicts_newest_first(config):
    found = qx.trf_find()
    assert [known["state"] for known in found].count("unknown_error_in_logfile") == 1
    records = [known for known in found if known["machine"]]
    assert [known["field_name"] for known in records] == ["DIR SCALP", "QUICK BEAM", "AP"]
    first = records[0]
    assert (first["linac"], first["centre"], first["local_time"]) == ("LA1", "Site", ENDED.isoformat())
    assert first["delivered_mu"] == 40.0 and first["patient_id"] is None and first["qa_mode"] is None
    assert first["treatments"] == [] and os.path.exists(first["file"])
    json.dumps(found, allow_nan=False)
    assert len(qx.trf_find(day="2020-01-31")) == 2
    assert len(qx.trf_find(day=dt.date(2020, 1, 31), field="QUICK BEAM")) == 1
    assert qx.trf_find(state="no_field_label_in_logfile")[0]["field_name"] == "QUICK BEAM"
    assert qx.trf_find(patient="nobody") == []
    assert len(qx.trf_find(limit=1)) == 1


def test_delivery_check_always_has_the_same_keys_and_no_patient(config):
    meta = {"work_started": ENDED}
    arguments = dict(machine="LA1", field="DIR SCALP", plan=str(config.parent / "plan.dcm"))
    waiting = qx.delivery_check(meta, when=None, **arguments)
    done = qx.delivery_check(meta, **arguments)
    missing = qx.delivery_check(meta, **dict(arguments, field="other"))
    no_plan = qx.delivery_check(meta, **dict(arguments, plan=str(config.parent / "none.dcm")))
    assert set(waiting) == set(done) == set(missing) == set(no_plan)
    assert [a["status"] for a in (waiting, done, missing, no_plan)] == ["waiting", "checked", "not checked", "not checked"]
    assert (done["planned_mu"], done["difference_mu"], done["gamma_pass_rate_percent"]) == (40.0, 0.0, 100.0)
    assert done["worst_leaf_error_mm"] < 1e-9 and done["n_beams"] == 1
    assert missing["difference_mu"] is None and "2020-01-31" in missing["reason"]
    assert not any("patient" in key for key in done)
    json.dumps(done, allow_nan=False)


def test_the_pack_shows_the_check_of_the_day(config):
    pack = load_list(ROOT / "testpacks" / "delivery-check.tpk", "delivery-check")
    started = dt.datetime(2020, 1, 31, 12, 0, tzinfo=dt.timezone.utc)
    page = Page(pack, started, {"dc_linac": "LA1", "dc_field": "DIR SCALP", "dc_plan": str(config.parent / "plan.dcm")})
    assert page.shown["dc_difference_mu"] is None and page.shown["dc_status"].startswith("waiting")
    page.enter(dc_now=True)
    assert not any(page.errors.values()), page.errors
    assert page.shown["dc_status"].startswith("checked")
    assert page.shown["dc_difference_mu"] == 0.0 and page.shown["dc_gamma"] == 100.0
    assert page.shown["dc_worst_leaf_error"] < 1e-9
    assert page.shown["dc_ended"] == ENDED.isoformat()
