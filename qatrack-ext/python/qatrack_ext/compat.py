"""pynetdicom_wrapper's interface, so that existing test lists change one import.

    from qatrack_ext.compat import PynetdicomWrapper

The constructor, ``get_plan_uids``, ``get_series`` and their exceptions are those that pynetdicom_wrapper 0.0.2
documents. What differs: a series is handed out whole or not at all, MV and kV are told apart per image, also where an
image does not say, and plan and images need not lie in one study. AE titles and addresses come from the node's settings;
``local_conf`` and ``remote_conf`` may be set to other ones before ``get_plan_uids`` is called.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
from pathlib import Path
from typing import Any, List, Optional, Tuple, Union

from . import _errors

TIMEOUT_S = 60.0
TITLE_MAX = 16  # PS3.5 §6.2, AE


class AEConfig:
    """AE title, IP address and port of an application entity."""

    def __init__(self, aet: str, ip: str, port: int) -> None:
        self.aet = aet
        self.ip = ip
        self.port = port

    @property
    def aet(self) -> str:
        """AE title; what is longer than 16 characters is cut."""
        return self._aet

    @aet.setter
    def aet(self, value: str) -> None:
        self._aet = value.strip()[:TITLE_MAX]

    @property
    def ip(self) -> str:
        """IPv4 address."""
        return self._ip

    @ip.setter
    def ip(self, value: str) -> None:
        if len(value.split(".")) != 4:
            raise ValueError("IP wrong formatted: {!r}".format(value))
        self._ip = value

    @property
    def port(self) -> int:
        """TCP port."""
        return self._port

    @port.setter
    def port(self, value: int) -> None:
        if not 0 <= value <= 65535:
            raise ValueError("Port number out of range: {!r}".format(value))
        self._port = value

    def __repr__(self) -> str:
        return "AEConfig({!r}, {!r}, {!r})".format(self.aet, self.ip, self.port)


class PynetdicomWrapper:
    """Downloads the newest RT Images of a plan; see the module."""

    def __init__(self, pat_id: str = "", plan_name: str = "") -> None:
        """With both arguments, ``get_plan_uids`` is called at once."""
        # None: the node's settings.
        self.local_conf: Optional[AEConfig] = None
        self.remote_conf: Optional[AEConfig] = None
        self.pat_id = pat_id
        self.plan_name = plan_name
        self.plan_uid = ""
        self.study_uid = ""
        if pat_id and plan_name:
            self.get_plan_uids(pat_id, plan_name)

    def get_plan_uids(self, pat_id: str, plan_name: str) -> None:
        """Finds ``plan_uid`` and ``study_uid`` of a plan.

        Raises ValueError when none or more than one plan has the name, ConnectionError when the archive cannot be asked.
        """
        from . import _native

        named = _native._compat_plans(pat_id, _literal(plan_name), _entity(self.local_conf), _entity(self.remote_conf), TIMEOUT_S)
        found = [plan for plan in named if plan["plan_label"] == plan_name]
        if not found:
            raise _errors.make("misuse", "No plan SOPInstanceUID found for plan name {}".format(plan_name))
        if len(found) > 1:
            raise _errors.make(
                "misuse",
                "More than one plan found with name {}".format(plan_name),
                "qatrack_ext.series() takes the one with the newest images, or plan_uid=",
            )
        self.pat_id, self.plan_name = pat_id, plan_name
        self.plan_uid, self.study_uid = found[0]["plan_uid"], found[0]["study_uid"]

    def get_series(
        self,
        path: Union[str, "os.PathLike[str]"],
        imagetype: str,
        seriesdate: Optional[dt.date] = None,
        ignore_kV: bool = True,
    ) -> str:
        """Writes the newest series (of ``seriesdate``) to ``path`` and gives its acquisition's date and time.

        Raises RuntimeError when there are no such images, ConnectionError when the archive cannot be reached, loses the
        connection or sends only a part (then nothing is written), TypeError before ``get_plan_uids``.
        """
        if not self.plan_uid:
            raise TypeError("Missing uid, call PynetdicomWrapper.get_plan_uids() first.")
        mv = self._fetch(imagetype, seriesdate, False)
        files = list(mv.files)
        if not ignore_kV:
            files += self._kv_files(mv, imagetype)
        target = Path(path)
        for file in files:
            # The wrapper names files by the instance; a part of a copy never has that name.
            name = file.name[len("RI.") :] if file.name.startswith("RI.") else file.name
            part = target / (name + ".part")
            shutil.copyfile(str(file), str(part))
            os.replace(str(part), str(target / name))
        return mv.acquired.strftime("%Y%m%d%H%M%S") if mv.acquired else ""

    def _kv_files(self, mv: Any, imagetype: str) -> List[Path]:
        try:
            kv = self._fetch(imagetype, mv.acquired.date() if mv.acquired else None, True)
        except _errors.NotFoundError:
            return []
        return list(kv.files) if kv.series_uid == mv.series_uid else []

    def _fetch(self, imagetype: str, day: Optional[dt.date], kv: bool) -> Any:
        from . import _native

        try:
            return _native._compat_series(
                self.pat_id,
                self.plan_uid,
                day,
                imagetype,
                kv,
                _entity(self.local_conf),
                _entity(self.remote_conf),
                TIMEOUT_S,
            )
        except _errors.IncompleteError as error:
            # The wrapper's word for a transfer that did not end well.
            raise _errors.make("peer_misbehaved", str(error)) from error


def _literal(name: str) -> str:
    """A plan's name as a pattern that finds at least this name."""
    return "".join("?" if letter in "*?" else letter for letter in name)


def _entity(conf: Optional[AEConfig]) -> Optional[Tuple[str, str, int]]:
    return None if conf is None else (conf.aet, conf.ip, conf.port)
