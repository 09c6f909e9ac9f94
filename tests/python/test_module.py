"""The module as QATrack+ meets it: imports, errors, panics."""

import json
import sys

import pytest

import qatrack_ext
from qatrack_ext import _errors, _native

BUILT_INS = {
    "malformed": ValueError,
    "misuse": ValueError,
    "settings": ValueError,
    "unsupported": ValueError,
    "limit": ValueError,
    "not_found": RuntimeError,
    "incomplete": RuntimeError,
    "peer_misbehaved": ConnectionError,
    "unreachable": ConnectionError,
    "timeout": ConnectionError,
    "cancelled": ConnectionError,
    "io": OSError,
    "analysis": RuntimeError,
    "internal": RuntimeError,
}


def test_import_loads_neither_the_compiled_part_nor_any_foreign_package(run_python):
    code = "import sys; before = set(sys.modules); import qatrack_ext; print(*sorted(set(sys.modules) - before))"
    loaded = run_python(code).split()
    assert [name for name in loaded if name.split(".")[0] not in sys.stdlib_module_names] == ["qatrack_ext"]


def test_a_call_without_arrays_needs_no_numpy(run_python, node):
    code = """
import sys
sys.modules["numpy"] = None  # an import of it would fail
import qatrack_ext
print(qatrack_ext.sessions("nobody"))
"""
    node.file.write_text("[images]\nroot = '{}'\n".format(node.images))
    assert run_python(code).strip() == "[]"


def test_every_public_name_can_be_had_and_is_listed():
    assert qatrack_ext.__all__ == sorted(qatrack_ext._WHERE)
    for name in qatrack_ext.__all__:
        assert getattr(qatrack_ext, name) is not None
        assert name in dir(qatrack_ext)
    assert qatrack_ext.compat.PynetdicomWrapper and qatrack_ext.testpack.build
    with pytest.raises(AttributeError, match="nonsense"):
        qatrack_ext.nonsense


def test_every_kind_of_error_derives_from_error_and_from_the_builtin_that_users_catch():
    assert set(BUILT_INS) == set(_errors._BY_KIND)
    for kind, built_in in BUILT_INS.items():
        error = _errors.make(kind, "two\nlines", "a\nremedy", 7, "/a/file", ["1.2", "1.3"])
        assert isinstance(error, qatrack_ext.Error) and isinstance(error, built_in), kind
        assert (error.kind, error.offset, error.path) == (kind, 7, "/a/file")
        assert error.missing == ("1.2", "1.3") and _errors.make(kind, "").missing == ()
        assert str(error) == "two lines (a remedy)"


@pytest.mark.parametrize("while_waiting", [False, True])
def test_a_panic_is_an_exception_and_the_interpreter_goes_on(while_waiting, capfd):
    for _ in range(3):
        with pytest.raises(qatrack_ext.InternalError, match="internal error in qatrack_ext: forced") as caught:
            _native._force_panic(while_waiting)
    assert caught.value.kind == "internal"
    assert not any(base.__name__ == "PanicException" for base in type(caught.value).__mro__)
    assert "panicked" in capfd.readouterr().err  # the place is in the server's log


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[node]\nprot = 1", "unknown field `prot`"),
        ("[analysis]\npython = 'python3'", "analysis.python"),
        ("[node", "config.toml"),
    ],
)
def test_wrong_settings_are_told_with_their_key(node, text, told):
    node.file.write_text(text)
    with pytest.raises(qatrack_ext.MisuseError) as caught:
        qatrack_ext.sessions("anybody")
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_a_settings_file_that_is_not_there_is_an_io_error_with_its_path(node):
    with pytest.raises(qatrack_ext.IoError) as caught:
        qatrack_ext.sessions("anybody")
    assert caught.value.path == str(node.file)


def test_settings_reach_python_whole(node):
    node.file.write_text("[analysis]\ntimeout_s = 7.5\n")
    assert json.loads(_native.settings_json())["analysis"]["timeout_s"] == 7.5


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"date": "yesterday"}, "no date"),
        ({"date": 5}, "no date"),
    ],
)
def test_wrong_arguments_are_told(node, arguments, told):
    node.file.write_text("")
    with pytest.raises(qatrack_ext.MisuseError, match=told):
        qatrack_ext.sessions("anybody", **arguments)
