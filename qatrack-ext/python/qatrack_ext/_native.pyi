"""What the compiled part offers; users import these names from ``qatrack_ext``."""

from datetime import date, datetime
from os import PathLike
from pathlib import Path as _Path
from typing import Any, Dict, List, Optional, Protocol, Tuple, Union, final

import numpy as np
from numpy.typing import NDArray

_AnyPath = Union[str, PathLike[str]]

_Date = date  # parameters are called date too
_Day = Union[_Date, datetime, str]
_Entity = Tuple[str, str, int]
_Floats = NDArray[np.float64]

__version__: str

def _force_panic(while_waiting: bool = False) -> None:
    """Panics inside the boundary, for the test that proves a panic arrives as qatrack_ext.InternalError."""

def settings_json(config: Optional[_AnyPath] = None) -> str:
    """The node's settings in force, as JSON: from ``config``, else SCP_NODE_CONFIG, else the system's place."""

def toml_to_json(text: str, name: str) -> str:
    """A TOML text as JSON; ``name`` is what an error calls it."""

class _BinaryReader(Protocol):
    def read(self) -> bytes: ...

@final
class TrfRecord:
    """An Elekta log record. Columns have PyMedPhys's names; each is decoded when it is asked for.

    ``record["Step Gantry/Scaled Actual (deg)"]`` or ``record[2224, 129]`` gives a numpy array: doubles, whole numbers for
    counters, words for states and the wedge (the code as text where it is not known).
    """

    @property
    def header(self) -> Dict[str, Any]:
        """As ``trf_header`` gives it, and ``items``: the list of (item, part)."""
    def summary(self) -> Dict[str, Any]:
        """What ``scp-node trf info`` prints: plain str, numbers, lists and None, fit for a composite test's result."""
    @property
    def path(self) -> Optional[_Path]:
        """Where it was read from; None if from memory."""
    @property
    def columns(self) -> List[str]:
        """Names, in the file's order; an unknown item is ``Item 4004/1``."""
    @property
    def units(self) -> Dict[str, str]:
        """True units by column name ("" where there is none); Elekta's names say deg for table distances in mm."""
    @property
    def warnings(self) -> List[str]:
        """What is not as it should be, such as a cut last row."""
    @property
    def left_over_bytes(self) -> int:
        """Bytes after the last complete row; 0 in a record that was not cut."""
    @property
    def start_utc(self) -> datetime:
        """Start on the host's clock: the header's time less rows * 0.04 s."""
    @property
    def end_utc(self) -> datetime:
        """End on the host's clock: the header's time, to the second."""
    @property
    def start_local(self) -> Optional[datetime]:
        """Start in the site's offset from UTC; None if the header has none that can be read."""
    @property
    def end_local(self) -> Optional[datetime]:
        """End in the site's offset from UTC; None if the header has none that can be read."""
    @property
    def controller_start_utc(self) -> Optional[datetime]:
        """First row on the controller's clock; None in version 1, which has no timestamps."""
    @property
    def controller_end_utc(self) -> Optional[datetime]:
        """Last row on the controller's clock; None in version 1."""
    @property
    def controller_minus_host_s(self) -> Optional[float]:
        """What the controller's clock shows more than the host's; None in version 1."""
    @property
    def time_s(self) -> NDArray[np.float64]:
        """Time of each row since the first: from the timestamps where there are any, else row * 0.04."""
    @property
    def timestamps_ms(self) -> Optional[NDArray[np.int64]]:
        """Unix milliseconds of each row on the controller's clock; None in version 1."""
    @property
    def meterset_mu(self) -> NDArray[np.float64]:
        """Cumulative meterset since the first row, from the 1/64 MU counter, across wraps and restarts."""
    def delivery(self, *, dose: str = "raw") -> Delivery:
        """The delivery that the record logs; dose as in ``Delivery.from_trf``."""
    def raw(self, key: Union[str, Tuple[int, int]]) -> NDArray[np.int32]:
        """The integers of a column as stored."""
    def to_numpy(self) -> NDArray[np.float64]:
        """All columns, shape (rows, columns); codes stay numbers; each column is contiguous."""
    def to_pandas(self) -> Any:
        """PyMedPhys's columns and index (time in s); ``timestamp_utc`` comes first where there are timestamps."""
    def __getitem__(self, key: Union[str, Tuple[int, int]], /) -> NDArray[Any]: ...
    def __contains__(self, key: object, /) -> bool: ...
    def __len__(self) -> int:
        """Number of complete rows."""

@final
class Delivery:
    """Positions and cumulative meterset per control point, in the shapes and frames of PyMedPhys's Delivery.

    Leaves and jaws: mm, positive = open away from the axis. Pair k is Elekta's leaf k + 1, bank 0 its Y1 (IEC X2), bank 1
    its Y2 (IEC X1); jaw 0 is Elekta's X1 diaphragm (IEC Y2), jaw 1 its X2 (IEC -Y1).
    The arrays are views of the delivery's own numbers and read-only: ``.copy()`` gives one to change.
    """

    @staticmethod
    def from_trf(
        source: Union[TrfRecord, _AnyPath, bytes, bytearray, memoryview, _BinaryReader], *, dose: str = "raw"
    ) -> Delivery:
        """From a record. ``dose="raw"``: the counter of 1/64 MU across wraps and restarts; ``"step"``: Step Dose, as PyMedPhys."""
    @staticmethod
    def from_dicom(plan: Any, fraction_group: Union[int, str, None] = None, *, compatible: bool = False) -> Any:
        """From an RT Plan (path, bytes, file, pydicom data set); a dict by number for ``fraction_group="all"``.

        ``compatible`` refuses what PyMedPhys refuses: devices other than MLCX and ASYMY.
        """
    @staticmethod
    def merge(*deliveries: Delivery) -> Delivery:
        """One after the other; the meterset runs on."""
    @property
    def meterset_mu(self) -> NDArray[np.float64]:
        """Cumulative meterset, shape (n,)."""
    @property
    def gantry_bipolar_deg(self) -> NDArray[np.float64]:
        """Gantry, -180 to 180, shape (n,)."""
    @property
    def collimator_bipolar_deg(self) -> NDArray[np.float64]:
        """Collimator, -180 to 180, shape (n,)."""
    @property
    def mlc_mm(self) -> NDArray[np.float64]:
        """Leaf tips, shape (n, pairs, 2)."""
    @property
    def jaw_mm(self) -> NDArray[np.float64]:
        """Jaws, shape (n, 2)."""
    @property
    def beam_starts(self) -> List[int]:
        """Control points at which a beam begins."""
    @property
    def total_mu(self) -> float:
        """Meterset from the first to the last control point."""
    def filter(self) -> Delivery:
        """Only the control points at which the meterset changes."""
    def beams(self) -> List[Delivery]:
        """The beams that delivered something, each with its meterset from 0."""
    def split_by_gantry(
        self, angles_deg: List[float], tolerance_deg: float = 3.0, *, allow_missing: bool = False
    ) -> List[Delivery]:
        """One delivery per gantry angle (bipolar), empty where nothing was near it."""
    def metersetmap(
        self,
        gantry_angles: Optional[List[float]] = None,
        gantry_tolerance: float = 3.0,
        grid_resolution: float = 1.0,
        max_leaf_gap: float = 400.0,
        leaf_pair_widths: Optional[List[float]] = None,
        min_step_per_pixel: int = 10,
    ) -> Any:
        """Meterset per pixel, shape (jaw, leaf), in MU, equal to PyMedPhys's to 1e-9; a list of maps for gantry angles."""
    @staticmethod
    def metersetmap_grid(
        grid_resolution: float = 1.0, max_leaf_gap: float = 400.0, leaf_pair_widths: Optional[List[float]] = None
    ) -> Dict[str, NDArray[np.float64]]:
        """Axes of the maps, ``mlc`` and ``jaw``, mm."""
    def to_dicom(
        self, template: Any, fraction_group: Optional[int] = None, *, keep_uid: bool = False, label_suffix: str = "_LOG"
    ) -> bytes:
        """A DICOM file: the RT Plan that would deliver this, on the template of the plan that was to be delivered."""
    def to_pymedphys(self) -> Dict[str, NDArray[np.float64]]:
        """Columns by PyMedPhys's names: ``pymedphys.Delivery(**d.to_pymedphys())``."""
    def __len__(self) -> int:
        """Number of control points."""

def check_delivery(
    record: Union[TrfRecord, _AnyPath, bytes, bytearray, memoryview, _BinaryReader],
    plan: Any,
    *,
    fraction_group: Optional[int] = None,
    dose: str = "raw",
    grid_resolution: float = 1.0,
    gamma_dose_percent: float = 3.0,
    gamma_distance_mm: float = 2.0,
    gamma_cutoff_percent: float = 10.0,
    gamma_local: bool = False,
    png: Optional[_AnyPath] = None,
) -> Dict[str, Any]:
    """Plan against record per beam, as plain str, finite numbers, lists and None; ``png`` names a file for the page.

    ``result["beams"][0]["gamma"]["pass_rate_percent"]``, ``["difference_mu"]``, ``["leaves_mm"]["beam_on"]["rms"]`` and so on.
    """

def trf_header(path: _AnyPath) -> Dict[str, Any]:
    """The header of a record without reading its rows: machine_id, field, field_label, field_name, total_mu (None if the
    file has no number), version, date and timezone as written, end_utc, n_columns."""

def trf(
    source: Optional[Union[_AnyPath, bytes, bytearray, memoryview, _BinaryReader]] = None,
    *,
    machine: Optional[str] = None,
    field: Optional[str] = None,
    near: Optional[datetime] = None,
    patient: Optional[str] = None,
    within_h: float = 12.0,
    config: Optional[_AnyPath] = None,
) -> TrfRecord:
    """Reads an Elekta log record from a path, from bytes, from an open file such as an upload's BIN_FILE, or from the index.

    In the index: the newest record of ``machine`` (machine id or linac's name), ``field`` (label, name, ``label/name`` or FLD_ID)
    and ``patient``; with ``near`` the nearest one, no further than ``within_h`` hours away. Naive times are the site's wall clock.

    Raises MalformedError (with ``offset``) for what is no record, IoError for a file that cannot be read, NotFoundError when
    the index has no such record.
    """

def trf_find(
    *,
    patient: Optional[str] = None,
    field: Optional[str] = None,
    machine: Optional[str] = None,
    day: Optional[Union[date, datetime, str]] = None,
    plan: Optional[_AnyPath] = None,
    state: Optional[str] = None,
    qa_mode: Optional[bool] = None,
    near: Optional[datetime] = None,
    limit: int = 100,
    config: Optional[_AnyPath] = None,
) -> List[Dict[str, Any]]:
    """Records of the index as plain dicts (str, finite numbers, bool, None), newest first; an empty list if there is none.

    ``plan`` is an RT Plan's file: records of its patient whose field is one of its beams. ``state`` is ``indexed``, ``review``,
    ``no_mosaiq_record_found``, ``unknown_error_in_logfile`` or ``no_field_label_in_logfile``. ``record["file"]`` is for ``trf``.
    """

def icom_json(
    linac: str, max_age: float = 5.0, dir: Optional[_AnyPath] = None, config: Optional[_AnyPath] = None
) -> str:
    """A linac's live state as JSON; users call ``qatrack_ext.icom``."""

@final
class IcomRecord:
    """One use of a linac by one patient, as the iCom listener recorded it."""

    @property
    def linac(self) -> Optional[str]:
        """The linac's name in the settings; None of a file opened by its path."""
    @property
    def path(self) -> _Path:
        """The file."""
    @property
    def machine_id(self) -> Optional[str]:
        """The linac's name on the wire."""
    @property
    def patient_id(self) -> str:
        """Patient's ID."""
    @property
    def patient_name(self) -> Optional[str]:
        """Patient's name as sent."""
    @property
    def start(self) -> datetime:
        """First message, on the linac's clock."""
    @property
    def end(self) -> datetime:
        """Last message, on the linac's clock."""
    @property
    def mu(self) -> float:
        """Delivered MU, with what was delivered before a beginning in mid-beam."""
    @property
    def gaps(self) -> int:
        """Places where messages are missing."""
    def summary(self) -> Dict[str, Any]:
        """Everything the index knows, fit for a composite test's result: fields, gaps, repeats, lost links."""
    def delivery(self, *, compatible: bool = False) -> Delivery:
        """Control points; ``compatible=True`` gives the numbers of PyMedPhys's ``Delivery.from_icom``."""

def icom_deliveries(
    linac: Optional[str] = None,
    patient: Optional[str] = None,
    day: Union[None, str, date, datetime] = None,
    *,
    without_mu: bool = False,
    dir: Optional[_AnyPath] = None,
    config: Optional[_AnyPath] = None,
) -> List[IcomRecord]:
    """Records of the iCom listener that match, oldest first; ``dir`` is its directory, by default that of the settings."""

def icom_record(path: _AnyPath) -> IcomRecord:
    """A recorded file, written by this listener or by PyMedPhys's."""

@final
class Series:
    """The images of one plan, one series and one day of acquisition, whole, in order of acquisition.

    Arrays hold NaN where an image does not state a value; ``to_dict`` has None there.
    """

    @property
    def path(self) -> _Path:
        """A directory that holds these images and nothing else."""
    @property
    def files(self) -> List[_Path]: ...
    @property
    def acquired(self) -> Optional[datetime]:
        """Acquisition of the first image, local time."""
    @property
    def patient_id(self) -> str: ...
    @property
    def plan_label(self) -> Optional[str]: ...
    @property
    def plan_uid(self) -> Optional[str]: ...
    @property
    def series_uid(self) -> str: ...
    @property
    def instance_uids(self) -> List[str]: ...
    @property
    def gantry_iec_deg(self) -> _Floats:
        """(n,), IEC 61217."""
    @property
    def collimator_iec_deg(self) -> _Floats:
        """(n,), IEC 61217."""
    @property
    def couch_iec_deg(self) -> _Floats:
        """(n,), IEC 61217."""
    @property
    def sid_mm(self) -> _Floats:
        """(n,), from the source to the image plane."""
    @property
    def pixel_spacing_mm(self) -> _Floats:
        """(n, 2), at the SID: between rows, between columns."""
    @property
    def images(self) -> NDArray[Any]:
        """(n, rows, columns), stored pixels; read at the first use and kept."""
    def image(self, index: int) -> NDArray[Any]:
        """(rows, columns), stored pixels of one image."""
    def to_dict(self) -> Dict[str, Any]:
        """Everything but the pixels as str, finite numbers and None."""
    def __len__(self) -> int: ...

def series(
    patient: str,
    plan: Optional[str],
    *,
    date: Optional[_Day] = None,
    before: Optional[datetime] = None,
    image_type: Optional[str] = "PORTAL",
    kv: bool = False,
    plan_uid: Optional[str] = None,
    fetch: bool = True,
    timeout: float = 20.0,
    archive: Optional[str] = None,
) -> Series:
    """The newest session of a plan's images, fetched from the archive when they are not here; whole or an error."""

def sessions(
    patient: str,
    plan: Optional[str] = None,
    *,
    date: Optional[_Day] = None,
    image_type: Optional[str] = "PORTAL",
    kv: bool = False,
    plan_uid: Optional[str] = None,
    limit: int = 0,
) -> List[Dict[str, Any]]:
    """The sessions on disk, newest first; nobody is asked."""

def plans(
    patient: str, plan: Optional[str] = None, *, timeout: float = 20.0, archive: Optional[str] = None
) -> List[Dict[str, Any]]:
    """The plans that the archive lists, newest first; ``plan`` may hold * and ?."""

def directory_series(directory: _AnyPath, image_type: Optional[str] = "PORTAL", kv: bool = False) -> Series:
    """The session that lies in a directory of the node."""

def _compat_plans(
    patient: str, plan: str, local: Optional[_Entity], remote: Optional[_Entity], timeout: float
) -> List[Dict[str, Any]]: ...
def _compat_series(
    patient: str,
    plan_uid: str,
    date: Optional[_Date],
    image_type: str,
    kv: bool,
    local: Optional[_Entity],
    remote: Optional[_Entity],
    timeout: float,
) -> Series: ...
