"""Test packs: what the builder writes, what the checker finds, what the commands say."""

import copy
import json
import pathlib
import subprocess
import sys

import pytest

from conftest import ROOT
from qatrack_ext import _testpack_check, testpack

SOURCE = ROOT / "testpacks" / "winston-lutz.toml"
BUILT = ROOT / "testpacks" / "winston-lutz.tpk"


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "qatrack_ext", "testpack"] + [str(a) for a in arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )


def test_the_built_pack_is_what_its_source_gives_here_and_in_the_wheel(installed_wheel):
    built = testpack.dumps(testpack.build(testpack.load_source(SOURCE)))
    assert BUILT.read_bytes() == built
    assert (installed_wheel / "testpacks" / BUILT.name).read_bytes() == built
    assert (installed_wheel / "testpacks" / SOURCE.name).read_bytes() == SOURCE.read_bytes()


def test_the_pack_is_as_qatrack_imports_it():
    content = BUILT.read_bytes()
    assert not content.startswith(b"\xef\xbb\xbf")
    pack = json.loads(content.decode("utf-8"))
    assert set(pack["meta"]) == {"version", "datetime", "description", "contact", "name", "id"}
    assert set(pack["objects"]) == {"tests", "testlists", "testlistcycles"}
    (text,) = pack["objects"]["testlists"]
    element = json.loads(text)
    assert element["key"] == ["winston-lutz"] and element["object"]["model"] == "qa.testlist"
    by_model = {}
    for dependency in element["dependencies"]:
        by_model.setdefault(dependency["model"], []).append(dependency["fields"])
    assert set(by_model) == {"qa.category", "qa.test", "qa.testlistmembership"}
    assert [set(category) for category in by_model["qa.category"]] == [{"name", "slug", "description"}]
    names = [test["name"] for test in by_model["qa.test"]]
    assert [membership["test"] for membership in by_model["qa.testlistmembership"]] == [[name] for name in names]
    assert [membership["order"] for membership in by_model["qa.testlistmembership"]] == list(range(len(names)))
    assert _testpack_check.check(pack) == []


def pack_with(change):
    """The built pack after a change to its one list element."""
    pack = testpack.load(BUILT)
    element = testpack.elements(pack, "testlists")[0]
    change(element)
    pack = copy.deepcopy(pack)
    pack["objects"]["testlists"] = [json.dumps(element)]
    return pack


def test_of(element, slug):
    return next(test for test in testpack.fields_of(element, "qa.test") if test["slug"] == slug)


test_of.__test__ = False


def code(slug, text):
    return lambda element: test_of(element, slug).update(calculation_procedure=text)


def fields(target, **values):
    return lambda element: test_of(element, target).update(values)


FAULTS = {
    "a member that is not there": (
        lambda e: testpack.fields_of(e, "qa.testlistmembership")[3].update(test=["WL: forgotten"]),
        "its member 'WL: forgotten' is not in the pack",
    ),
    "two members of one order": (
        lambda e: testpack.fields_of(e, "qa.testlistmembership")[3].update(order=0),
        "two members have the order 0",
    ),
    "no category": (
        lambda e: e.update(dependencies=[d for d in e["dependencies"] if d["model"] != "qa.category"]),
        "test wl_patient: its category ['Winston-Lutz (qatrack_ext)'] is missing",
    ),
    "a category with more than QATrack+ takes": (
        lambda e: testpack.fields_of(e, "qa.category")[0].update(parent=None),
        "key parent makes the import fail",
    ),
    "an element that is no text": (None, "each element must be a JSON text in quotes"),
    "newer Python": (code("wl_status", "wl_status = (x := wl_data)"), "test wl_status: the code is not Python 3.6"),
    "half a bracket": (code("wl_status", "wl_status = (wl_data"), "test wl_status: the code is not Python 3.6"),
    "no line that sets the slug": (code("wl_status", "other = wl_data"), "no line `wl_status = …`"),
    "a variable called result": (
        code("wl_status", "result = 5\nwl_status = wl_data['status']"),
        "a variable is called `result`",
    ),
    "a loop over result": (
        code("wl_status", "wl_status = ''\nfor result in wl_data:\n    pass"),
        "a variable is called `result`",
    ),
    "no trigger": (code("wl_status", "wl_status = 'x'"), "wl_status names no other test"),
    "a trigger only after a dot": (code("wl_status", "wl_status = META.wl_data"), "wl_status names no other test"),
    "a name from nowhere": (code("wl_status", "wl_status = wl_pynet['x'] + wl_data['y']"), "wl_status uses wl_pynet"),
    "a circle": (code("wl_data", "wl_data = wl_status"), "need each other in a circle"),
    "no code": (fields("wl_status", calculation_procedure=None), "a composite test without code"),
    "long formatting": (fields("wl_shift_x", formatting="%.12345678f"), "formatting must be a text of at most 10"),
    "formatting null": (fields("wl_shift_x", formatting=None), "formatting must be a text"),
    "hidden null": (fields("wl_shift_x", hidden=None), "hidden is null"),
    "an unknown type": (fields("wl_shift_x", type="number"), "type 'number' is none of"),
    "a slug with a dash": (fields("wl_bb_mm", slug="wl-bb"), "the slug is no name that code can use"),
    "a slug of QATrack+'s own": (fields("wl_bb_mm", slug="META"), "the slug is no name that code can use"),
    "a constant without value": (fields("wl_bb_mm", constant_value=None), "needs constant_value"),
}


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_the_checker_finds(name):
    change, told = FAULTS[name]
    if change is None:
        pack = testpack.load(BUILT)
        pack["objects"]["testlists"] = [{"key": ["x"]}]
    else:
        pack = pack_with(change)
    faults = _testpack_check.check(pack)
    assert any(told in fault for fault in faults), faults


def test_two_categories_with_one_slug_are_found():
    def change(element):
        other = dict(testpack.fields_of(element, "qa.category")[0], name="Another")
        element["dependencies"].append({"model": "qa.category", "fields": other})

    assert any("share the slug" in fault for fault in _testpack_check.check(pack_with(change)))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b"{", "no UTF-8 JSON"),
        (b"\xff\xfe", "no UTF-8 JSON"),
        (b"[]", "no list objects.tests"),
        (b'{"objects": {"tests": [], "testlists": []}}', "no list objects.testlistcycles"),
    ],
)
def test_a_file_that_is_no_pack_is_told(tmp_path, content, told):
    path = tmp_path / "bad.tpk"
    path.write_bytes(content)
    done = command("check", path)
    assert done.returncode == 1 and told in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("[pack]", "[pock]", "[pack] needs name"),
        ("name = \"WL: plan\"", "nome = \"WL: plan\"", "has no name"),
        ("slug = \"wl_plan\"\n", "slug = \"wl_plan\"\nhiden = true\n", "unknown key hiden"),
        ("    \"wl_plan\",", "    \"wl_plun\",", "has wl_plun, which no [[test]] describes"),
        ("[pack]", "[pack", "is no TOML"),
    ],
)
def test_a_source_with_a_mistake_is_told(tmp_path, old, new, told):
    text = SOURCE.read_text("utf-8")
    assert old in text
    path = tmp_path / "mistake.toml"
    path.write_text(text.replace(old, new, 1), "utf-8")
    done = command("build", path)
    assert done.returncode == 1 and told in done.stderr and "Traceback" not in done.stderr
    assert not path.with_suffix(".tpk").exists()


def test_the_commands_build_check_list_and_export(tmp_path):
    source = tmp_path / "mine.toml"
    source.write_bytes(SOURCE.read_bytes())
    assert command("build", source).stdout.strip() == "wrote {}".format(tmp_path / "mine.tpk")
    assert "no faults found" in command("check", tmp_path / "mine.tpk", source).stdout
    assert "list Winston-Lutz" in command("list").stdout
    assert "wl_cax_bb_max" in command("list", tmp_path / "mine.tpk").stdout
    assert command("export", "winston-lutz", "--to", tmp_path).returncode == 0
    assert (tmp_path / "winston-lutz.tpk").read_bytes() == BUILT.read_bytes()
    unknown = command("export", "picket-fence", "--to", tmp_path)
    assert unknown.returncode == 1 and "there are delivery-check, linac-state, winston-lutz" in unknown.stderr


def test_the_pack_has_every_test_of_a_winston_lutz_list():
    element = testpack.elements(testpack.load(BUILT), "testlists")[0]
    slugs = {test["slug"] for test in testpack.fields_of(element, "qa.test")}
    assert slugs == {
        "wl_patient", "wl_plan", "wl_date", "wl_bb_mm", "wl_done", "wl_status", "wl_acquired", "wl_series_uid",
        "wl_n_images", "wl_n_gantry", "wl_n_collimator", "wl_n_couch", "wl_cax_bb_max", "wl_cax_bb_median",
        "wl_cax_bb_mean", "wl_cax_epid_max", "wl_iso_gantry", "wl_iso_collimator", "wl_iso_couch",
        "wl_iso_gantry_collimator", "wl_shift_x", "wl_shift_y", "wl_shift_z", "wl_software", "wl_data",
    }  # fmt: skip
    assert pathlib.Path(BUILT).stat().st_size < 100_000
