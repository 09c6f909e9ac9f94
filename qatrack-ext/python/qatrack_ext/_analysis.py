"""Runs an analysis in its own process, once per set of images, and keeps what it gave.

Kept under ``analysis.cache`` by a key of the instance UIDs, the parameters and the version of the analysing program:
any number of threads and processes, and the service's hook, share one run and one result. A result that does not carry
its own checksum is thrown away and made again. Nothing here is specific to one kind of analysis: the worker script is.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from glob import glob
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

from . import _errors

log = logging.getLogger("qatrack_ext")

ERROR_KEPT_S = 60.0  # a failure is given again for so long, then tried again: something may have been installed
POLL_S = 0.05
RESTART_S = 1.0  # between two starts of a worker while another process is at it
_BUSY = 75  # the worker's exit code for that

_running: Dict[str, "subprocess.Popen[bytes]"] = {}
_running_lock = threading.Lock()
_pruned_at = 0.0


class Settings(NamedTuple):
    """``[analysis]`` of the settings."""

    python: Optional[str]
    cache: Path
    timeout_s: float
    answer_within_s: float
    keep_days: int

    @classmethod
    def load(cls) -> "Settings":
        from . import _native

        section = json.loads(_native.settings_json())["analysis"]
        return cls(
            section.get("python"),
            Path(section["cache"]),
            section["timeout_s"],
            section["answer_within_s"],
            section["keep_days"],
        )


class Outcome(NamedTuple):
    """What is known of an analysis now."""

    key: str
    result: Optional[Dict[str, Any]]  # None while it runs
    directory: Path
    files: Optional[Dict[str, Dict[str, Any]]]  # name to bytes and sha256; None while they are drawn


class Job(NamedTuple):
    """One analysis: which worker, of which images, how."""

    worker: str  # module file in this package
    package: str  # the program that analyses, by its distribution's name
    images: Path
    instance_uids: List[str]
    parameters: Dict[str, Any]
    notes: List[str]
    report: bool  # whether report and plot are drawn too; they take longer than the numbers


def run(job: Job, settings: Settings, deadline: float) -> Outcome:
    """Gives the kept result, or starts the analysis and waits for it until ``deadline`` (``time.monotonic``).

    At the deadline the analysis goes on, and the next call has its result. Raises ``AnalysisError`` when it failed.
    """
    interpreter = _interpreter(settings)
    key = _key(job, _version_of(interpreter, job.package))
    entry = _entry(settings.cache, job.worker, key)
    started_at: Optional[float] = None
    while True:
        outcome = _kept(key, entry)
        if outcome is not None and (outcome.files is not None or not job.report):
            _touch(entry)
            return outcome
        now = time.monotonic()
        if started_at is None or (now - started_at > RESTART_S and not _is_running(str(entry))):
            if started_at is not None:
                _raise_if_failed(str(entry), entry, settings)
            _start(job, settings, interpreter, entry)
            started_at = now
        if now >= deadline:
            return outcome or Outcome(key, None, entry, None)
        time.sleep(min(POLL_S, max(0.0, deadline - now)))
        if not _is_running(str(entry)):
            _raise_if_failed(str(entry), entry, settings)


def _key(job: Job, version: str) -> str:
    parts = {
        "worker": job.worker,
        "program": "{} {}".format(job.package, version),
        "parameters": job.parameters,
        "instances": sorted(job.instance_uids),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:40]


def _entry(cache: Path, worker: str, key: str) -> Path:
    place = Path(worker).stem.strip("_")
    try:
        return _make_shared(cache / place / key)
    except OSError as error:
        # Slower (the service's results are not found) but not wrong; a result is worth more than a tidy place.
        fallback = Path(tempfile.gettempdir()) / "qatrack_ext-{}".format(_account()) / place / key
        log.warning("qatrack_ext: analysis.cache cannot be written (%s); using %s", error, fallback)
        fallback.mkdir(parents=True, exist_ok=True, mode=0o700)
        return fallback


def _make_shared(directory: Path) -> Path:
    """Makes a directory that the group may write, as the parent does; a probe file proves that we may."""
    missing = []
    here = directory
    while not here.exists():
        missing.append(here)
        here = here.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        if os.name != "nt":
            os.chmod(path, 0o2775)
    if not os.access(str(directory), os.W_OK):
        raise PermissionError("{} is not writable for this account".format(directory))
    return directory


def _account() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")


def _touch(entry: Path) -> None:
    try:
        os.utime(str(entry))
    except OSError:  # another account's directory; its last use is then not noted, and it is kept a while less
        pass


def _kept(key: str, entry: Path) -> Optional[Outcome]:
    result = _read_result(entry / "result.json")
    if result is None:
        return None
    if "error" in result:
        raise _errors.make("analysis", result["error"])
    return Outcome(key, result, entry, _read_report(entry))


def _read_result(path: Path) -> Optional[Dict[str, Any]]:
    try:
        text = path.read_text("utf-8")
    except OSError:
        return None
    try:
        sealed = json.loads(text)
        result = sealed["result"]
        body = json.dumps(result, sort_keys=True, allow_nan=False)
        whole = sealed["format"] == 1 and sealed["sha256"] == hashlib.sha256(body.encode()).hexdigest()
    except (ValueError, KeyError, TypeError):
        whole, result = False, {}
    if whole and "error" in result and time.time() - path.stat().st_mtime > ERROR_KEPT_S:
        whole = False
    if not whole:
        _discard(path, path.with_name("report.json"))
        return None
    return dict(result)


def _read_report(entry: Path) -> Optional[Dict[str, Dict[str, Any]]]:
    path = entry / "report.json"
    try:
        report = json.loads(path.read_text("utf-8"))
        sizes = {name: (entry / name).stat().st_size for name, file in report.items() if "error" not in file}
        if all(report[name]["bytes"] == size for name, size in sizes.items()):
            return dict(report)
    except FileNotFoundError:
        if not path.exists():
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    _discard(path)
    return None


def content(outcome: Outcome, name: str) -> Optional[bytes]:
    """The bytes of a drawn file, or None when it was not drawn or is damaged (then it is drawn again)."""
    file = (outcome.files or {}).get(name)
    if file is None or "error" in file:
        return None
    data = (outcome.directory / name).read_bytes()
    if hashlib.sha256(data).hexdigest() == file["sha256"]:
        return data
    _discard(outcome.directory / "report.json")
    return None


def _discard(*paths: Path) -> None:
    for path in paths:
        try:
            path.unlink()
        except OSError:
            pass


def _is_running(entry: str) -> bool:
    with _running_lock:
        process = _running.get(entry)
        return process is not None and process.poll() is None


def _raise_if_failed(name: str, entry: Path, settings: Settings) -> None:
    """An error for a worker that ended without even an error of its own; a busy or finished one is none."""
    with _running_lock:
        process = _running.get(name)
        code = process.poll() if process is not None else None
        if code is None:
            return
        del _running[name]
    if code in (0, _BUSY):
        return
    try:
        text = (entry / "log").read_text("utf-8", "replace")
    except OSError:
        text = ""
    if "Timeout (" in text:
        raise _errors.make(
            "analysis",
            "the analysis took longer than {:g} s and was ended".format(settings.timeout_s),
            "raise analysis.timeout_s in the settings, or give the server more room",
        )
    last = [line for line in text.splitlines() if line.strip()][-1:] or ["no message"]
    raise _errors.make("analysis", "the analysis process ended with code {}: {}".format(code, last[0]))


def _start(job: Job, settings: Settings, interpreter: str, entry: Path) -> None:
    if settings.cache in job.images.parents:
        _touch(job.images)  # a view of a session, which is in use now
    _prune(settings)
    with _running_lock:
        process = _running.get(str(entry))
        if process is not None and process.poll() is None:
            return
        request = {
            "images": str(job.images),
            "out": str(entry),
            "parameters": job.parameters,
            "notes": job.notes,
            "report": job.report,
            "n_images": len(job.instance_uids),
            "timeout_s": settings.timeout_s,
        }
        # A name of its own: several processes may write at once, and only one of their workers gets the lock.
        handle, path = tempfile.mkstemp(".json", "job-", str(entry))
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(request, file)
        script = str(Path(__file__).with_name(job.worker))
        options: Dict[str, Any] = {"creationflags": 0x08000000} if os.name == "nt" else {"start_new_session": True}
        try:
            with open(str(entry / "log"), "ab") as output:
                _running[str(entry)] = subprocess.Popen(
                    [interpreter, "-X", "utf8", script, path],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=str(entry),
                    env=_environment(settings.cache),
                    **options
                )
        except OSError as error:
            raise _errors.make(
                "analysis",
                "cannot start {}: {}".format(interpreter, error),
                "name an interpreter that has pylinac as [analysis] python in the settings",
            )


def _environment(cache: Path) -> Dict[str, str]:
    """The environment without what would lead another interpreter into QATrack+'s packages."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["MPLBACKEND"] = "Agg"
    # www-data has no home: matplotlib would build its font cache anew, for seconds, in every run.
    fonts = cache / "matplotlib"
    try:
        environment["MPLCONFIGDIR"] = str(_make_shared(fonts))
    except OSError:
        pass
    return environment


def _interpreter(settings: Settings) -> str:
    """``analysis.python``, else this process' own environment's interpreter.

    ``sys.executable`` is not always an interpreter: under mod_wsgi it may be Apache, under a Windows service the
    service's host. ``sys.prefix`` is the environment either way.
    """
    if settings.python:
        return settings.python
    if os.path.basename(sys.executable or "").lower().startswith("python"):
        return sys.executable
    inside = ("Scripts\\python.exe", "python.exe") if os.name == "nt" else ("bin/python", "bin/python3")
    for name in inside:
        path = os.path.join(sys.prefix, name)
        if os.path.exists(path):
            return path
    raise _errors.make(
        "analysis",
        "found no Python interpreter below {}".format(sys.prefix),
        "name one that has pylinac 3.20 or newer as [analysis] python in the settings",
    )


def _version_of(interpreter: str, package: str) -> str:
    """The package's version in the interpreter's environment, read from its directories: no process is started."""
    prefix = os.path.dirname(os.path.dirname(interpreter))
    found: List[str] = []
    for site in ("lib/python3*/site-packages", "lib/python3*/dist-packages", "Lib/site-packages"):
        found += glob(os.path.join(glob_escape(prefix), site, package + "-*.dist-info"))
    if os.name == "nt":
        found += glob(os.path.join(glob_escape(os.path.dirname(interpreter)), "Lib/site-packages", package + "-*.dist-info"))
    if found:
        return os.path.basename(sorted(found)[-1])[len(package) + 1 : -len(".dist-info")]
    if os.path.realpath(interpreter) == os.path.realpath(sys.executable or ""):
        from importlib import metadata

        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            pass
    return "unknown"


def glob_escape(path: str) -> str:
    """A path as a pattern that matches itself."""
    from glob import escape

    return escape(path)


def _prune(settings: Settings) -> None:
    """Removes what was not used for ``analysis.keep_days``; looks once a day in each process."""
    global _pruned_at
    now = time.time()
    if now - _pruned_at < 86_400:
        return
    _pruned_at = now
    oldest = now - settings.keep_days * 86_400
    for pattern in ("winston_lutz_worker/*", "attached/*", "views/*"):
        for path in glob(os.path.join(glob_escape(str(settings.cache)), pattern)):
            try:
                if os.stat(path).st_mtime < oldest:
                    shutil.rmtree(path)
            except OSError as error:
                log.warning("qatrack_ext: cannot remove an old result: %s", error)
