"""The command line of ``python -m qatrack_ext``: parses, calls, prints."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import List, Optional

from . import _errors


def main(arguments: List[str]) -> int:
    """Runs a command; 0 when it did what it was asked, 1 with the error on stderr."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except _errors.Error as error:
        print("error: {}".format(error), file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m qatrack_ext", description="Tools of qatrack_ext.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.required = True

    analyze = commands.add_parser(
        "analyze",
        help="analyse the Winston-Lutz images in a directory, so that the result is there before a list is opened",
        description="Made for [hooks] session_complete. The parameters must be those of the composite test, or it will "
        "not find the result. Images that are no portal images of a plan are left alone.",
    )
    analyze.add_argument("directory", type=Path)
    analyze.add_argument("--bb-mm", type=float, default=5.0, help="diameter of the ball (default: 5)")
    analyze.add_argument("--image-type", default="PORTAL", help="value of Image Type (0008,0008) (default: PORTAL)")
    analyze.add_argument("--low-density-bb", action="store_true")
    analyze.add_argument("--open-field", action="store_true")
    analyze.add_argument("--apply-virtual-shift", action="store_true")
    analyze.add_argument("--machine-scale", default="IEC61217")
    analyze.add_argument("--plan", help="analyse only sessions of plans whose label fits, with * and ?", default="*")
    analyze.set_defaults(run=_analyze)

    testpack = commands.add_parser("testpack", help="build, check, list and export test packs")
    packs = testpack.add_subparsers(dest="action", metavar="ACTION")
    packs.required = True
    build = packs.add_parser("build", help="build a .tpk from its source and check it")
    build.add_argument("source", type=Path)
    build.add_argument("--output", type=Path, help="where to write it (default: beside the source)")
    build.set_defaults(run=_build)
    check = packs.add_parser("check", help="find what QATrack+ would not tell")
    check.add_argument("files", type=Path, nargs="+", help=".tpk or source files")
    check.set_defaults(run=_check)
    listing = packs.add_parser("list", help="what is in a pack; without a file, the packs that come with qatrack_ext")
    listing.add_argument("file", type=Path, nargs="?")
    listing.set_defaults(run=_list)
    export = packs.add_parser("export", help="write the packs that come with qatrack_ext, for QATrack+'s import page")
    export.add_argument("names", nargs="*", help="such as winston-lutz (default: all)")
    export.add_argument("--to", type=Path, default=Path("."), help="directory (default: here)")
    export.set_defaults(run=_export)

    tolerances = packs.add_parser("tolerances", help="set a pack's references and tolerances on a unit")
    tolerances.add_argument("--url", required=True, help="QATrack+'s address, such as https://qatrack.hospital.org")
    tolerances.add_argument("--token-file", type=Path, help="file with an API token (default: QATRACK_TOKEN)")
    tolerances.add_argument("--unit", required=True, type=int, help="unit number")
    tolerances.add_argument("--profile", required=True, choices=("srs", "sbrt"))
    tolerances.add_argument("--pack", default="winston-lutz")
    tolerances.add_argument("--script", action="store_true", help="print a script for manage.py shell instead")
    tolerances.set_defaults(run=_tolerances)
    return parser


def _analyze(options: argparse.Namespace) -> int:
    from . import _analysis, _native, _winston_lutz

    settings = _analysis.Settings.load()
    images = _native.directory_series(options.directory, options.image_type)
    if not _fits(images.plan_label or "", options.plan):
        print(json.dumps({"status": "skipped", "reason": "the plan's label does not fit --plan"}))
        return 0
    names = ("bb_mm", "low_density_bb", "open_field", "apply_virtual_shift", "machine_scale")
    parameters = _winston_lutz.parameters(**{name: getattr(options, name) for name in names})
    # The report needs a while after the numbers; the hook has nobody waiting.
    deadline = time.monotonic() + settings.timeout_s + 5.0
    outcome = _winston_lutz.analyse(images, parameters, settings, deadline, True)
    if outcome.result is None:
        raise _errors.make("analysis", "no result after {:g} s".format(settings.timeout_s))
    print(json.dumps({"status": "done", "result": outcome.result}, sort_keys=True))
    return 0


def _fits(text: str, pattern: str) -> bool:
    from fnmatch import fnmatchcase

    return fnmatchcase(text, pattern)


def _build(options: argparse.Namespace) -> int:
    from . import _testpack_check, testpack

    pack = testpack.build(testpack.load_source(options.source))
    if _tell(options.source, _testpack_check.check(pack)):
        return 1
    output = options.output or options.source.with_suffix(".tpk")
    testpack.save(pack, output)
    print("wrote {}".format(output))
    return 0


def _check(options: argparse.Namespace) -> int:
    from . import _testpack_check, testpack

    bad = 0
    for path in options.files:
        pack = testpack.build(testpack.load_source(path)) if path.suffix == ".toml" else testpack.load(path)
        faults = _testpack_check.check(pack)
        bad += _tell(path, faults)
        if not faults:
            print("{}: no faults found".format(path))
    return 1 if bad else 0


def _tell(path: Path, faults: List[str]) -> int:
    for fault in faults:
        print("{}: {}".format(path, fault), file=sys.stderr)
    return len(faults)


def _list(options: argparse.Namespace) -> int:
    from . import testpack

    for path in [options.file] if options.file else testpack.shipped():
        pack = testpack.load(path)
        print("{}: {}".format(path.stem, pack["meta"].get("description", "")))
        for element in testpack.elements(pack, "testlists"):
            print("  list {}".format(element["object"]["fields"]["name"]))
            if options.file:
                for test in testpack.fields_of(element, "qa.test"):
                    print("    {:<26} {:<11} {}".format(test["slug"], test["type"], test["name"]))
    return 0


def _export(options: argparse.Namespace) -> int:
    from . import testpack

    known = {path.stem: path for path in testpack.shipped()}
    for name in options.names or sorted(known):
        if name not in known:
            raise _errors.make("misuse", "no pack is called {}; there are {}".format(name, ", ".join(sorted(known))))
        target = options.to / known[name].name
        try:
            target.write_bytes(known[name].read_bytes())
        except OSError as error:
            raise _errors.make("io", "cannot write {}: {}".format(target, error.strerror or error), path=str(target))
        print("wrote {}".format(target))
    return 0


def _tolerances(options: argparse.Namespace) -> int:
    from . import _tolerances

    wanted = _tolerances.wanted(options.pack, options.profile)
    if options.script:
        print(_tolerances.script(wanted, options.unit))
        return 0
    for line in _tolerances.set_on_unit(options.url, _token(options.token_file), options.unit, wanted):
        print(line)
    return 0


def _token(file: Optional[Path]) -> str:
    import os

    try:
        token = file.read_text("utf-8").strip() if file else os.environ.get("QATRACK_TOKEN", "").strip()
    except OSError as error:
        raise _errors.make("io", "cannot read {}: {}".format(file, error.strerror or error), path=str(file))
    if not token:
        hint = "make one at /api/get-token/ or in the admin pages; give it by --token-file or QATRACK_TOKEN"
        raise _errors.make("misuse", "QATrack+'s API needs a token", hint)
    return token
