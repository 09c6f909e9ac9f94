"""qatrack_ext.trf: what a composite test gets from a linac's log file."""

import datetime
import io
import json
import threading
import time

import numpy as np
import pytest

import qatrack_ext as qx
from trf_files import DOSE_RAW, GANTRY, STATE, STEP_DOSE, WEDGE, record

START_MS = 1_580_454_467_000
STATE_NAME = "Linac State/Actual Value (None)"
GANTRY_NAME = "Step Gantry/Scaled Actual (deg)"


def rows(n=4):
    return [
        (START_MS + 40 * i, {GANTRY: -1800 + 5 * i, STATE: 42 if i else 41, DOSE_RAW: 64 * i, STEP_DOSE: 10 * i, WEDGE: 2})
        for i in range(n)
    ]


@pytest.fixture(params=[1, 2, 3, 4])
def version(request):
    return request.param


def test_columns_have_pymedphys_names_units_and_values(version):
    log = qx.trf(record(version, rows()))
    assert len(log) == 4
    assert len(log.columns) == (351 if version == 4 else 350)
    assert log[GANTRY_NAME].tolist() == [-180.0, -179.5, -179.0, -178.5]
    assert log[GANTRY_NAME].dtype == np.float64
    assert log[2224, 129].tolist() == log[GANTRY_NAME].tolist()
    assert log[STATE_NAME].tolist() == ["Intersegment"] + 3 * ["Radiation On"]
    assert log.raw(STATE_NAME).tolist() == [41, 42, 42, 42]
    assert log["Wedge Position/Actual Value (None)"][0] == "Out"
    assert log["Dose/Raw value (1/64th Mu)"].tolist() == [0, 64, 128, 192]
    assert log.meterset_mu.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert log.units["Table Lateral/Scaled Actual (deg)"] == "mm"
    assert log.warnings == [] and log.left_over_bytes == 0


def test_header_is_plain_values_and_read_without_the_rows(tmp_path):
    path = tmp_path / "a.trf"
    path.write_bytes(record(3, rows()))
    header = qx.trf_header(path)
    assert header["machine_id"] == "1234"
    assert (header["field"], header["field_label"], header["field_name"]) == ("2-2/DIR SCALP", "2-2", "DIR SCALP")
    assert header["total_mu"] == 227.4
    assert header["end_utc"] == datetime.datetime(2020, 1, 31, 7, tzinfo=datetime.timezone.utc)
    log = qx.trf(path)
    assert log.path == path
    assert {**header, "items": log.header["items"]} == log.header
    assert log.header["items"][0] == (2240, 111)


def test_the_two_clocks_are_told_apart():
    log = qx.trf(record(3, rows()))
    utc = datetime.timezone.utc
    assert log.end_utc == datetime.datetime(2020, 1, 31, 7, tzinfo=utc)
    assert log.start_utc == log.end_utc - datetime.timedelta(seconds=0.16)
    assert log.end_local.utcoffset() == datetime.timedelta(hours=1) and log.end_local == log.end_utc
    assert log.controller_start_utc == datetime.datetime(2020, 1, 31, 7, 7, 47, tzinfo=utc)
    assert log.controller_minus_host_s == pytest.approx(467.12)
    assert log.timestamps_ms.tolist() == [START_MS + 40 * i for i in range(4)]
    assert log.time_s.tolist() == [0.0, 0.04, 0.08, 0.12]
    without = qx.trf(record(1, rows()))
    assert without.controller_start_utc is None and without.timestamps_ms is None
    assert without.time_s.tolist() == [0.0, 0.04, 0.08, 0.12]


def test_any_source_gives_the_same_record(tmp_path):
    data = record(2, rows())
    path = tmp_path / "a.trf"
    path.write_bytes(data)
    upload = io.BytesIO(data)
    upload.seek(10)
    with open(path, "rb") as file:
        logs = [qx.trf(source) for source in (path, str(path), data, bytearray(data), memoryview(data), upload, file)]
    assert upload.tell() == 10
    assert all(np.array_equal(log.to_numpy(), logs[0].to_numpy()) for log in logs)
    assert [log.path for log in logs] == 2 * [path] + 5 * [None]


def test_the_table_is_made_once_and_each_column_is_contiguous(version):
    log = qx.trf(record(version, rows()))
    table = log.to_numpy()
    assert table.shape == (4, len(log.columns)) and table.dtype == np.float64
    assert table.flags.f_contiguous
    assert table[:, log.columns.index(GANTRY_NAME)].tolist() == log[GANTRY_NAME].tolist()


def test_pandas_has_the_same_columns_under_the_same_names(version):
    pandas = pytest.importorskip("pandas")
    log = qx.trf(record(version, rows()))
    frame = log.to_pandas()
    stamps = [] if version == 1 else ["timestamp_utc"]
    assert list(frame.columns) == stamps + log.columns
    assert frame.index.tolist() == [0.0, 0.04, 0.08, 0.12]
    assert frame[GANTRY_NAME].tolist() == log[GANTRY_NAME].tolist()
    assert frame[STATE_NAME].tolist() == log[STATE_NAME].tolist()
    if stamps:
        assert frame["timestamp_utc"].iloc[0] == pandas.Timestamp(START_MS, unit="ms", tz="UTC")


def test_unknown_items_and_codes_are_kept():
    items = [STATE, (4004, 1), GANTRY]
    log = qx.trf(record(3, [(0, {STATE: 99, (4004, 1): -7, GANTRY: 10})], items=items))
    assert log[STATE_NAME].tolist() == ["99"]
    assert log["Item 4004/1"].tolist() == [-7]
    assert log.summary()["unknown_items"] == ["4004/1"]


def test_a_cut_record_gives_its_rows_and_a_warning():
    log = qx.trf(record(1, rows())[:-3])
    assert len(log) == 3
    assert log.left_over_bytes == 697
    assert log.warnings == ["the last row is cut: 697 of 700 bytes were left over"]


def test_the_summary_is_fit_for_a_composite_tests_result():
    for log in (qx.trf(record(1, rows())), qx.trf(record(3, [], items=[(9, 9)]))):
        summary = log.summary()
        assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["delivered_mu"] is None and summary["last_state"] is None


def test_a_dose_that_is_no_number_is_none_not_nan():
    log = qx.trf(record(1, rows(), tenth_mu=float("nan")))
    assert log.header["total_mu"] is None and log.summary()["header_total_mu"] is None
    assert log.warnings == ["the header's total dose is not a number"]


def test_names_that_are_not_there_are_key_errors():
    log = qx.trf(record(1, rows()))
    for key in ("Gantry", (1, 2)):
        assert key not in log
        with pytest.raises(KeyError):
            log[key]
    assert GANTRY_NAME in log and (2224, 129) in log


@pytest.mark.parametrize(
    "source, error, words",
    [
        (b"", qx.MalformedError, "UTC date-time at byte 0"),
        (b"PK\x03\x04" + 200 * b"\0", qx.MalformedError, "UTC date-time at byte 1"),
        (record(1, []).replace(b"\x01\0\0\0\x5e\x01", b"\x05\0\0\0\x5e\x01"), qx.MalformedError, "format version"),
        (5, qx.MisuseError, "int is neither a path, nor bytes, nor a file"),
        (io.StringIO("text"), qx.MisuseError, "text, not bytes"),
    ],
)
def test_what_is_no_record_is_an_error_in_one_line(source, error, words):
    with pytest.raises(error, match=words) as raised:
        qx.trf(source)
    assert "\n" not in str(raised.value) and raised.value.hint


def test_errors_of_a_file_name_it(tmp_path):
    missing, broken = tmp_path / "missing.trf", tmp_path / "broken.trf"
    broken.write_bytes(record(1, [])[:30])
    with pytest.raises(qx.IoError) as raised:
        qx.trf(missing)
    assert raised.value.path == str(missing)
    with pytest.raises(qx.MalformedError) as raised:
        qx.trf_header(broken)
    assert (raised.value.path, raised.value.offset) == (str(broken), 28)


def test_one_record_serves_many_threads():
    log = qx.trf(record(3, rows(500)))
    expected, results = log.to_numpy(), []
    threads = [threading.Thread(target=lambda: results.append(log.to_numpy())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8 and all(np.array_equal(result, expected) for result in results)


def test_other_threads_run_while_a_record_is_read_and_decoded(tmp_path):
    data, path = record(1, []), tmp_path / "hour.trf"
    path.write_bytes(data + 90_000 * 700 * b"\1")
    spans, alive = [], []

    def decode():
        for _ in range(5):
            start = time.perf_counter()
            qx.trf(path).to_numpy()
            spans.append((start, time.perf_counter()))

    worker = threading.Thread(target=decode)
    worker.start()
    while worker.is_alive():
        alive.append(time.perf_counter())
        time.sleep(0.0002)
    worker.join()
    # With the GIL held, this thread would have moments between the calls only.
    thirds = [((2 * start + end) / 3, (start + 2 * end) / 3) for start, end in spans]
    free = [any(start < moment < end for moment in alive) for start, end in thirds]
    assert len(spans) == 5 and sum(free) >= 3, free
