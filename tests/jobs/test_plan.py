"""The files of a job: what earlier versions wrote is read, written again to the byte, and never misread."""

import json
import shutil
from dataclasses import fields, replace

import pytest
from conftest import ROOT
from dataset_rows import content
from faults import make_inputs
from scripted import ScriptedModel, ScriptedProcessor

from vigc.errors import ConflictError, GenerationError
from vigc.generation import generate_dataset, write_report
from vigc.jobs import Configuration, Counts, Plan, PlannedInputs, Reason, ShardRecord, Totals, ledger
from vigc.jobs.canonical import fingerprint
from vigc.jobs.plan import is_whole

# As the version before `Plan` and `ShardRecord` were typed wrote them.
FIXTURES = ROOT / "tests" / "fixtures" / "jobs"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / ledger.SHARDS).mkdir(parents=True)
    shutil.copy(FIXTURES / "plan.json", tmp_path / ledger.PLAN)
    shutil.copy(FIXTURES / "shard.json", ledger.record_file(tmp_path, 1))
    return tmp_path


def generate(place, **given):
    job = {"model": ScriptedModel(), "processor": ScriptedProcessor(), "types": ["detail"], "shard_size": 4}
    return generate_dataset(place / "pictures", place / "out", **{**job, **given})


def test_a_plan_of_the_version_before_is_the_same_to_the_byte(folder):
    plan, before = ledger.read_plan(folder), (folder / ledger.PLAN).read_bytes()
    ledger.write_plan(folder, plan)
    assert (folder / ledger.PLAN).read_bytes() == before
    assert (
        plan.inputs.uncompared == {"theirs": {"count": 1, "first": ["bad.png"]}} and plan.configuration.questions == 2
    )
    # The hashes, which ids and seeds hang on, come of the same canonical JSON.
    again = replace(plan, config_hash="", fingerprint="").completed(plan.inputs)
    assert (again.config_hash, again.fingerprint) == ("71ff4ad460597e6b", "6830fabe516e89d5") and again == plan


def test_a_record_of_the_version_before_is_the_same_to_the_byte(folder):
    record, path = ledger.read_record(folder, 1), ledger.record_file(folder, 1)
    before = path.read_bytes()
    ledger.write_shard(folder, record)
    assert path.read_bytes() == before
    assert (record.inputs, record.images, record.skipped_inputs, record.rows) == (1, 0, 1, 0)
    ((reason, count),) = record.reasons.items()
    assert reason.rule == "a file that cannot be read" and reason.detail.startswith("is truncated") and count == 1


def test_what_is_not_as_it_was_written_is_noticed(folder):
    values = json.loads((folder / ledger.PLAN).read_text())
    assert is_whole(values) and is_whole(Plan.from_json(values).to_json())
    assert not is_whole({**values, "source": "other"}) and not is_whole({**values, "more": 1})
    for broken in ({"configuration": {"types": ["detail"]}}, {**values, "inputs": 5}, {**values, "job": None}):
        (folder / ledger.PLAN).write_text(json.dumps(broken))
        with pytest.raises(GenerationError, match="is not a valid plan"):
            ledger.read_plan(folder)
    values = json.loads(ledger.record_file(folder, 1).read_text())
    for broken in ({"images": "1"}, {"a counter of a later version": 1}, {"types": None}, {"reasons": [["one"]]}):
        with pytest.raises((TypeError, ValueError, AttributeError)):
            ShardRecord.from_json({name: value for name, value in values.items() if name != "sha256"} | broken)


@pytest.mark.parametrize("change", [{"version": 1}, {"version": 3, "later": {"deep": 1}}])
def test_a_folder_of_another_version_is_refused_with_the_difference_and_read(tmp_path, change):
    make_inputs(tmp_path)
    generate(tmp_path)
    path = tmp_path / "out" / ledger.PLAN
    values = json.loads(path.read_text()) | change
    del values["fingerprint"]
    path.write_text(json.dumps({**values, "fingerprint": fingerprint(values)}))
    (tmp_path / "out" / ledger.FINISHED).unlink()
    before = content(tmp_path / "out")
    with pytest.raises(ConflictError, match=rf"version was {change['version']}, now 2"):
        generate(tmp_path)
    assert content(tmp_path / "out") == before
    assert write_report(tmp_path / "out").is_file(), "its rows can be read all the same"


def test_counters_are_declared_once():
    names = [item.name for item in fields(Counts)]
    one = Counts(**{name: number for number, name in enumerate(names, 1)})
    records = [ShardRecord.copied(one, shard=shard, fingerprint="f", files={}) for shard in range(2)]
    records[1].reasons[Reason("rule", "detail")] = 3
    for record in records:
        assert ShardRecord.from_json(json.loads(json.dumps(record.to_json()))) == record
    totals = Totals.of(records, [])
    assert [getattr(totals, name) for name in names] == [2 * number for number in range(1, len(names) + 1)]
    assert totals.reasons == {("rule", "detail"): 3}
    printed = dict(one.labelled())
    assert printed["repeated questions dropped"] == one.dropped and len(printed) == 4
    # One that is not of the first version is recorded only where it counted something.
    assert "repeated" not in ShardRecord(0, "f").to_json() and records[0].to_json()["repeated"] == one.repeated


def test_a_plan_without_its_inputs_has_the_hash_of_its_configuration():
    plan = Plan("generate", Configuration(types=["detail"], model="m"), {}, "s", "l", {})
    assert plan.config_hash == fingerprint({"model": "m", "types": ["detail"]})
    assert plan.fingerprint == "" and plan.completed(PlannedInputs(taken=1)).fingerprint
