"""The live state of a linac, as the iCom listener last wrote it."""

from __future__ import annotations

import json
from typing import Any, Dict, Iterator, Mapping, Optional

from . import _native


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
