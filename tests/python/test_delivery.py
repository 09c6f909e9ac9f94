"""qatrack_ext.Delivery and check_delivery: plan and record as a composite test uses them."""

import gc
import io
import json

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence

import qatrack_ext as qx
from trf_files import DOSE_RAW, GANTRY, STATE, STEP_DOSE, record

START_MS = 1_580_454_467_000
X1_JAW, X2_JAW = (2060, 129), (2061, 129)
MU_PER_ROW = 2
N_ROWS = 21


def log_bytes(leaf_shift_mm=0.0):
    """A static field of 40 MU: leaves 20 mm, jaws 30 mm from the axis; Y1 leaf 40 off by ``leaf_shift_mm``."""
    position = {X1_JAW: 300, X2_JAW: 300, GANTRY: -900}
    position.update({(2460 + leaf, 129): 200 for leaf in range(80)})
    position.update({(2380 + leaf, 129): -200 for leaf in range(80)})
    position[2460 + 39, 129] += round(10 * leaf_shift_mm)
    rows = []
    for i in range(N_ROWS):
        dose = {STATE: 42 if i else 41, DOSE_RAW: 64 * MU_PER_ROW * i, STEP_DOSE: 10 * MU_PER_ROW * i}
        rows.append((START_MS + 40 * i, {**position, **dose}))
    return record(3, rows)


def plan():
    """The plan of that field, as a pydicom data set."""

    def device(kind, **values):
        item = Dataset()
        item.RTBeamLimitingDeviceType = kind
        for keyword, value in values.items():
            setattr(item, keyword, value)
        return item

    def control_point(index):
        item = Dataset()
        item.ControlPointIndex = index
        item.CumulativeMetersetWeight = float(index)
        if index == 0:
            item.GantryAngle = 270.0
            item.GantryRotationDirection = "NONE"
            item.BeamLimitingDeviceAngle = 0.0
            item.BeamLimitingDeviceRotationDirection = "NONE"
            item.BeamLimitingDevicePositionSequence = Sequence([
                device("MLCX", LeafJawPositions=80 * [-20.0] + 80 * [20.0]),
                device("ASYMY", LeafJawPositions=[-30.0, 30.0]),
            ])
        return item

    beam = Dataset()
    beam.BeamNumber = 7
    beam.BeamName = "AP"
    beam.BeamType = "STATIC"
    beam.FinalCumulativeMetersetWeight = 1.0
    beam.NumberOfControlPoints = 2
    boundaries = [5.0 * i - 200.0 for i in range(81)]
    beam.BeamLimitingDeviceSequence = Sequence([
        device("MLCX", NumberOfLeafJawPairs=80, LeafPositionBoundaries=boundaries),
        device("ASYMY", NumberOfLeafJawPairs=1),
    ])
    beam.ControlPointSequence = Sequence([control_point(0), control_point(1)])
    reference = Dataset()
    reference.ReferencedBeamNumber = 7
    reference.BeamMeterset = 40.0
    group = Dataset()
    group.FractionGroupNumber = 3
    group.NumberOfBeams = 1
    group.ReferencedBeamSequence = Sequence([reference])
    data = Dataset()
    data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.481.5"
    data.SOPInstanceUID = "1.2.3.4"
    data.RTPlanLabel = "AP"
    data.BeamSequence = Sequence([beam])
    data.FractionGroupSequence = Sequence([group])
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    return data


def plan_bytes():
    buffer = io.BytesIO()
    plan().save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def test_a_record_is_a_delivery_in_pymedphys_shapes(tmp_path):
    path = tmp_path / "a.trf"
    path.write_bytes(log_bytes())
    for delivery in (qx.Delivery.from_trf(path), qx.trf(path).delivery(), qx.Delivery.from_trf(io.BytesIO(log_bytes()))):
        assert len(delivery) == N_ROWS and delivery.total_mu == 40.0
        assert delivery.mlc_mm.shape == (N_ROWS, 80, 2) and (delivery.mlc_mm == 20.0).all()
        assert delivery.jaw_mm.tolist() == N_ROWS * [[30.0, 30.0]]
        assert set(delivery.gantry_bipolar_deg) == {-90.0}
    assert set(delivery.to_pymedphys()) == {"monitor_units", "gantry", "collimator", "mlc", "jaw"}
    with pytest.raises(qx.MisuseError, match="dose"):
        qx.Delivery.from_trf(path, dose="other")


def test_a_deliverys_arrays_are_its_own_numbers_and_outlive_it():
    delivery = qx.Delivery.from_trf(log_bytes())
    for name in ("meterset_mu", "gantry_bipolar_deg", "collimator_bipolar_deg", "mlc_mm", "jaw_mm"):
        first, second = getattr(delivery, name), getattr(delivery, name)
        assert np.shares_memory(first, second), "{}: a copy".format(name)
        with pytest.raises(ValueError, match="read-only"):
            first[0] = 1.0
        with pytest.raises(ValueError, match="WRITEABLE"):
            first.flags.writeable = True
        copy = first.copy()
        copy[0] = 1.0
        assert np.array_equal(first, second)
    leaves = delivery.mlc_mm
    del delivery, first, second
    gc.collect()
    assert leaves.shape == (N_ROWS, 80, 2) and (leaves == 20.0).all()


def test_plan_and_record_have_the_same_metersetmap():
    delivered = qx.Delivery.from_trf(log_bytes()).metersetmap()
    for source in (plan(), plan_bytes(), io.BytesIO(plan_bytes())):
        planned = qx.Delivery.from_dicom(source).metersetmap()
        assert np.abs(planned - delivered).max() < 1e-9
    grid = qx.Delivery.metersetmap_grid()
    assert delivered.shape == (len(grid["jaw"]), len(grid["mlc"])) == (402, 401)
    # 40 mm by 60 mm at 1 mm, 40 MU.
    assert delivered.sum() == pytest.approx(40 * 60 * 40)
    by_angle = qx.Delivery.from_trf(log_bytes()).metersetmap(gantry_angles=[-90.0], grid_resolution=5)
    assert len(by_angle) == 1 and by_angle[0].shape == (82, 81)
    assert list(qx.Delivery.from_dicom(plan(), "all")) == [3]


def test_a_delivery_becomes_a_plan_that_pydicom_reads():
    written = qx.Delivery.from_trf(log_bytes()).to_dicom(plan())
    read = pydicom.dcmread(io.BytesIO(written))
    assert read.RTPlanLabel == "AP_LOG" and read.SOPInstanceUID != "1.2.3.4"
    beam = read.BeamSequence[0]
    assert len(beam.ControlPointSequence) == beam.NumberOfControlPoints == N_ROWS
    assert beam.ControlPointSequence[-1].CumulativeMetersetWeight == 1
    assert read.FractionGroupSequence[0].ReferencedBeamSequence[0].BeamMeterset == 40
    kept = qx.Delivery.from_trf(log_bytes()).to_dicom(plan_bytes(), keep_uid=True)
    assert pydicom.dcmread(io.BytesIO(kept)).SOPInstanceUID == "1.2.3.4"


def test_check_delivery_gives_plain_values_and_a_page(tmp_path):
    page = tmp_path / "page.png"
    result = qx.check_delivery(qx.trf(log_bytes()), plan(), png=page)
    assert page.read_bytes().startswith(b"\x89PNG")
    beam = result["beams"][0]
    assert (result["fraction_group"], beam["number"], beam["name"]) == (3, 7, "AP")
    assert beam["difference_mu"] == 0.0
    assert beam["gamma"]["pass_rate_percent"] == 100.0
    assert beam["leaves_mm"]["beam_on"]["max"] < 1e-9
    json.dumps(result, allow_nan=False)

    shifted = qx.check_delivery(log_bytes(leaf_shift_mm=3.0), plan_bytes(), grid_resolution=1)["beams"][0]
    assert shifted["leaves_mm"]["beam_on"]["max"] == pytest.approx(3.0)
    worst = max(shifted["per_leaf_mm"], key=lambda leaf: leaf["beam_on"]["max"])
    assert worst["name"] == "Y1 Leaf 40" and worst["beam_on"]["mean"] == pytest.approx(3.0)


def test_a_file_that_is_no_plan_is_an_error_with_its_path(tmp_path):
    path = tmp_path / "no.dcm"
    path.write_bytes(b"no plan")
    with pytest.raises(qx.MalformedError) as caught:
        qx.check_delivery(log_bytes(), path)
    assert str(path) in str(caught.value.path)
