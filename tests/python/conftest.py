"""Peers and data of the Python tests: Orthanc as an archive, Winston-Lutz images by pylinac's generator, a node.

Everything lies in temporary directories, ports are chosen by the system, and nothing outside is touched. What is absent
is said and skipped, unless REQUIRE_PEERS=1.
"""

import datetime as dt
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import warnings

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEADLINE_S = 30.0


def need(condition, what):
    """Skips a test for want of a peer; fails it where peers are required."""
    if condition:
        return
    if os.environ.get("REQUIRE_PEERS") == "1":
        pytest.fail("REQUIRE_PEERS=1, but there is no " + what)
    pytest.skip("no " + what)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for_port(port, process, log):
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        assert process.poll() is None, "it ended: " + log.read_text(errors="replace")[-2000:]
        with socket.socket() as probe:
            probe.settimeout(0.2)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    pytest.fail("nothing listens on port {}: {}".format(port, log.read_text(errors="replace")[-2000:]))


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

    def session(self, plan_uid, acquired, axes=None, kv=0, study_uid=None):
        """Files one session: MV images of the given axes, then kV ones; gives the series' UID."""
        series_uid = _uid()
        chosen = [AXES.index(axis) for axis in (AXES if axes is None else axes)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the generator's labels are longer than their VR allows
            for n, index in enumerate(chosen + [0] * kv):
                unit = "MU" if n < len(chosen) else "MINUTE"
                self._save(self._image(index, n, series_uid, plan_uid, acquired, unit))
        return series_uid

    def _image(self, index, n, series_uid, plan_uid, acquired, unit):
        from pydicom.dataset import Dataset
        from pydicom.sequence import Sequence

        image = self._phantom[index].copy()
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


class Archive:
    """A running archive."""

    def __init__(self, ae_title, port, process, load):
        self.ae_title, self.port, self.process, self.load = ae_title, port, process, load

    def stop(self):
        self.process.terminate()
        self.process.wait(DEADLINE_S)


class Node:
    """A node's settings file and environment; the receiver is hosted by whoever asks."""

    def __init__(self, directory, port):
        self.directory, self.port, self.ae_title = directory, port, "SCP_NODE"
        self.images, self.cache = directory / "images", directory / "analysis"
        self.file = directory / "config.toml"
        self.sections = ""

    def write(self, archive, more=""):
        self.file.write_text(
            """
[node]
ae_title = "{ae}"
bind = "127.0.0.1"
port = {port}
[images]
root = '{images}'
[analysis]
cache = '{cache}'
{more}
[[archive]]
name = "aria"
ae_title = "{archive}"
host = "127.0.0.1"
port = {archive_port}
""".format(
                ae=self.ae_title,
                port=self.port,
                images=self.images,
                cache=self.cache,
                more=more,
                archive=archive.ae_title,
                archive_port=archive.port,
            )
        )


@pytest.fixture
def node(tmp_path, monkeypatch):
    node = Node(tmp_path, free_port())
    monkeypatch.setenv("SCP_NODE_CONFIG", str(node.file))
    return node


LUA = """
function IncomingFindRequestFilter(query, origin)
  local key = query['0008,0008']
  if type(key) == 'string' then query['0008,0008'] = string.gsub(key, '\\\\', '?') end
  return query
end
"""


@pytest.fixture
def orthanc(tmp_path, node):
    """Orthanc as Aria's DB Service: knows our node only."""
    program = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin")
    need(program and shutil.which("storescu"), "Orthanc or DCMTK")
    directory = tmp_path / "orthanc"
    directory.mkdir()
    (directory / "aria.lua").write_text(LUA)
    port = free_port()
    modality = {"Host": "127.0.0.1", "AllowEcho": True, "AllowFind": False, "AllowMove": False, "AllowGet": False}
    settings = {
        "StorageDirectory": str(directory / "db"),
        "IndexDirectory": str(directory / "db"),
        "HttpServerEnabled": False,
        "DicomAet": "ORTHANC",
        "DicomPort": port,
        "DicomCheckCalledAet": True,
        "DicomCheckModalityHost": True,
        "DicomAlwaysAllowEcho": False,
        "DicomAlwaysAllowStore": False,
        "DicomAlwaysAllowFind": False,
        "DicomAlwaysAllowMove": False,
        "DicomAlwaysAllowGet": False,
        "DicomModalities": {
            "loader": dict(modality, AET="LOADER", Port=1, AllowStore=True),
            "node": dict(modality, AET=node.ae_title, Port=node.port, AllowFind=True, AllowMove=True, AllowStore=False),
        },
        "LuaScripts": [str(directory / "aria.lua")],
        "SynchronousCMove": True,
        "StorageAccessOnFind": "Always",
        "DicomScuPreferredTransferSyntax": "1.2.840.10008.1.2",
        "TranscodeDicomProtocol": False,
        "Plugins": [],
    }
    (directory / "orthanc.json").write_text(json.dumps(settings))
    log = directory / "log"
    with open(str(log), "wb") as output:
        process = subprocess.Popen(
            [program, str(directory / "orthanc.json")],
            stdout=output,
            stderr=output,
            cwd=str(directory),
            env=dict(os.environ, TCP_NODELAY="1"),
        )

    def load(files):
        # --scan-directories, --recurse: a directory of files in one association.
        command = ["storescu", "-aet", "LOADER", "-aec", "ORTHANC", "+sd", "+r", "127.0.0.1", str(port), str(files)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=dict(os.environ, TCP_NODELAY="1"))
        assert done.returncode == 0, done.stdout.decode()

    try:
        wait_for_port(port, process, log)
        yield Archive("ORTHANC", port, process, load)
    finally:
        process.kill()
        process.wait()


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


class Aria(Archive):
    """The simulated Aria, which can be told to misbehave."""

    def __init__(self, process, directory):
        first = json.loads(process.stdout.readline())
        super().__init__(first["ae_title"], first["port"], process, self.reload)

    def order(self, **orders):
        """Sends an order; the answer counts finds and moves so far."""
        self.process.stdin.write(json.dumps(orders) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def reload(self, directory=None):
        self.order(reload=True)


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
        process.stdin.close()
        process.kill()
        process.wait()
        process.stdout.close()
