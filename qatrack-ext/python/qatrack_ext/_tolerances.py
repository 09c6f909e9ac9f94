"""Sets a pack's references and tolerances on a unit: what a test pack cannot carry.

QATrack+'s REST API tells them; whether it lets them be set depends on its version (3.1.1's is read only there), so the
API is asked first and nothing is changed unless everything can be. For the others :func:`script` gives the same as a
text for ``manage.py shell``.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, Dict, Iterator, List, Optional

from . import _errors, testpack

TIMEOUT_S = 20.0
LIMITS = ("act_low", "tol_low", "tol_high", "act_high")


def wanted(pack: str, profile: str) -> List[Dict[str, Any]]:
    """The entries of a shipped pack's profile: test, reference, four limits (None is no limit) and source."""
    source = testpack.load_source(testpack.SHIPPED / (pack + ".toml"))
    entries = [entry for entry in source.get("tolerance", []) if entry["profile"] == profile]
    if not entries:
        raise _errors.make("misuse", "pack {} has no tolerances of the profile {}".format(pack, profile))
    return [dict({limit: None for limit in LIMITS}, **entry) for entry in entries]


def set_on_unit(url: str, token: str, unit: int, entries: List[Dict[str, Any]]) -> Iterator[str]:
    """Sets every entry, one line for each; raises before anything is changed when one cannot be set."""
    api = _Api(url, token)
    infos = [_info(api, unit, entry) for entry in entries]
    todo = [(entry, info) for entry, info in zip(entries, infos) if not _is_set(api, entry, info)]
    for _, info in todo:
        if "PATCH" not in api.allowed(info["url"]):
            raise _errors.make(
                "unsupported",
                "this QATrack+ lets its API read tolerances but not set them",
                "run the same command with --script and give its output to `python manage.py shell`, or set them in "
                "the admin pages under Set References & Tolerances",
            )
    for entry, info in zip(entries, infos):
        if all(entry is not other for other, _ in todo):
            yield "{}: already set".format(entry["test"])
            continue
        reference = _reference(api, entry) or api.post("references", _reference_fields(entry))
        tolerance = _tolerance(api, entry) or api.post("tolerances", _tolerance_fields(entry))
        api.patch(info["url"], {"reference": reference["url"], "tolerance": tolerance["url"]})
        yield "{}: reference {:g}, {} ({})".format(entry["test"], entry["reference"], _limits(entry), entry["source"])


def script(entries: List[Dict[str, Any]], unit: int) -> str:
    """The same for ``manage.py shell``: may be run again, and changes nothing when a test is not on the unit."""
    rows = [
        (entry["test"], entry["reference"], {limit: entry[limit] for limit in LIMITS}, entry["source"])
        for entry in entries
    ]
    return """# Run with: python manage.py shell < this file
from django.db import transaction
from qatrack.qa import models
from qatrack.qa.utils import get_internal_user

UNIT = {unit!r}
ROWS = {rows}


def set_all():
    user = get_internal_user()
    who = {{"created_by": user, "modified_by": user}}
    for slug, value, limits, source in ROWS:
        info = models.UnitTestInfo.objects.get(unit__number=UNIT, test__slug=slug)
        info.reference = models.Reference.objects.filter(type="numerical", value=value).first()
        if info.reference is None:
            info.reference = models.Reference.objects.create(name=source, type="numerical", value=value, **who)
        info.tolerance = models.Tolerance.objects.filter(type="absolute", **limits).first()
        if info.tolerance is None:
            info.tolerance = models.Tolerance.objects.create(type="absolute", **dict(limits, **who))
        info.save()
        print("set", slug, value, limits, source)


with transaction.atomic():
    set_all()
""".format(
        unit=unit, rows="[\n" + "".join("    {!r},\n".format(row) for row in rows) + "]"
    )


class _Api:
    def __init__(self, url: str, token: str) -> None:
        if not url.lower().startswith(("http://", "https://")):
            raise _errors.make("misuse", "{} is no address".format(url), "give one such as https://qatrack.hospital.org")
        self.base = url.rstrip("/") + "/api/qa/"
        self.token = token

    def get(self, what: str, **query: Any) -> List[Dict[str, Any]]:
        """Every result of a query, all pages."""
        url: Optional[str] = "{}{}/?{}".format(self.base, what, urllib.parse.urlencode(query))
        found: List[Dict[str, Any]] = []
        while url:
            page = self._send("GET", url)
            found += page["results"]
            url = page.get("next")
        return found

    def one(self, url: str) -> Dict[str, Any]:
        return self._send("GET", url)

    def post(self, what: str, fields: Dict[str, Any]) -> Dict[str, Any]:
        return self._send("POST", "{}{}/".format(self.base, what), fields)

    def patch(self, url: str, fields: Dict[str, Any]) -> Dict[str, Any]:
        return self._send("PATCH", url, fields)

    def allowed(self, url: str) -> List[str]:
        with self._open(self._request("OPTIONS", url)) as answer:
            return [method.strip() for method in (answer.headers.get("Allow") or "").split(",")]

    def _send(self, method: str, url: str, fields: Optional[Dict[str, Any]] = None) -> Dict[str, Any]:
        with self._open(self._request(method, url, fields)) as answer:
            try:
                value = json.loads(answer.read().decode("utf-8"))
            except ValueError:
                raise _errors.make("peer_misbehaved", "{} gives no JSON".format(url), "check that --url is QATrack+'s")
        return dict(value)

    def _request(self, method: str, url: str, fields: Optional[Dict[str, Any]] = None) -> urllib.request.Request:
        if not url.startswith(self.base):  # the token goes to the address that the user named and nowhere else
            raise _errors.make(
                "peer_misbehaved",
                "QATrack+ refers to {}, which is not below {}".format(url, self.base),
                "give --url as QATrack+ itself spells its address (Sites in its admin pages)",
            )
        data = None if fields is None else json.dumps(fields).encode()
        headers = {"Authorization": "Token " + self.token, "Accept": "application/json"}
        if data is not None:
            headers["Content-Type"] = "application/json"
        return urllib.request.Request(url, data=data, headers=headers, method=method)

    def _open(self, request: urllib.request.Request) -> Any:
        try:
            return urllib.request.urlopen(request, timeout=TIMEOUT_S)
        except urllib.error.HTTPError as error:
            with error:
                said = " ".join(error.read(300).decode("utf-8", "replace").split())
            hint = {
                401: "the token is not valid; make one at /api/get-token/",
                403: "the token's user may not do this; use one of an administrator",
                404: "check that --url is QATrack+'s address, with its path if it has one",
            }.get(error.code)
            what = "{} {}: {} {}".format(request.get_method(), request.full_url, error.code, said)
            raise _errors.make("peer_misbehaved", what, hint)
        except (OSError, ValueError) as error:
            raise _errors.make("unreachable", "{} cannot be reached: {}".format(self.base, error), "check --url")


def _info(api: _Api, unit: int, entry: Dict[str, Any]) -> Dict[str, Any]:
    found = api.get("unittestinfos", unit__number=unit, test__slug=entry["test"])
    if len(found) != 1:
        raise _errors.make(
            "not_found",
            "unit {} has {} tests called {}".format(unit, len(found) or "no", entry["test"]),
            "import the pack and assign its list to the unit first; two are left when it was imported twice",
        )
    return found[0]


def _is_set(api: _Api, entry: Dict[str, Any], info: Dict[str, Any]) -> bool:
    if not info.get("reference") or not info.get("tolerance"):
        return False
    return _same_reference(api.one(info["reference"]), entry) and _same_tolerance(api.one(info["tolerance"]), entry)


def _reference(api: _Api, entry: Dict[str, Any]) -> Optional[Dict[str, Any]]:
    found = api.get("references", type="numerical", value=entry["reference"])
    return next((reference for reference in found if _same_reference(reference, entry)), None)


def _tolerance(api: _Api, entry: Dict[str, Any]) -> Optional[Dict[str, Any]]:
    found = api.get("tolerances", type="absolute")
    return next((tolerance for tolerance in found if _same_tolerance(tolerance, entry)), None)


def _same_reference(reference: Dict[str, Any], entry: Dict[str, Any]) -> bool:
    return reference.get("type") == "numerical" and reference.get("value") == entry["reference"]


def _same_tolerance(tolerance: Dict[str, Any], entry: Dict[str, Any]) -> bool:
    return tolerance.get("type") == "absolute" and all(tolerance.get(limit) == entry[limit] for limit in LIMITS)


def _reference_fields(entry: Dict[str, Any]) -> Dict[str, Any]:
    return {"name": entry["source"], "type": "numerical", "value": entry["reference"]}


def _tolerance_fields(entry: Dict[str, Any]) -> Dict[str, Any]:
    return dict({limit: entry[limit] for limit in LIMITS}, type="absolute")


def _limits(entry: Dict[str, Any]) -> str:
    return ", ".join("{} {:g}".format(limit, entry[limit]) for limit in LIMITS if entry[limit] is not None)
