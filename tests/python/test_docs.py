"""The commands of the QATrack+ chapters, run as they stand."""

import re
import shlex
import shutil
import subprocess
import sys

import pytest

from conftest import ROOT

CHAPTERS = [ROOT / "docs" / "qatrack.md", ROOT / "README.md"]


def commands(path):
    blocks = re.findall(r"^```console\n(.*?)^```", path.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    return [line for line in lines if line.startswith("python -m qatrack_ext ")]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.name)
def test_every_command_of_the_chapter_works(path, tmp_path):
    found = commands(path)
    assert found
    shutil.copytree(str(ROOT / "testpacks"), str(tmp_path / "testpacks"))
    for command in found:
        words = [sys.executable, "-W", "error"] + shlex.split(command)[1:]
        done = subprocess.run(words, cwd=str(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
        assert done.returncode == 0, "{}: {}".format(command, done.stderr)
        assert done.stdout.strip(), command


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.name)
def test_every_python_example_parses(path):
    blocks = re.findall(r"^```python\n(.*?)^```", path.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    for block in blocks:
        compile(block, path.name, "exec")
    assert blocks
