"""Images, machine logs and machine state in one line of a QATrack+ composite test.

    import qatrack_ext
    s = qatrack_ext.series("QA_TB_WL", "WL_10MV")

Names are loaded when they are first used: importing this package costs milliseconds, since QATrack+ does it again in
every web worker, and neither numpy nor pylinac is imported before something needs it.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # type checkers take it as true; importing typing would be all of this import's cost
if TYPE_CHECKING:
    from typing import Any, List

    from ._errors import (
        AnalysisError as AnalysisError,
        Error as Error,
        IncompleteError as IncompleteError,
        InternalError as InternalError,
        IoError as IoError,
        LimitError as LimitError,
        MalformedError as MalformedError,
        MisuseError as MisuseError,
        NotFoundError as NotFoundError,
        PeerError as PeerError,
        UnsupportedError as UnsupportedError,
    )
    from ._delivery_check import delivery_check as delivery_check
    from ._icom import Snapshot as Snapshot, icom as icom, linac_state as linac_state
    from ._native import (
        IcomRecord as IcomRecord,
        Series as Series,
        TrfRecord as TrfRecord,
        __version__ as __version__,
        icom_deliveries as icom_deliveries,
        icom_record as icom_record,
        plans as plans,
        series as series,
        sessions as sessions,
        trf as trf,
        trf_find as trf_find,
        check_delivery as check_delivery,
        Delivery as Delivery,
        trf_header as trf_header,
    )
    from ._winston_lutz import winston_lutz as winston_lutz

# Public name -> module that has it. One line per name.
_WHERE = {
    "AnalysisError": "._errors",
    "Error": "._errors",
    "IcomRecord": "._native",
    "IncompleteError": "._errors",
    "InternalError": "._errors",
    "IoError": "._errors",
    "LimitError": "._errors",
    "MalformedError": "._errors",
    "MisuseError": "._errors",
    "NotFoundError": "._errors",
    "PeerError": "._errors",
    "Series": "._native",
    "Snapshot": "._icom",
    "TrfRecord": "._native",
    "UnsupportedError": "._errors",
    "__version__": "._native",
    "delivery_check": "._delivery_check",
    "icom": "._icom",
    "icom_deliveries": "._native",
    "icom_record": "._native",
    "linac_state": "._icom",
    "plans": "._native",
    "series": "._native",
    "sessions": "._native",
    "trf": "._native",
    "trf_find": "._native",
    "Delivery": "._native",
    "check_delivery": "._native",
    "trf_header": "._native",
    "winston_lutz": "._winston_lutz",
}

# Type checkers read no other form than a literal; a test compares it with _WHERE.
__all__ = [
    "AnalysisError",
    "Delivery",
    "Error",
    "IcomRecord",
    "IncompleteError",
    "InternalError",
    "IoError",
    "LimitError",
    "MalformedError",
    "MisuseError",
    "NotFoundError",
    "PeerError",
    "Series",
    "Snapshot",
    "TrfRecord",
    "UnsupportedError",
    "__version__",
    "check_delivery",
    "delivery_check",
    "icom",
    "icom_deliveries",
    "icom_record",
    "linac_state",
    "plans",
    "series",
    "sessions",
    "trf",
    "trf_find",
    "trf_header",
    "winston_lutz",
]


def __getattr__(name: str) -> Any:
    if name in ("compat", "testpack"):
        return import_module("." + name, __name__)
    if name not in _WHERE:
        raise AttributeError("module {!r} has no attribute {!r}".format(__name__, name))
    value = getattr(import_module(_WHERE[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> List[str]:
    return sorted(set(globals()) | set(_WHERE))
