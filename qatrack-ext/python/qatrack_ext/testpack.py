"""Test packs: QATrack+'s files of test lists, built from sources that a person can edit.

Source: one TOML file per pack (``testpacks/*.toml``) with the code of each test as a block. Output: a ``.tpk`` as
QATrack+ 3.1.1 and 4.0 import it. QATrack+ checks nothing at import and its error messages there say nothing useful, so
:func:`check` looks for what would fail at the import, at the first evaluation, or when an admin saves the test later.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List

from . import _errors

SHIPPED = Path(__file__).with_name("testpacks")

_CATEGORY = ("name", "slug", "description")
_TEST: Dict[str, Any] = {
    "name": None,
    "display_name": "",
    "slug": None,
    "description": "",
    "procedure": None,
    "category": None,
    "chart_visibility": True,
    "type": "simple",
    "flag_when": None,
    "hidden": False,
    "skip_without_comment": False,
    "require_comment": False,
    "display_image": False,
    "choices": None,
    "constant_value": None,
    "wrap_low": None,
    "wrap_high": None,
    "calculation_procedure": None,
    "formatting": "",
}
_LIST: Dict[str, Any] = {"name": None, "slug": None, "description": "", "javascript": "", "warning_message": ""}


def load_source(path: Path) -> Dict[str, Any]:
    """The tables of a source file; an error names the file and what is wrong."""
    from . import _native

    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise _errors.make("io", "cannot read {}: {}".format(path, error.strerror or error), path=str(path))
    source: Dict[str, Any] = json.loads(_native.toml_to_json(text, str(path)))
    for table, needed in (("pack", ("name", "description", "version", "date", "id")), ("list", ("name", "slug"))):
        entries = source.get(table)
        for entry in entries if isinstance(entries, list) else [entries]:
            missing = [key for key in needed if not isinstance(entry, dict) or key not in entry]
            if missing:
                raise _misuse("{}: [{}] needs {}".format(path.name, table, ", ".join(missing)))
    return source


def build(source: Dict[str, Any]) -> Dict[str, Any]:
    """The pack of a source, as a value; the same source gives the same pack."""
    known = set(source) - {"pack", "category", "list", "test", "tolerance"}
    if known:
        raise _misuse("unknown table [{}]; there are pack, category, list, test, tolerance".format(sorted(known)[0]))
    categories = {category["name"]: category for category in source.get("category", [])}
    tests = {_named(test): _test_fields(test) for test in source.get("test", [])}
    pack = source["pack"]
    return {
        "meta": {
            "version": pack["version"],
            "datetime": pack["date"],
            "description": " ".join(pack["description"].split()),
            "contact": pack.get("contact", ""),
            "name": pack["name"],
            "id": pack["id"],
        },
        "objects": {
            "tests": [],
            "testlists": [json.dumps(_list_element(entry, tests, categories)) for entry in source["list"]],
            "testlistcycles": [],
        },
    }


def save(pack: Dict[str, Any], path: Path) -> None:
    """Writes a pack as UTF-8 without BOM, whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(dumps(pack))
    part.replace(path)


def dumps(pack: Dict[str, Any]) -> bytes:
    """The bytes of a pack's file."""
    return (json.dumps(pack, indent=2, sort_keys=False) + "\n").encode("utf-8")


def load(path: Path) -> Dict[str, Any]:
    """Reads a ``.tpk``; only what stops QATrack+ from reading it at all is an error here."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _errors.make("io", "cannot read {}: {}".format(path, error.strerror or error), path=str(path))
    if content.startswith(b"\xef\xbb\xbf"):
        raise _malformed(path, "begins with a byte order mark", "save it as UTF-8 without BOM")
    try:
        pack = json.loads(content.decode("utf-8"))
    except ValueError as error:
        raise _malformed(path, "is no UTF-8 JSON: {}".format(error), "export it from QATrack+ again")
    objects = pack.get("objects") if isinstance(pack, dict) else None
    for name in ("tests", "testlists", "testlistcycles"):
        if not isinstance(objects, dict) or not isinstance(objects.get(name), list):
            raise _malformed(path, "has no list objects.{}".format(name), "all three lists must be there")
    return dict(pack)


def elements(pack: Dict[str, Any], kind: str) -> List[Dict[str, Any]]:
    """The elements of ``testlists``, ``tests`` or ``testlistcycles``; each is a JSON string in the file."""
    return [json.loads(text) for text in pack["objects"][kind]]


def fields_of(element: Dict[str, Any], model: str) -> List[Dict[str, Any]]:
    """The fields of an element's object and dependencies that are of a model, such as ``qa.test``."""
    every = [element["object"]] + list(element["dependencies"])
    return [entry["fields"] for entry in every if entry["model"] == model]


def shipped() -> List[Path]:
    """The packs inside this package."""
    return sorted(SHIPPED.glob("*.tpk"))


def _named(test: Dict[str, Any]) -> str:
    for key in ("slug", "name", "type", "category"):
        if not test.get(key):
            raise _misuse("test {!r} has no {}".format(test.get("slug") or test.get("name") or "?", key))
    return str(test["slug"])


def _test_fields(test: Dict[str, Any]) -> Dict[str, Any]:
    given = dict(test)
    code = given.pop("code", None)
    unknown = sorted(set(given) - set(_TEST))
    if unknown:
        raise _misuse("test {} has an unknown key {}".format(test["slug"], unknown[0]))
    fields = dict(_TEST)
    fields.update(given)
    fields["category"] = [fields["category"]]
    fields["description"] = fields["description"].strip()
    fields["calculation_procedure"] = code.strip("\n") + "\n" if code else None
    return fields


def _list_element(
    entry: Dict[str, Any], tests: Dict[str, Dict[str, Any]], categories: Dict[str, Dict[str, Any]]
) -> Dict[str, Any]:
    given = {key: value for key, value in entry.items() if key not in ("tests",)}
    unknown = sorted(set(given) - set(_LIST))
    if unknown:
        raise _misuse("list {} has an unknown key {}".format(entry["slug"], unknown[0]))
    fields = dict(_LIST)
    fields.update(given)
    fields["description"] = fields["description"].strip()
    members: List[Dict[str, Any]] = []
    for slug in entry.get("tests", []):
        if slug not in tests:
            raise _misuse("list {} has {}, which no [[test]] describes".format(entry["slug"], slug))
        members.append(tests[slug])
    used: List[Dict[str, Any]] = []
    for test in members:
        name = test["category"][0]
        if name not in categories:
            raise _misuse("test {} is of category {!r}, which no [[category]] describes".format(test["slug"], name))
        category = {key: categories[name].get(key, "") for key in _CATEGORY}
        if category not in used:
            used.append(category)
    memberships = [
        {"test_list": [fields["slug"]], "test": [test["name"]], "order": order} for order, test in enumerate(members)
    ]
    dependencies = (
        [{"model": "qa.category", "fields": category} for category in used]
        + [{"model": "qa.test", "fields": test} for test in members]
        + [{"model": "qa.testlistmembership", "fields": membership} for membership in memberships]
    )
    return {
        "key": [fields["slug"]],
        "object": {"model": "qa.testlist", "fields": fields},
        "dependencies": dependencies,
    }


def _misuse(message: str) -> _errors.Error:
    return _errors.make("misuse", message)


def _malformed(path: Path, what: str, hint: str) -> _errors.Error:
    return _errors.make("malformed", "{} {}".format(path, what), hint, path=str(path))
