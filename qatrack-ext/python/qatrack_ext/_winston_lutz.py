"""Winston-Lutz in one line of a composite test: finds the images, has pylinac analyse them, attaches the report."""

from __future__ import annotations

import datetime as dt
import math
import time
from typing import Any, Dict, List, Mapping, Optional, Union

from . import _analysis, _attachments, _errors

# Numbers that pylinac gives; None while there is nothing, or where these images do not determine one.
NUMBERS = (
    "max_2d_cax_to_bb_mm",
    "median_2d_cax_to_bb_mm",
    "mean_2d_cax_to_bb_mm",
    "max_2d_cax_to_epid_mm",
    "median_2d_cax_to_epid_mm",
    "mean_2d_cax_to_epid_mm",
    "gantry_3d_iso_diameter_mm",
    "coll_2d_iso_diameter_mm",
    "couch_2d_iso_diameter_mm",
    "gantry_coll_3d_iso_diameter_mm",
    "bb_shift_x_mm",
    "bb_shift_y_mm",
    "bb_shift_z_mm",
)
COUNTS = ("n_images", "n_gantry", "n_collimator", "n_couch")
TEXTS = ("acquired", "series_uid", "plan_uid", "software", "not_covered")

# Clocks of linac, archive and QATrack+ differ; images acquired so long after a list's completion still are its own.
COMPLETED_SLACK = dt.timedelta(minutes=10)

Day = Union[dt.date, dt.datetime, str, None]


def winston_lutz(
    UTILS: Any,
    META: Optional[Mapping[str, Any]],
    *,
    patient: Optional[str],
    plan: Optional[str],
    when: Any = True,
    date: Day = None,
    bb_mm: float = 5.0,
    image_type: str = "PORTAL",
    kv: bool = False,
    plan_uid: Optional[str] = None,
    expected: Optional[int] = None,
    low_density_bb: bool = False,
    open_field: bool = False,
    apply_virtual_shift: bool = False,
    machine_scale: str = "IEC61217",
    attach: bool = True,
    fetch: bool = True,
    timeout: float = 20.0
) -> Dict[str, Any]:
    """Analyses the Winston-Lutz images of a plan and gives a dict that always has the same keys.

    UTILS and META are QATrack+'s; ``when`` is a switch of the list ("images done"). The session is that of ``date``, or
    of the day on which the list was started, and never one acquired after the list was completed, so that editing a
    list later gives the same images. ``expected`` is the number of images below which nothing is analysed.

    ``status`` is "waiting", "no images", "incomplete", "done" or "error", and ``reason`` says why in one line; this
    function does not raise. Lengths are in mm. ``bb_shift_*`` moves the BB to the radiation isocentre: x to the right
    (seen by someone who stands in front of the gantry), y towards it, z up. Every number is finite or None: an axis is
    given only when at least three angles of it were imaged with the others at 0.
    """
    answer = blank()
    try:
        _fill(answer, UTILS, META, locals())
    except _errors.NotFoundError as error:
        answer.update(status="no images", reason=str(error))
    except _errors.IncompleteError as error:
        answer.update(status="incomplete", reason=str(error))
    except _errors.Error as error:
        answer.update(status="error", reason=str(error))
    except Exception as error:  # whatever it is, the page must keep its other results
        answer.update(status="error", reason="{}: {}".format(type(error).__name__, " ".join(str(error).split())))
    return answer


def blank() -> Dict[str, Any]:
    """The dict's keys, in their order, without values."""
    answer: Dict[str, Any] = {"status": "error", "reason": ""}
    for name in TEXTS + COUNTS + NUMBERS:
        answer[name] = None
    return answer


def parameters(
    bb_mm: float = 5.0,
    low_density_bb: bool = False,
    open_field: bool = False,
    apply_virtual_shift: bool = False,
    machine_scale: str = "IEC61217",
) -> Dict[str, Any]:
    """pylinac's parameters; what has pylinac's default is left out, so that old versions need not know it."""
    size = float(bb_mm)
    if not (math.isfinite(size) and 0 < size <= 100):
        raise _errors.make("misuse", "bb_mm is {}, not a diameter in mm such as 5".format(bb_mm))
    given: Dict[str, Any] = {"bb_size_mm": size}
    for name, value in (
        ("low_density_bb", low_density_bb),
        ("open_field", open_field),
        ("apply_virtual_shift", apply_virtual_shift),
    ):
        if value:
            given[name] = True
    if machine_scale.upper() != "IEC61217":
        given["machine_scale"] = machine_scale.upper()
    return given


def _fill(
    answer: Dict[str, Any], UTILS: Any, META: Optional[Mapping[str, Any]], given: Dict[str, Any]
) -> None:
    if not given["when"]:
        answer.update(status="waiting", reason="waiting until the images are done")
        return
    patient, plan = _text(given["patient"]), _text(given["plan"])
    if not patient or not plan:
        answer.update(status="waiting", reason="enter the patient ID and the plan's name")
        return
    settings = _analysis.Settings.load()
    deadline = time.monotonic() + settings.answer_within_s
    images = _find(patient, plan, META, given, deadline)
    answer.update(
        acquired=images.acquired.isoformat(sep=" ", timespec="seconds") if images.acquired else None,
        series_uid=images.series_uid,
        plan_uid=images.plan_uid,
        n_images=len(images.instance_uids),
    )
    expected = given["expected"]
    if expected is not None and len(images.instance_uids) < int(expected):
        what = "{} of {} images are there".format(len(images.instance_uids), int(expected))
        answer.update(status="incomplete", reason=what + "; acquire the rest, or lower the number that is expected")
        return
    names = ("bb_mm", "low_density_bb", "open_field", "apply_virtual_shift", "machine_scale")
    chosen = parameters(**{name: given[name] for name in names})
    outcome = analyse(images, chosen, settings, deadline, bool(given["attach"]))
    if outcome.result is None:
        answer.update(status="waiting", reason="the analysis is running; the next change on this page shows its result")
        return
    answer.update({name: outcome.result.get(name) for name in COUNTS + NUMBERS + ("software", "not_covered")})
    answer.update(status="done", reason=_remark(outcome, bool(given["attach"])))
    if given["attach"] and outcome.files is not None:
        files = _report(outcome, images)
        if files:
            _attachments.attach_once(UTILS, META, settings.cache, outcome.key, files)


def analyse(
    images: Any, chosen: Dict[str, Any], settings: _analysis.Settings, deadline: float, report: bool
) -> _analysis.Outcome:
    """Has pylinac analyse these images with the chosen parameters, or gives what was kept of it."""
    acquired = images.acquired.isoformat(sep=" ", timespec="seconds") if images.acquired else "time not stated"
    job = _analysis.Job(
        worker="_winston_lutz_worker.py",
        package="pylinac",
        images=images.path,
        instance_uids=list(images.instance_uids),
        parameters=chosen,
        notes=[
            "Plan: {}".format(images.plan_label or "-"),
            "Acquired: {}".format(acquired),
            "Series: {}".format(images.series_uid),
        ],
        report=report,
    )
    return _analysis.run(job, settings, deadline)


def _find(patient: str, plan: str, META: Optional[Mapping[str, Any]], given: Dict[str, Any], deadline: float) -> Any:
    from . import series, sessions

    chosen = _day(given["date"])
    options: Dict[str, Any] = {
        "image_type": given["image_type"],
        "kv": bool(given["kv"]),
        "plan_uid": _text(given["plan_uid"]) or None,
    }
    day = chosen or _started(META)
    timeout = max(0.1, min(float(given["timeout"]), deadline - time.monotonic()))
    try:
        return series(
            patient, plan, date=day, before=_completed(META), fetch=bool(given["fetch"]), timeout=timeout, **options
        )
    except _errors.NotFoundError as error:
        if chosen or day is None:
            raise
        # The list's own day has none: say which day has, since the list may have been started a day late.
        known = sessions(patient, plan, **options)
        newest = max((s["acquired"] for s in known if s["acquired"] is not None), default=None)
        if newest is None:
            raise
        raise _errors.make(
            error.kind,
            "no images of {} were acquired on {}".format(plan, day.isoformat()),
            "the newest are of {}: enter that date to use them".format(newest.date().isoformat()),
        )


def _started(META: Optional[Mapping[str, Any]]) -> Optional[dt.date]:
    return _day((META or {}).get("work_started"))


def _completed(META: Optional[Mapping[str, Any]]) -> Optional[dt.datetime]:
    """The latest time of acquisition: only a list that is edited has been completed."""
    completed = (META or {}).get("work_completed")
    if not isinstance(completed, dt.datetime):
        return None
    return _local(completed) + COMPLETED_SLACK


def _day(value: Day) -> Optional[dt.date]:
    if value is None or value == "":
        return None
    if isinstance(value, dt.datetime):
        return _local(value).date()
    if isinstance(value, dt.date):
        return value
    try:
        return dt.date(*(int(part) for part in str(value).strip()[:10].split("-")))
    except (TypeError, ValueError):
        raise _errors.make("misuse", "date is {!r}".format(value), "give a date as 2026-01-31")


def _local(moment: dt.datetime) -> dt.datetime:
    """Naive local time, as DICOM's acquisition times are. QATrack+ gives its own zone's time; UTC is converted."""
    if moment.tzinfo is not None and not moment.utcoffset():
        moment = moment.astimezone()
    return moment.replace(tzinfo=None)


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _remark(outcome: _analysis.Outcome, report: bool) -> str:
    remarks: List[str] = []
    result = outcome.result or {}
    if result.get("not_covered"):
        remarks.append("not given: " + result["not_covered"])
    if report and outcome.files is None:
        remarks.append("the report is being drawn; the next change on this page attaches it")
    for name, file in sorted((outcome.files or {}).items()):
        if "error" in file:
            remarks.append("{} could not be drawn: {}".format(name, file["error"]))
    return "; ".join(remarks)


def _report(outcome: _analysis.Outcome, images: Any) -> List[Any]:
    stem = "winston-lutz"
    if images.acquired:
        stem += images.acquired.strftime("-%Y%m%d-%H%M%S")
    files = []
    for name, suffix in (("plot.png", ".png"), ("report.pdf", ".pdf")):
        content = _analysis.content(outcome, name)
        if content is not None:
            files.append((stem + suffix, content))
    return files
