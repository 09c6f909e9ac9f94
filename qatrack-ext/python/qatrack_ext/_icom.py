"""The live state of a linac, as the iCom listener last wrote it."""

from __future__ import annotations

import json
from typing import Any, Dict, Iterator, Mapping, Optional

from . import _errors, _native

# What `linac_state` gives: no patient, since results stay in QATrack+'s database.
_STATE = (
    "linac_time",
    "age_s",
    "machine_id",
    "beam_on",
    "field_id",
    "energy",
    "radiation_type",
    "gantry_iec_deg",
    "collimator_iec_deg",
    "table_column_deg",
    "table_isocentric_deg",
    "meterset_mu",
    "backup_meterset_mu",
)


class Snapshot(Mapping[str, Any]):
    """What a linac's newest message says: ``snap["gantry_iec_deg"]`` or ``snap.gantry_iec_deg``.

    Values are str, finite numbers, bool, lists, dicts and None; None means that the linac did not say, never 0. Units
    and frames are in the names; names ending in ``_raw`` are as sent, in a unit that nobody has confirmed. ``age_s`` is the age when it was
    read. ``dict(snap)`` is fit for a composite test's result.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values: Dict[str, Any] = dict(values)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(name) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __dir__(self) -> Any:
        return sorted(set(super().__dir__()) | set(self._values))

    def __repr__(self) -> str:
        # No patient: representations end in logs.
        return "<Snapshot of linac {} at {}, {:.1f} s old>".format(
            self._values.get("linac"), self._values.get("linac_time"), self._values.get("age_s", 0.0)
        )


def icom(
    linac: str, max_age: float = 5.0, *, dir: Optional[str] = None, config: Optional[str] = None
) -> Snapshot:
    """The state of ``linac`` now, at most ``max_age`` seconds old.

    Reads one small file that the service keeps; ``dir`` is the listener's directory, by default that of the settings.
    Raises NotFoundError, which says since when, if the linac was never seen or its state is too old.
    """
    return Snapshot(json.loads(_native.icom_json(str(linac), float(max_age), dir, config)))


def linac_state(
    linac: Optional[str],
    when: Any = True,
    max_age: float = 10.0,
    *,
    dir: Optional[str] = None,
    config: Optional[str] = None,
) -> Dict[str, Any]:
    """The readouts of ``linac`` for a test list: always the same keys, None for what was not read, no patient.

    ``when`` is the answer to "read now?"; until it is true nothing is read. ``status`` is "read", "waiting" or "not read",
    ``reason`` says why. ``y1_jaw_mm`` and ``y2_jaw_mm`` are IEC Y1 and Y2, mm from the axis, negative on the side of Y1.
    """
    state: Dict[str, Any] = dict.fromkeys(("status", "reason") + _STATE + ("y1_jaw_mm", "y2_jaw_mm", "interlocks"))
    if not when or not linac:
        state["status"] = "waiting"
        state["reason"] = "choose the linac, then set Read now to Yes"
        return state
    try:
        snapshot = icom(linac, max_age, dir=dir, config=config)
    except (_errors.NotFoundError, _errors.IoError, _errors.MalformedError) as error:
        state["status"] = "not read"
        state["reason"] = str(error)
        return state
    state["status"] = "read"
    state.update((name, snapshot[name]) for name in _STATE)
    if snapshot["jaw_mm"] is not None:
        y2_open, y1_open = snapshot["jaw_mm"]
        state["y1_jaw_mm"], state["y2_jaw_mm"] = 0.0 - y1_open, y2_open
    state["interlocks"] = "; ".join(snapshot["interlocks"])
    return state
