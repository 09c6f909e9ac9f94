"""Peers and data of the Python tests: Orthanc as an archive, Winston-Lutz images by pylinac's generator, a node.

Everything lies in temporary directories, on free ports, and nothing outside is touched. What is absent
is said and skipped, unless REQUIRE_PEERS=1.
"""

import contextlib
import copy
import datetime as dt
import os
import pathlib
import shutil
import subprocess
import sys
import warnings

import pytest

from archives import Aria, Node, free_port, orthanc_program, orthanc_running

ROOT = pathlib.Path(__file__).resolve().parents[2]


def need(condition, what):
    """Skips a test for want of a peer; fails it where peers are required."""
    if condition:
        return
    if os.environ.get("REQUIRE_PEERS") == "1":
        pytest.fail("REQUIRE_PEERS=1, but there is no " + what)
    pytest.skip("no " + what)


@pytest.fixture(scope="session", autouse=True)
def installed_wheel():
    """The package under test is the installed one, never the sources beside the tests."""
    import qatrack_ext

    place = pathlib.Path(qatrack_ext.__file__).resolve()
    assert ROOT / "qatrack-ext" not in place.parents, "{} is the source; install the wheel".format(place)
    return place.parent


class Offsets:
    """Where the ball is put: mm from the isocentre, to the left, up, and towards the gantry."""

    left, up, into = 0.4, -0.3, 0.7


AXES = [(0, 0, 0), (90, 0, 0), (180, 0, 0), (270, 0, 0), (0, 90, 0), (0, 270, 0), (0, 0, 90), (0, 0, 270)]


@pytest.fixture(scope="session")
def phantom(tmp_path_factory):
    """Synthetic aS1200 images of a ball at known offsets, one per entry of AXES, as pydicom data sets."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs, about one another
        pytest.importorskip("pylinac") if os.environ.get("REQUIRE_PEERS") != "1" else __import__("pylinac")
        import pydicom
        from pylinac.core.image_generator import AS1200Image, FilteredFieldLayer, GaussianFilterLayer, generate_winstonlutz

    directory = tmp_path_factory.mktemp("phantom")
    images = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for n, axes in enumerate(AXES):
            place = directory / str(n)
            place.mkdir()
            generate_winstonlutz(
                AS1200Image(1000),
                FilteredFieldLayer,
                str(place),
                field_size_mm=(20, 20),
                final_layers=[GaussianFilterLayer(sigma_mm=1)],
                bb_size_mm=5,
                offset_mm_left=Offsets.left,
                offset_mm_up=Offsets.up,
                offset_mm_in=Offsets.into,
                image_axes=[axes],
            )
            images.append(pydicom.dcmread(str(next(place.glob("*.dcm")))))
    return images


class Patient:
    """Writes plans and sessions of portal images as files, as an archive would have them."""

    def __init__(self, directory, phantom):
        self.directory, self._phantom = directory, phantom
        self.patient_id, self.study_uid = "QA_TB_WL", _uid()
        self.images = []  # SOP Instance UIDs

    def plan(self, label, uid=None):
        from pydicom.dataset import Dataset

        plan = Dataset()
        plan.SOPClassUID = "1.2.840.10008.5.1.4.1.1.481.5"
        plan.SOPInstanceUID = uid or _uid()
        plan.Modality = "RTPLAN"
        plan.RTPlanLabel = label
        plan.RTPlanDate, plan.RTPlanTime = "20261001", "120000"
        plan.SeriesInstanceUID = _uid()
        self._save(plan)
        return str(plan.SOPInstanceUID)

    def session(self, plan_uid, acquired, axes=None, kv=0, change=None):
        """Files one session: MV images of the given axes, then kV ones, each changed by ``change``; gives the series' UID."""
        series_uid = _uid()
        chosen = [AXES.index(axis) for axis in (AXES if axes is None else axes)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the generator's labels are longer than their VR allows
            for n, index in enumerate(chosen + [0] * kv):
                unit = "MU" if n < len(chosen) else "MINUTE"
                image = self._image(index, n, series_uid, plan_uid, acquired, unit)
                if change:
                    change(image)
                self._save(image)
        return series_uid

    def _image(self, index, n, series_uid, plan_uid, acquired, unit):
        from pydicom.dataset import Dataset
        from pydicom.sequence import Sequence

        # Deep, since setting an attribute of a shallow copy writes into the element that all copies share.
        image = copy.deepcopy(self._phantom[index])
        moment = acquired + dt.timedelta(seconds=10 * n)
        image.SOPClassUID = "1.2.840.10008.5.1.4.1.1.481.1"
        image.SOPInstanceUID = _uid()
        image.SeriesInstanceUID = series_uid
        image.Modality = "RTIMAGE"
        image.ImageType = ["ORIGINAL", "PRIMARY", "PORTAL"]
        image.PrimaryDosimeterUnit = unit
        image.InstanceNumber = n + 1
        image.AcquisitionDate, image.AcquisitionTime = moment.strftime("%Y%m%d"), moment.strftime("%H%M%S")
        image.ContentDate, image.ContentTime = image.AcquisitionDate, image.AcquisitionTime
        image.RTImageLabel = "WL"
        self.images.append(str(image.SOPInstanceUID))
        reference = Dataset()
        reference.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.5"
        reference.ReferencedSOPInstanceUID = plan_uid
        image.ReferencedRTPlanSequence = Sequence([reference])
        return image

    def _save(self, data):
        from pydicom.dataset import FileDataset, FileMetaDataset
        from pydicom.uid import ImplicitVRLittleEndian

        data.PatientID, data.PatientName, data.StudyInstanceUID = self.patient_id, "QA^WL", self.study_uid
        data.StudyDate, data.StudyTime, data.StudyID = "20261001", "120000", "1"
        data.AccessionNumber = ""
        data.PatientBirthDate, data.PatientSex = "", ""
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = data.SOPClassUID, data.SOPInstanceUID
        meta.TransferSyntaxUID = ImplicitVRLittleEndian
        path = self.directory / "{}.dcm".format(data.SOPInstanceUID)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file = FileDataset(str(path), data, file_meta=meta, preamble=b"\0" * 128)
            file.save_as(str(path), enforce_file_format=True)


def _uid():
    import pydicom.uid

    return str(pydicom.uid.generate_uid())


@pytest.fixture
def patient(tmp_path, phantom):
    directory = tmp_path / "dicom"
    directory.mkdir()
    return Patient(directory, phantom)


@pytest.fixture
def node(tmp_path, monkeypatch):
    node = Node(tmp_path, free_port())
    monkeypatch.setenv("SCP_NODE_CONFIG", str(node.file))
    return node


@pytest.fixture
def orthanc(tmp_path, node):
    """Orthanc as Aria's DB Service."""
    need(orthanc_program(), "Orthanc or DCMTK")
    with orthanc_running(tmp_path / "orthanc", node) as archive:
        yield archive


@pytest.fixture
def run_python():
    """Runs a piece of Python in a fresh interpreter of the same environment, warnings as errors; gives its stdout."""

    def run(code, *arguments, **environment):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code] + [str(argument) for argument in arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(os.environ, **environment),
            timeout=120,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    return run


@pytest.fixture
def aria(patient, node):
    """The simulated Aria over the patient's files, trusting our node."""
    program = os.environ.get("SIMULATED_ARIA")
    if not program and os.environ.get("SCP_NODE"):
        program = str(pathlib.Path(os.environ["SCP_NODE"]).with_name("aria"))
    need(program and shutil.which(program), "simulated Aria (SIMULATED_ARIA, or beside SCP_NODE)")
    process = subprocess.Popen(
        [program, str(patient.directory), node.ae_title, str(node.port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        universal_newlines=True,
    )
    try:
        yield Aria(process, patient.directory)
    finally:
        process.kill()
        process.wait()
        with contextlib.suppress(OSError):  # an order that it did not read
            process.stdin.close()
        process.stdout.close()
