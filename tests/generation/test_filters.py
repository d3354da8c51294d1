"""Filters: one table, one file each; a new one is a class and a line."""

import json
import shutil

import pytest
from faults import make_inputs
from PIL import Image
from scripted import ScriptedModel, ScriptedProcessor

from vigc.generation import generate_dataset
from vigc.generation.filters import FILTERS, Exclusion, Filter, Needs, Selection
from vigc.generation.filters.table import open_filters
from vigc.generation.sources.base import Folder
from vigc.jobs import ledger


@pytest.fixture
def pictures(tmp_path):
    make_inputs(tmp_path)
    return tmp_path / "pictures"


class Tall(Filter):
    """Excludes what is named by a number above a bound: a rule from outside of the tree."""

    def __init__(self, given, hashes):
        super().__init__(given, hashes)
        self.bound, self.compared = given, ["numbers"]

    def check(self, source, digest, look):
        digits = "".join(filter(str.isdigit, source.name))
        too_high = digits and int(digits) > self.bound
        return Exclusion("has a high number", f"has the number {digits}") if too_high else None


def test_a_new_filter_is_a_class_and_a_line(pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(FILTERS, "highest", Tall)
    selection = Selection(Folder(pictures), {"highest": 5})
    assert [source.name for source in selection.sources(tmp_path / "out")] == [
        *(f"p{number}.png" for number in range(6)),
        "sub/p1 again.png",
        "zero.jpg",
    ]
    facts = selection.facts()
    assert (facts.listed, facts.taken, facts.compared) == (11, 8, ["numbers"])
    assert facts.excluded == {"has a high number": 3}, "counted by the rule, not by a sentence"
    assert next(record["reason"] for record in selection.excluded()) == "has the number 6"
    assert not selection.reads_content and selection.without_content().filters == {"highest": 5}


def test_the_table_says_what_is_read_and_who_is_asked_first(pictures, tmp_path):
    order = [kind.needs is Needs.NAME for kind in FILTERS.values()]
    assert order == sorted(order, reverse=True) and [*FILTERS][-1] == "dedup"
    assert open_filters({"exclude_ids": (), "exclude_images": [], "dedup": False}, tmp_path) == []
    both = Selection(Folder(pictures), {"exclude_ids": [tmp_path / "ids.txt"], "dedup": True})
    assert both.reads_content and both.without_content().filters == {"exclude_ids": [tmp_path / "ids.txt"]}


def test_copies_stand_behind_the_first_one_that_is_kept(pictures, tmp_path):
    shutil.copy(pictures / "p1.png", pictures / "sub" / "p1 third.png")
    (tmp_path / "ids.txt").write_text("p1\n")
    selection = Selection(Folder(pictures), {"exclude_ids": [tmp_path / "ids.txt"], "dedup": True}, shard_size=4)
    same = {source.name: source.same for source in selection.sources(tmp_path / "out") if source.same}
    assert same == {"sub/p1 again.png": ["sub/p1 third.png"]}
    assert (selection.copies, selection.listed, selection.taken) == (1, 12, 10)
    assert [name for name, _, _ in selection.exclusions] == ["p1.png"]


def test_a_job_lists_each_input_with_what_it_was_excluded_for(pictures, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    Image.effect_mandelbrot((64, 64), (-2, -1.5, 1, 1.5), 40).save(theirs / "a.png")
    shutil.copy(theirs / "a.png", pictures / "known.png")
    (tmp_path / "ids.txt").write_text("p5\n")
    given = {"exclude_ids": [tmp_path / "ids.txt"], "exclude_images": [theirs], "types": ["detail"]}
    out = tmp_path / "out"
    summary = generate_dataset(pictures, out, model=ScriptedModel(), processor=ScriptedProcessor(), **given)
    assert summary.excluded == {"listed in ids.txt": 1, "looks like a picture in theirs": 1}
    lines = [json.loads(line) for line in (out / ledger.EXCLUDED).read_text().splitlines()]
    assert {line["path"]: line["reason"] for line in lines} == {
        "p5.png": "listed in ids.txt",
        "known.png": "looks like a.png in theirs",
    }
