"""A QA beam of the day against its plan, for a test list: the linac's log from the index, the plan from a file."""

from __future__ import annotations

import datetime as dt
from typing import Any, Dict, Mapping, Optional

from . import _errors, _native

# What `delivery_check` gives beside status and reason: no patient, since results stay in QATrack+'s database.
_VALUES = (
    "record",
    "ended",
    "planned_mu",
    "delivered_mu",
    "difference_mu",
    "difference_percent",
    "gamma_pass_rate_percent",
    "worst_leaf_error_mm",
    "worst_leaf",
    "n_beams",
    "warnings",
)


def delivery_check(
    META: Optional[Mapping[str, Any]],
    *,
    machine: Optional[str],
    field: Optional[str],
    plan: Optional[str],
    when: Any = True,
    day: Any = None,
    gamma_dose_percent: float = 3.0,
    gamma_distance_mm: float = 2.0,
    config: Optional[str] = None,
) -> Dict[str, Any]:
    """The newest record of ``field`` on ``machine`` that day, against the RT Plan in the file ``plan``.

    Always the same keys; None for what was not found out. ``status`` is "checked", "waiting" or "not checked", ``reason`` says why. The
    day is that on which the list was started, unless ``day`` says another. MU are summed over the record's beams, the pass rate is the
    lowest and the leaf error the largest of any beam while it was on.
    """
    answer: Dict[str, Any] = dict.fromkeys(("status", "reason") + _VALUES)
    if not (when and machine and field and plan):
        answer["status"] = "waiting"
        answer["reason"] = "enter linac, field and plan, then set Check now to Yes"
        return answer
    try:
        _fill(answer, _day(META, day), machine, field, plan, (gamma_dose_percent, gamma_distance_mm), config)
    except _errors.Error as error:
        answer.update(dict.fromkeys(_VALUES))
        answer["status"] = "not checked"
        # The file of the record lies below the patient's directory: the error's kind and hint say what to do without it.
        path = getattr(error, "path", None)
        answer["reason"] = str(error).replace(str(path), "the file") if path else str(error)
    return answer


def _day(META: Optional[Mapping[str, Any]], day: Any) -> dt.date:
    if day is None:
        day = (META or {}).get("work_started")
    if isinstance(day, dt.datetime):
        return (day.astimezone() if day.tzinfo else day).date()
    if isinstance(day, dt.date):
        return day
    if day:
        return dt.date(*(int(part) for part in str(day)[:10].split("-")))
    return dt.date.today()


def _fill(answer: Dict[str, Any], day: dt.date, machine: str, field: str, plan: str, gamma: Any, config: Optional[str]) -> None:
    found = _native.trf_find(machine=machine, field=field, day=day, limit=1, config=config)
    if not found:
        raise _errors.make(
            "not_found",
            "no record of this field on {} in the index".format(day.isoformat()),
            "the linac's logs come with its next backup; `scp-node trf sync` fetches them now",
        )
    known = found[0]
    check = _native.check_delivery(
        known["file"], plan, gamma_dose_percent=gamma[0], gamma_distance_mm=gamma[1]
    )
    beams = check["beams"]
    if not beams:
        raise _errors.make("unsupported", "the record holds no beam of this plan", "choose the plan of this field")
    planned = sum(beam["planned_mu"] for beam in beams)
    delivered = sum(beam["delivered_mu"] for beam in beams)
    rates = [beam["gamma"]["pass_rate_percent"] for beam in beams]
    leaves = [leaf for beam in beams for leaf in beam["per_leaf_mm"] if leaf["beam_on"] is not None]
    worst = max(leaves, key=lambda leaf: leaf["beam_on"]["max"], default=None)
    answer.update(
        status="checked",
        reason=None,
        record=known["sha256"][:12],
        ended=known["local_time"],
        planned_mu=planned,
        delivered_mu=delivered,
        difference_mu=delivered - planned,
        difference_percent=100.0 * (delivered - planned) / planned if planned else None,
        gamma_pass_rate_percent=None if None in rates else min(rates),
        worst_leaf_error_mm=None if worst is None else worst["beam_on"]["max"],
        worst_leaf=None if worst is None else worst["name"],
        n_beams=len(beams),
        warnings="; ".join(check["warnings"]),
    )
