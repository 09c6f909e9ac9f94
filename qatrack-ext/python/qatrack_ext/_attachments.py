"""Attaches files to a composite test once per page and set of images.

QATrack+ evaluates every composite again on every input, and each ``UTILS.write_file`` makes a new attachment that
nothing removes. Its page keeps the attachments of an earlier evaluation as long as a later one lists none, and forgets
them when a later one lists others. So: all files of an analysis are attached in one evaluation, and a marker on disk
remembers it per page, which is its test list, unit and start of work (the same when a finished list is edited).

A page that was loaded anew, or came back from an autosave, has forgotten its attachments while the marker is still
there. Inside QATrack+ we therefore list the same attachments again as long as nobody else has them: no new file, none
lost. (Source: QATrack+ 3.1.1's views/perform.py and qa.js, read; outside QATrack+ the marker alone decides.)
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple


def attach_once(
    UTILS: Any, META: Optional[Mapping[str, Any]], cache: Path, key: str, files: List[Tuple[str, bytes]]
) -> bool:
    """Attaches the files unless this page has them; says whether it did."""
    marker = cache / "attached" / _page(META) / (key + ".json")
    if _claim(marker):
        return _attach(UTILS, marker, files)
    if _listed_again(UTILS, META, marker):
        return False
    return _attach(UTILS, marker, files)


def _page(META: Optional[Mapping[str, Any]]) -> str:
    meta = META or {}
    parts = [str(meta.get(name)) for name in ("test_list_name", "unit_number", "cycle_day", "work_started")]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:40]


def _claim(marker: Path) -> bool:
    """Makes the marker; false when it is there. Of many threads and processes, one gets true."""
    from ._analysis import _make_shared

    _make_shared(marker.parent)
    try:
        os.close(os.open(str(marker), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o664))
    except FileExistsError:
        return False
    return True


def _attach(UTILS: Any, marker: Path, files: List[Tuple[str, bytes]]) -> bool:
    before = len(_listed(UTILS) or ())
    try:
        for name, content in files:
            UTILS.write_file(name, content)
    except BaseException:
        marker.unlink()
        raise
    made = (_listed(UTILS) or [])[before:]
    marker.write_text(json.dumps(made, default=str), "utf-8")
    return True


def _listed(UTILS: Any) -> Optional[List[Dict[str, Any]]]:
    """QATrack+'s list of this evaluation's attachments, where it is one."""
    context = getattr(UTILS, "context", None)
    listed = context.get("__user_attached__") if isinstance(context, dict) else None
    return listed if isinstance(listed, list) else None


def _listed_again(UTILS: Any, META: Optional[Mapping[str, Any]], marker: Path) -> bool:
    """Lists the marker's attachments in this evaluation; false when they are gone and new ones are due."""
    listed = _listed(UTILS)
    try:
        made = json.loads(marker.read_text("utf-8"))
        ids = [attachment["attachment_id"] for attachment in made]
    except (OSError, ValueError, KeyError, TypeError):
        return True  # being attached at this moment by another evaluation of the page
    if listed is None or not ids:
        return True
    try:
        from qatrack.attachments.models import Attachment  # type: ignore[import-not-found]
    except ImportError:
        return True
    rows = list(Attachment.objects.filter(pk__in=ids))
    if len(rows) != len(ids):
        return False  # somebody deleted them
    if any(row.testinstance_id is not None for row in rows):
        # Submitted: with this list when it is edited; with an earlier one of the same minute when it is performed.
        return bool((META or {}).get("work_completed"))
    listed.extend(made)
    return True
