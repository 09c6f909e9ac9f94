"""Evaluates a test pack's list as QATrack+ 3.1.1 does, server and browser, so that packs are tested without it.

What is kept of QATrack+: the JSON text of the request and of the answer, one dict as globals and locals of every
composite, dependencies by tokens, evaluation in topological order, the JSON encoder with its hole for NaN, UTILS whose
write_file makes an attachment each time, and a browser that drops all results of an answer that is no JSON and keeps
the attachments of earlier evaluations until a later one lists others.
"""

import ast
import datetime as dt
import io
import json
import math
import token
import tokenize
import traceback

import numpy

COMPOSITES = ("composite", "scomposite")
ZONE = dt.timezone(dt.timedelta(hours=1), "CET")
TIME = "%d %b %Y %H:%M"


class Utils:
    """UTILS of a composite test."""

    def __init__(self, context, page):
        self.context = context
        self.context["__user_attached__"] = []
        self._page = page

    def write_file(self, name, content):
        if not isinstance(content, (bytes, str)) and not hasattr(content, "read"):
            raise TypeError("write_file got {!r}".format(type(content)))
        attachment = {"attachment_id": len(self._page.attachments) + 1, "name": name, "is_image": name.endswith(".png")}
        self._page.attachments.append((name, content))
        self.context["__user_attached__"].append(attachment)

    def previous_test_instance(self, slug, **options):
        return self._page.previous.get(slug)

    def previous_test_list_instance(self, **options):
        return None

    def set_comment(self, comment):
        self.context["__comment__"] = comment

    def get_comment(self, slug):
        return ""

    def get_skip(self, slug):
        return False


class Previous:
    """A test instance of an earlier list."""

    def __init__(self, string_value):
        self.string_value = string_value


class Page:
    """One opened list: its values as the browser has them, and every attachment that was made for it."""

    def __init__(self, pack_element, started, previous=None, unit=1):
        every = [pack_element["object"]] + pack_element["dependencies"]
        self.tests = [entry["fields"] for entry in every if entry["model"] == "qa.test"]
        self.name = pack_element["object"]["fields"]["name"]
        self.previous = {slug: Previous(value) for slug, value in (previous or {}).items()}
        self.unit = unit
        self.started = started
        self.completed = None
        self.attachments = []  # every file that write_file made
        self.open()

    def open(self):
        """Loads the page: defaults, then a first evaluation."""
        self.values = {test["slug"]: test["constant_value"] for test in self.tests}
        self.shown = {}
        self.kept = {}  # slug to attachment ids in the form
        self.errors = {}
        self.dropped = False
        for slug, answer in self._post(defaults=True).items():
            self.values[slug] = answer["value"]
        self.evaluate()

    def edit(self, completed):
        """Opens the finished list again: original start, no defaults, attachments stay with the test instance."""
        self.completed = completed
        self.kept = {}
        self.evaluate()

    def enter(self, **values):
        """Types values; the page evaluates after each."""
        for slug, value in values.items():
            self.values[slug] = value
            self.evaluate()

    def evaluate(self):
        """One POST to /qc/composite/, and what the browser makes of the answer."""
        for slug, answer in self._post(defaults=False).items():
            self.shown[slug] = answer["value"]
            self.errors[slug] = answer["error"]
            if answer["user_attached"]:
                self.kept[slug] = [attachment["attachment_id"] for attachment in answer["user_attached"]]

    def _post(self, defaults):
        meta = {
            "test_list_name": self.name,
            "unit_number": self.unit,
            "cycle_day": 1,
            "work_started": self.started.strftime(TIME),
            "work_completed": self.completed.strftime(TIME) if self.completed else "",
            "username": "physicist",
        }
        composite = {test["slug"] for test in self.tests if test["type"] in COMPOSITES}
        tests = {slug: None if slug in composite else value for slug, value in self.values.items()}
        request = json.dumps({"defaults": defaults, "meta": meta, "tests": tests}, default=_encode)
        answer = _Server(self, json.loads(request)).answer()
        try:
            results = json.loads(answer, parse_constant=_no_json)
            self.dropped = False
        except ValueError:
            self.dropped = True
            return {}
        return results


class _Server:
    def __init__(self, page, data):
        self.page, self.data = page, data
        if data["defaults"]:
            chosen = [t for t in page.tests if t["type"] not in COMPOSITES and t["calculation_procedure"]]
        else:
            chosen = [t for t in page.tests if t["type"] in COMPOSITES]
        self.code = {test["slug"]: test["calculation_procedure"] for test in chosen}
        meta = data["meta"]
        for name in ("work_started", "work_completed"):
            try:
                meta[name] = dt.datetime.strptime(meta[name], TIME).replace(tzinfo=ZONE)
            except ValueError:
                pass
        self.context = {"META": meta, "REFS": {}, "TOLS": {}, "math": math, "numpy": numpy}
        self.context["UTILS"] = Utils(self.context, page)
        self.names = set(self.context) | set(data["tests"])
        types = {test["slug"]: test["type"] for test in page.tests}
        for slug, value in data["tests"].items():
            if types[slug] == "date":
                value = dt.datetime.strptime(value, "%d %b %Y").date() if value else None
            if slug not in self.code:
                self.context[slug] = value

    def answer(self):
        results = {}
        for slug in self._order():
            results[slug] = self._evaluate(slug)
        return json.dumps(results, default=_encode)  # allow_nan stays on: that is the hole

    def _order(self):
        needs = {slug: (set(_tokens(code)) & set(self.code)) - {slug} for slug, code in self.code.items()}
        order = []
        while needs:
            free = sorted(slug for slug, others in needs.items() if not others)
            assert free, "cyclic: {}".format(sorted(needs))
            order += free
            needs = {slug: others - set(free) for slug, others in needs.items() if slug not in free}
        return order

    def _evaluate(self, slug):
        attached = self.context["__user_attached__"]
        try:
            exec(compile(self.code[slug] + "\n", slug, "exec"), self.context)
            value = self.context["result" if "result" in self.context else slug]
            json.dumps(value, default=_encode)
            self.context[slug] = value
            return {"value": value, "error": None, "user_attached": list(attached)}
        except Exception:
            return {"value": None, "error": traceback.format_exc(limit=5), "user_attached": []}
        finally:
            keep = self.names | {slug, "__builtins__", "__user_attached__"}
            for name in [name for name in self.context if name not in keep]:
                del self.context[name]
            del attached[:]


def _tokens(code):
    found, previous = [], None
    for item in tokenize.generate_tokens(io.StringIO(code).readline):
        value = item[token.NAME]
        if value and previous != ".":
            found.append(value)
        previous = value
    return found


def _encode(value):
    if isinstance(value, numpy.integer):
        return int(value)
    if isinstance(value, numpy.floating):
        return float(value)
    for method in ("tolist", "to_dict"):
        if callable(getattr(value, method, None)):
            return getattr(value, method)()
    if isinstance(value, dt.datetime):
        return value.strftime(TIME)
    if isinstance(value, dt.date):
        return value.strftime("%d %b %Y")
    raise TypeError("Object of type {} is not JSON serializable".format(type(value).__name__))


def _no_json(word):
    raise ValueError(word)


def load_list(path, slug):
    """An element of a pack's test lists, read from the file's bytes as QATrack+ reads them."""
    with open(str(path), encoding="utf-8") as file:
        pack = json.load(file)
    for text in pack["objects"]["testlists"]:
        element = json.loads(text)
        if element["key"] == [slug]:
            return element
    raise AssertionError("no list {}".format(slug))


def names_used(code):
    """Names that a piece of code loads; for tests of packs."""
    return {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
