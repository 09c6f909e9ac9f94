"""The one wheel on every Python from 3.8 on that this machine has."""

import glob
import os
import pathlib
import shutil
import subprocess


from conftest import need

SCRIPT = """
import sys
import qatrack_ext
from qatrack_ext import _native, _testpack_check, testpack
assert qatrack_ext.__version__
try:
    _native._force_panic(True)
except qatrack_ext.InternalError as error:
    assert error.kind == "internal"
else:
    raise AssertionError("no panic")
pack = testpack.build(testpack.load_source(testpack.SHIPPED / "winston-lutz.toml"))
assert _testpack_check.check(pack) == []
answer = qatrack_ext.winston_lutz(None, None, patient=None, plan=None)
assert answer["status"] == "waiting", answer
import qatrack_ext.compat, qatrack_ext._analysis, qatrack_ext._tolerances, qatrack_ext._winston_lutz_worker
print("%d.%d.%d" % sys.version_info[:3])
"""


def pythons():
    """Interpreters by version: those on PATH and pyenv's."""
    root = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    candidates = sorted(glob.glob(os.path.join(root, "versions", "*", "bin", "python")))
    candidates += [shutil.which("python3.{}".format(minor)) for minor in range(8, 20)] + [shutil.which("python3")]
    found = {}
    for path in filter(None, candidates):
        code = "import sys, pip; print('%d.%02d' % sys.version_info[:2])"
        done = subprocess.run([path, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, universal_newlines=True)
        if done.returncode == 0 and done.stdout.strip() >= "3.08":
            found.setdefault(done.stdout.strip(), path)
    return found


def test_the_wheel_installs_and_runs_on_every_python_of_this_machine(tmp_path, capsys):
    wheel = os.environ.get("QATRACK_EXT_WHEEL", "")
    need(pathlib.Path(wheel).is_file(), "wheel; name it as QATRACK_EXT_WHEEL")
    assert "-cp38-abi3-" in wheel
    ran = []
    for version, python in sorted(pythons().items()):
        site = tmp_path / version
        install = ["-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--disable-pip-version-check"]
        subprocess.run([python] + install + ["--target", str(site), wheel], check=True)
        done = subprocess.run(
            [python, "-W", "error", "-c", SCRIPT],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(site)},
            universal_newlines=True,
        )
        assert done.returncode == 0, "{}: {}".format(python, done.stderr)
        ran.append(done.stdout.strip())
    with capsys.disabled():
        print("\nthe wheel ran on Python " + ", ".join(ran))
    assert ran


def test_the_wheel_needs_nothing_but_itself():
    from importlib import metadata

    requires = metadata.requires("qatrack-ext")
    assert not requires
