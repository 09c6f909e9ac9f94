"""Runs pylinac's Winston-Lutz analysis in a process of its own and leaves the results in a directory.

Started as a script, by path, by any interpreter that has pylinac 3.20 or newer: it imports nothing of qatrack_ext, so
that the interpreter needs pylinac only. In a process of its own because pylinac holds the GIL for seconds, which would
freeze every other page of QATrack+, and because its environment may be another one than QATrack+'s.

Input: a JSON job (see ``main``). Output, in the job's directory, each written whole and then renamed:
``result.json`` (numbers, or pylinac's error), ``report.pdf``, ``plot.png``, and last ``report.json``, their checksums.
Trust: the images come from the archive; what pylinac cannot read ends in an error text, never in a number.
Exit codes: 0 done (also with an error in result.json), 75 another process is at it, 1 could not even write.
"""

from __future__ import annotations

import faulthandler
import hashlib
import inspect
import json
import math
import os
import statistics
import sys
import warnings
from typing import Any, Dict, List, Optional, Tuple

FORMAT = 1  # of result.json; part of the key under which results are kept
BUSY = 75  # EX_TEMPFAIL of sysexits.h; a number, because Windows has no os.EX_TEMPFAIL
MIN_PYLINAC = (3, 20)  # the first with results as data and a shift vector in all coordinates
MIN_ANGLES = 3  # two directions cannot tell an axis' isocentre from a line; opposing ones are one direction

_LOCK = None  # open for the life of the process: closing the file frees the lock


def main(argv: List[str]) -> int:
    """Reads the job file: ``images`` (directory), ``out`` (directory), ``parameters``, ``notes``, ``report``, ``timeout_s``, ``n_images``."""
    with open(argv[1], encoding="utf-8") as file:
        job = json.load(file)
    # Ends the process from a thread of C, so that a loop that never gives the GIL back is ended too.
    faulthandler.dump_traceback_later(job["timeout_s"], exit=True)
    os.umask(0o002)  # the service and the web server share these files through a group
    out = job["out"]
    if not _lock(os.path.join(out, "lock")):
        return BUSY
    if all(os.path.exists(os.path.join(out, name)) for name in _wanted(job)):
        return 0
    try:
        analysis = _Analysis(job)
        result = analysis.result()
    except Exception as error:
        result = {"error": _one_line(error), "kind": type(error).__name__}
        _write_json(os.path.join(out, "result.json"), _sealed(result))
        return 0
    _write_json(os.path.join(out, "result.json"), _sealed(result))
    if not job["report"]:
        return 0
    report = {}
    for name, draw in (("plot.png", analysis.plot), ("report.pdf", analysis.pdf)):
        try:
            report[name] = _drawn(os.path.join(out, name), draw)
        except Exception as error:  # numbers without a picture are worth more than no numbers
            report[name] = {"error": _one_line(error)}
    _write_json(os.path.join(out, "report.json"), report)
    return 0


class _Analysis:
    def __init__(self, job: Dict[str, Any]) -> None:
        self.job = job
        warnings.simplefilter("ignore")  # pylinac's own deprecations; they would fill the server's log
        try:
            import pylinac  # type: ignore[import-untyped,import-not-found]
        except ImportError as error:
            raise RuntimeError(
                "{} cannot import pylinac: {}; install it there with pip install 'pylinac>=3.20,<4', or name another "
                "interpreter as [analysis] python in the settings".format(sys.executable, error)
            )
        import matplotlib

        matplotlib.use("Agg")
        self.version = pylinac.__version__
        self.release = tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in self.version.split(".")[:2])
        if not MIN_PYLINAC <= self.release < (4, 0):
            raise RuntimeError(
                "pylinac {} in {} does not fit: 3.20 or newer, below 4, is needed".format(self.version, sys.executable)
            )
        self.wl = pylinac.WinstonLutz(job["images"])
        self.wl.analyze(**self._arguments())

    def _arguments(self) -> Dict[str, Any]:
        """The parameters under this pylinac's names; one that it does not have is an error, not dropped."""
        known = inspect.signature(self.wl.analyze).parameters
        arguments = {}
        for name, value in self.job["parameters"].items():
            if name not in known:
                raise ValueError("pylinac {} has no parameter {} for Winston-Lutz".format(self.version, name))
            if name == "machine_scale":
                from pylinac.core.scale import MachineScale  # type: ignore[import-untyped,import-not-found]

                try:
                    value = MachineScale[value.upper()]
                except KeyError:
                    names = ", ".join(scale.name for scale in MachineScale)
                    raise ValueError("machine_scale {!r} is none of {}".format(value, names))
            arguments[name] = value
        return arguments

    def result(self) -> Dict[str, Any]:
        """Numbers, each None where these images do not determine it."""
        images = list(self.wl.images)
        if len(images) != self.job["n_images"]:
            what = "pylinac took {} of {} images; a part is not analysed"
            raise ValueError(what.format(len(images), self.job["n_images"]))
        axes = [_word(image.variable_axis) for image in images]
        data = self.wl.results_data()
        gantry = _covered(images, axes, "Gantry", "gantry_angle")
        collimator = _covered(images, axes, "Collimator", "collimator_angle")
        couch = _covered(images, axes, "Couch", "couch_angle")
        not_covered = [
            "{} ({})".format(name, state.why)
            for name, state in (("gantry", gantry), ("collimator", collimator), ("couch", couch))
            if state.why
        ]
        # pylinac 3.22 to 3.49 put the distance from BB to EPID under the name of CAX to EPID (seen on images with a
        # BB off and a field on the EPID's centre); each image's own value is right in every version from 3.20 on.
        to_epid = [image.cax2epid_distance for image in images]
        no_shift = self._why_no_shift(images, axes)
        shift = (None, None, None) if no_shift else self._shift()
        if no_shift:
            not_covered.append("BB shift ({})".format(no_shift))
        return {
            "software": "pylinac {}".format(self.version),
            "n_images": len(images),
            "n_gantry": gantry.images,
            "n_collimator": collimator.images,
            "n_couch": couch.images,
            "max_2d_cax_to_bb_mm": _number(data, "max_2d_cax_to_bb_mm"),
            "median_2d_cax_to_bb_mm": _number(data, "median_2d_cax_to_bb_mm"),
            "mean_2d_cax_to_bb_mm": _number(data, "mean_2d_cax_to_bb_mm"),
            "max_2d_cax_to_epid_mm": _finite(max(to_epid)),
            "median_2d_cax_to_epid_mm": _finite(statistics.median(to_epid)),
            "mean_2d_cax_to_epid_mm": _finite(statistics.mean(to_epid)),
            "gantry_3d_iso_diameter_mm": None if gantry.why else _number(data, "gantry_3d_iso_diameter_mm"),
            "coll_2d_iso_diameter_mm": None if collimator.why else _number(data, "coll_2d_iso_diameter_mm"),
            "couch_2d_iso_diameter_mm": None if couch.why else _number(data, "couch_2d_iso_diameter_mm"),
            "gantry_coll_3d_iso_diameter_mm": (
                None if gantry.why or collimator.why else _number(data, "gantry_coll_3d_iso_diameter_mm")
            ),
            "bb_shift_x_mm": shift[0],
            "bb_shift_y_mm": shift[1],
            "bb_shift_z_mm": shift[2],
            "not_covered": "; ".join(not_covered),
        }

    def _why_no_shift(self, images: List[Any], axes: List[str]) -> str:
        if not _spans_two_directions([float(image.gantry_angle) for image in images]):
            return "needs gantry angles that are not opposite"
        # Up to 3.21 the couch's rotation enters with the wrong sign: images of a BB 0.4, 0.7, -0.3 mm off, among them
        # couch 90 and 270, gave a shift of 0.13 and 0.35 mm; 3.22 and later give 0.40 and 0.70 mm.
        if self.release < (3, 22) and any(axis in ("Couch", "GBP Combo") for axis in axes):
            return "pylinac {} is wrong with couch rotations, 3.22 or newer is needed".format(self.version)
        return ""

    def _shift(self) -> Tuple[Optional[float], ...]:
        vector = self.wl.bb_shift_vector
        return tuple(_finite(getattr(vector, axis)) for axis in "xyz")

    def plot(self, path: str) -> None:
        self.wl.save_summary(path)

    def pdf(self, path: str) -> None:
        notes = self.job.get("notes") or None
        self.wl.publish_pdf(path, notes=notes)


class _Coverage:
    def __init__(self, images: int, why: str) -> None:
        self.images = images
        self.why = why  # empty when the axis is covered


def _covered(images: List[Any], axes: List[str], axis: str, attribute: str) -> _Coverage:
    """Whether the images turn this axis alone far enough: pylinac says 0.0 mm where they do not, a silent pass."""
    own = [image for image, varies in zip(images, axes) if varies == axis]
    if not own:
        return _Coverage(0, "no images")
    taken = own + [image for image, varies in zip(images, axes) if varies == "Reference"]
    angles = [float(getattr(image, attribute)) for image in taken]
    distinct = {round(angle) % 360 for angle in angles}
    if len(distinct) < MIN_ANGLES:
        return _Coverage(len(taken), "{} angles, needs {}".format(len(distinct), MIN_ANGLES))
    if axis == "Gantry" and not _spans_two_directions(angles):
        return _Coverage(len(taken), "opposite angles only")
    return _Coverage(len(taken), "")


def _spans_two_directions(angles: List[float]) -> bool:
    return any(abs(math.sin(math.radians(a - angles[0]))) > 0.5 for a in angles)


def _number(data: Any, name: str) -> Optional[float]:
    if not hasattr(data, name):
        raise RuntimeError("this pylinac's results have no {}; install a version from 3.20 to 3.49".format(name))
    return _finite(getattr(data, name))


def _finite(value: Any) -> Optional[float]:
    value = float(value)
    return value if math.isfinite(value) else None


def _word(axis: Any) -> str:
    return str(getattr(axis, "value", axis))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _sealed(result: Dict[str, Any]) -> Dict[str, Any]:
    body = json.dumps(result, sort_keys=True, allow_nan=False)
    return {"format": FORMAT, "sha256": hashlib.sha256(body.encode()).hexdigest(), "result": result}


def _wanted(job: Dict[str, Any]) -> List[str]:
    return ["result.json", "report.json"] if job["report"] else ["result.json"]


def _drawn(path: str, draw: Any) -> Dict[str, Any]:
    stem, extension = os.path.splitext(path)
    part = stem + ".part" + extension  # pylinac and matplotlib decide by the extension
    draw(part)
    with open(part, "rb") as file:
        content = file.read()
    os.replace(part, path)
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _write_json(path: str, value: Any) -> None:
    part = path + ".part"
    with open(part, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, sort_keys=True, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def _lock(path: str) -> bool:
    """Takes the lock of one analysis; the system frees it when this process ends, however it ends."""
    global _LOCK
    _LOCK = open(path, "a+b")
    try:
        if os.name == "nt":
            import msvcrt

            _LOCK.seek(0)
            msvcrt.locking(_LOCK.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(_LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv))
