"""Finds in a test pack what QATrack+ does not check: see :func:`check`.

The rules are QATrack+ 3.1.1's: what its import does with the objects, how it orders and runs code, and what its admin
page asks of a test when it is saved.
"""

from __future__ import annotations

import ast
import builtins
import io
import keyword
import re
import tokenize
import warnings
from typing import Any, Dict, Iterable, Iterator, List, Set

from .testpack import elements, fields_of

TYPES = (
    "boolean",
    "simple",
    "wraparound",
    "multchoice",
    "constant",
    "composite",
    "date",
    "datetime",
    "string",
    "scomposite",
    "upload",
)
COMPOSITES = ("composite", "scomposite")
# Names that QATrack+ puts in scope of a composite test, beside the slugs.
SCOPE = ("META", "REFS", "TOLS", "UTILS", "numpy", "scipy", "matplotlib", "pydicom", "dicom", "math")
UPLOAD_SCOPE = ("FILE", "BIN_FILE")
SLUG = re.compile(r"^[a-zA-Z_]+[0-9a-zA-Z_]*$")
LIST_SLUG = re.compile(r"^[-a-zA-Z0-9_]+$")
MAX_NAME, MAX_SLUG, MAX_FORMATTING = 255, 128, 10  # QATrack+'s column widths


def check(pack: Dict[str, Any]) -> List[str]:
    """The faults of a pack, one line each; an empty list when QATrack+ will import and run it."""
    faults = [] if "version" in pack.get("meta", {}) else ["meta has no version: the import page fails on it"]
    parsed: Dict[str, List[Dict[str, Any]]] = {}
    for kind in ("tests", "testlists", "testlistcycles"):
        try:
            parsed[kind] = elements(pack, kind)
        except (TypeError, ValueError):
            faults.append("objects.{}: each element must be a JSON text in quotes".format(kind))
            parsed[kind] = []
    every = [element for kind in parsed.values() for element in kind]
    for element in every:
        if not {"key", "object", "dependencies"} <= set(element):
            return faults + ["an element lacks key, object or dependencies"]
    faults += _categories(every)
    tests = _unique([fields for element in every for fields in fields_of(element, "qa.test")])
    for test in tests:
        faults += _test(test)
    faults += _names(tests)
    for element in parsed["testlists"]:
        faults += _list(element)
    return faults


def tokens(code: str) -> List[str]:
    """The names and other tokens by which QATrack+ finds dependencies: all but those after a dot."""
    found: List[str] = []
    previous = ""
    for item in tokenize.generate_tokens(io.StringIO(code).readline):
        value = item.string  # QATrack+ writes t[token.NAME], whose number is that of this field
        if value and previous != ".":
            found.append(value)
        previous = value
    return found


def _unique(tests: Iterable[Dict[str, Any]]) -> List[Dict[str, Any]]:
    by_name: Dict[str, Dict[str, Any]] = {}
    for test in tests:
        by_name.setdefault(str(test.get("name")), test)
    return list(by_name.values())


def _categories(every: List[Dict[str, Any]]) -> Iterator[str]:
    names: Dict[str, str] = {}
    for element in every:
        given = fields_of(element, "qa.category")
        for category in given:
            extra = sorted(set(category) - {"name", "slug", "description"})
            if extra:
                yield "category {}: key {} makes the import fail".format(category.get("name"), extra[0])
            if names.setdefault(str(category.get("slug")), str(category.get("name"))) != category.get("name"):
                yield "two categories share the slug {}: the import fails".format(category.get("slug"))
        known = [category.get("name") for category in given]
        for test in fields_of(element, "qa.test"):
            named = test.get("category")
            if not isinstance(named, list) or len(named) != 1 or named[0] not in known:
                yield "test {}: its category {} is missing from the pack".format(test.get("slug"), named)


def _names(tests: List[Dict[str, Any]]) -> Iterator[str]:
    slugs: Dict[str, str] = {}
    for test in tests:
        slug, name = str(test.get("slug")), str(test.get("name"))
        if slugs.setdefault(slug, name) != name:
            yield "tests {!r} and {!r} share the slug {}".format(slugs[slug], name, slug)


def _test(test: Dict[str, Any]) -> Iterator[str]:
    slug = str(test.get("slug") or "")
    where = "test {}".format(slug or test.get("name"))
    if not SLUG.match(slug) or len(slug) > MAX_SLUG or keyword.iskeyword(slug) or slug in SCOPE + UPLOAD_SCOPE:
        yield "{}: the slug is no name that code can use".format(where)
    if not test.get("name") or len(str(test["name"])) > MAX_NAME:
        yield "{}: the name is missing or longer than {}".format(where, MAX_NAME)
    kind = test.get("type")
    if kind not in TYPES:
        yield "{}: type {!r} is none of {}".format(where, kind, ", ".join(TYPES))
    if test.get("hidden") is None:
        yield "{}: hidden is null".format(where)
    if not isinstance(test.get("formatting"), str) or len(test["formatting"]) > MAX_FORMATTING:
        yield "{}: formatting must be a text of at most {} letters".format(where, MAX_FORMATTING)
    for needed, types in (("choices", "multchoice"), ("constant_value", "constant"), ("wrap_low", "wraparound")):
        if kind == types and test.get(needed) in (None, ""):
            yield "{}: a test of type {} needs {}".format(where, kind, needed)
    if test.get("calculation_procedure"):
        for fault in _code(test):
            yield "{}: {}".format(where, fault)
    elif kind in COMPOSITES:
        yield "{}: a composite test without code".format(where)


def _code(test: Dict[str, Any]) -> Iterator[str]:
    code, slug = test["calculation_procedure"], test["slug"]
    try:
        with warnings.catch_warnings():  # an escape as "\\P" is a warning to Python and no fault to QATrack+
            warnings.simplefilter("ignore")
            tree = ast.parse(code, feature_version=(3, 6))
        tokens(code)
    except (SyntaxError, ValueError, tokenize.TokenError) as error:
        yield "the code is not Python 3.6: {}".format(" ".join(str(error).split()))
        return
    sets_slug = re.search(r"^\s*{}\s*=".format(re.escape(slug)), code, re.MULTILINE)
    sets_result = re.search(r"^\s*result\s*=", code, re.MULTILINE)
    if not sets_slug and not sets_result:
        yield "no line `{0} = …`: the admin page will not save it".format(slug)
    if slug != "result" and "result" in _bound(tree) and (sets_slug or not sets_result):
        yield "a variable is called `result`: QATrack+ takes it for the test's value; rename it"


def _list(element: Dict[str, Any]) -> Iterator[str]:
    fields = element["object"]["fields"]
    where = "list {}".format(fields.get("slug"))
    if not LIST_SLUG.match(str(fields.get("slug") or "")):
        yield "{}: the slug has letters that no address can have".format(where)
    tests = {test["name"]: test for test in fields_of(element, "qa.test") if "name" in test}
    orders: Set[Any] = set()
    members = []
    for membership in fields_of(element, "qa.testlistmembership"):
        name = (membership.get("test") or [None])[0]
        if name not in tests:
            yield "{}: its member {!r} is not in the pack".format(where, name)
        else:
            members.append(tests[name])
        own = (membership.get("test_list") or [None])[0] == fields.get("slug")
        if own and membership.get("order") in orders:
            yield "{}: two members have the order {}".format(where, membership.get("order"))
        if own:
            orders.add(membership.get("order"))
    if not members:
        yield "{}: it has no tests".format(where)
    for fault in _dependencies(members):
        yield "{}: {}".format(where, fault)


def _dependencies(members: List[Dict[str, Any]]) -> Iterator[str]:
    slugs = {test["slug"] for test in members}
    needs: Dict[str, Set[str]] = {}
    for test in members:
        code = test.get("calculation_procedure")
        if not code:
            continue
        try:
            tree = ast.parse(code)
            named = set(tokens(code)) & slugs - {test["slug"]}
        except (SyntaxError, ValueError, tokenize.TokenError):
            continue  # told by _code
        composite = test["type"] in COMPOSITES
        if composite and not named:
            yield "{} names no other test, so nothing triggers it".format(test["slug"])
        if composite:
            needs[test["slug"]] = named
        scope = set(SCOPE) | slugs | set(dir(builtins)) | (set(UPLOAD_SCOPE) if test["type"] == "upload" else set())
        for name in sorted(_loaded(tree) - _bound(tree) - scope):
            yield "{} uses {}, which is neither a test of this list nor in scope".format(test["slug"], name)
    while needs:
        free = [slug for slug, others in needs.items() if not others & set(needs)]
        if not free:
            yield "the composites {} need each other in a circle".format(", ".join(sorted(needs)))
            return
        for slug in free:
            del needs[slug]


def _bound(tree: ast.AST) -> Set[str]:
    names: Set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return names


def _loaded(tree: ast.AST) -> Set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
