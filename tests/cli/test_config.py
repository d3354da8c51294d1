"""`--config`: a file's keys are the options; each gives the plan that the command line gives, and jobs write one."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from vigc.cli import jobs
from vigc.cli.root import app
from vigc.generation import CorrectJob, GenerateJob
from vigc.options import settings_of

GENERAL = {"help", "help_all", "config", "debug", "log_level"}
# What a value is where its type does not say it, and what it needs beside it.
VALUES = {
    "types": "detail,complex",
    "format": "coco",
    "model": "other-model",
    "dtype": "bfloat16",
    "device": "cpu",
    "split": "test",
    "allow_urls": ["a.example.org", "*.b.org"],
    "license": "cc0-1.0",
    "data_revision": "main",
    "revision": "v1",
    "subset": "small",
    "type": "detail",
    "store": "path",
    "engine": "ray",
    "settings": {"no_repeat_ngram_size": 3},
    "output": "elsewhere",
    "answer_threshold": 2.5,
    "min_words": 3,
    "retries": 3,
}
NEEDS = {
    "rank": {"world_size": 4},
    "workers": {"engine": "ray"},
    "answers": {"types": "okvqa"},
    "answer_threshold": {"types": "okvqa", "answers": 2},
    "first_words": {"types": "okvqa", "answers": 2},
    "temperature": {"do_sample": True},
}


def command_of(name):
    return get_command(app).commands[name]


def options_of(name):
    return [option.name for option in command_of(name).params if option.name not in GENERAL]


def value_of(option, place):
    """A value that is not the default."""
    if option.name in VALUES:
        return VALUES[option.name]
    kind = option.type_descriptor.annotation
    if kind is bool:
        return not option.default
    if kind is int:
        return 2
    if kind is float:
        return 0.5
    if kind is Path:
        return str(place)
    if option.multiple:
        return [str(place)]
    choices = option.type_descriptor.parameter_info.metavar
    return choices.strip("[]").split("|")[-1] if choices else "text"


def words_of(option, value):
    """An option as the command line has it."""
    if option.param_type_name == "argument":
        return [str(value)]
    if isinstance(value, bool):
        return [option.opts[0] if value else option.secondary_opts[0]]
    if isinstance(value, dict):
        value = json.dumps(value)
    values = value if isinstance(value, list) else [value]
    return [word for one in values for word in (option.opts[0], str(one))]


@pytest.fixture
def planned(monkeypatch):
    """What a command would do: the settings of its job, where it writes and whether; no model is loaded."""
    found = []

    def note(job, output, *, dry_run=False, started=None):
        found.append(({item.name: getattr(job, item.name) for item in fields(job)}, output, dry_run))
        return 0

    monkeypatch.setattr(jobs, "do_job", note)

    def plan(*words):
        done = CliRunner().invoke(app, [str(word) for word in words])
        assert done.exit_code == 0, done.output
        return found.pop()

    return plan


@pytest.mark.parametrize(
    ("command", "name"), [(command, name) for command in ("generate", "correct") for name in options_of(command)]
)
def test_an_option_in_a_file_gives_the_plan_of_the_command_line(command, name, planned, tmp_path):
    options = {option.name: option for option in command_of(command).params}
    place = tmp_path / "place"
    folder = name in ("image_root", "exclude_images", "images", "dataset", "output")
    place.mkdir() if folder else place.write_text("{}")
    (subject,) = (option.name for option in options.values() if option.param_type_name == "argument")
    needed = {subject: str(tmp_path), "output": "out", "format": "folder", **NEEDS.get(name, {})}
    given = {**{key: value for key, value in needed.items() if key in options}, name: value_of(options[name], place)}
    if name == "format":
        given[subject] = str(tmp_path / "file.json")
        (tmp_path / "file.json").write_text("{}")
    if name == "store" and command == "correct":
        given[subject] = str(tmp_path / "file.json")
        (tmp_path / "file.json").write_text('[{"id": "1", "image": "a.png", "conversations": []}]')
    if name == "iqf_draft" and command == "correct":
        pytest.skip("has no effect there, and is refused by both ways")
    words = [word for key, value in given.items() for word in words_of(options[key], value)]
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump({key.replace("_", "-"): value for key, value in given.items()}))
    there = planned(command, *words)
    assert planned(command, "--config", file) == there
    file.write_text(yaml.safe_dump(given))
    assert planned(command, "--config", file) == there
    bare = [word for key, value in given.items() if key != name for word in words_of(options[key], value)]
    if name not in (*needed, "output"):
        assert planned(command, *bare) != there, "the value is the default: give another in VALUES"


@pytest.mark.parametrize("command", ["export", "evaluate"])
def test_the_other_commands_take_the_values_of_a_file(command, monkeypatch, tmp_path):
    from vigc.cli import evaluate, export

    found = []
    home = get_command(app).commands[command]
    target = home.commands["chair"] if command == "evaluate" else home
    monkeypatch.setattr(evaluate, "_run", lambda benchmark, settings, given: found.append(given) or 0)
    monkeypatch.setattr(export, "_do", found.append)
    options = {option.name: option for option in target.params if option.name not in GENERAL}
    special = {"format": "trl-dpo", "score": "none", "iqf_preset": "original", "dtype": "float16"}
    given = {name: special.get(name) or value_of(option, tmp_path) for name, option in options.items()}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(given))
    start = [command, *(["chair"] if command == "evaluate" else [])]
    words = [word for name, value in given.items() for word in words_of(options[name], value)]
    for arguments in ([*start, *words], [*start, "--config", tmp_path / "job.yaml"]):
        done = CliRunner().invoke(app, [str(word) for word in arguments])
        assert done.exit_code == 0, done.output
    assert found[0] == found[1] and found[0].keys() == given.keys()


def test_the_command_line_wins_and_null_is_not_given(planned, tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text("batch_size: 4\nlimit: null\niqf-draft: true\noutput: there\ntypes: [detail, complex]\n")
    job, output, _ = planned("generate", tmp_path, "--config", file, "--batch-size", 2, "--no-iqf-draft")
    assert (job["batch_size"], job["limit"], job["settings"]) == (2, None, {"iqf_draft": False})
    assert job["types"] == ["detail", "complex"] and output == Path("there")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("batch_sise: 4", "'batch_sise' is not an option; --help-all lists them. Did you mean 'batch_size'?"),
        ("no_correct: true", "'no_correct' is not an option"),
        ("- a", "has no options: write one per line"),
        ("a: [", "cannot be read"),
        ("score: maybe", "score: 'maybe' is neither true nor false"),
        ("limit: [1, 2]", "limit: [1, 2] is not a single value"),
        ("iqf_unit: word", "iqf_unit 'word' is not known: use one of sentence, paragraph."),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_what_a_file_cannot_say_is_refused_in_one_sentence(text, reason, tmp_path):
    file = tmp_path / "job.yaml"
    if text is not None:
        file.write_text(text)
    done = CliRunner().invoke(app, ["generate", str(tmp_path), "-o", str(tmp_path / "out"), "--config", str(file)])
    assert done.exit_code == 2 and reason in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "out").exists()


def test_a_dataset_can_be_made_again_from_the_file_in_it(parity_dir, vigc_folder, tmp_path):
    from vigc.jobs import ledger

    words = ["generate", parity_dir / "images", "-o", tmp_path / "one", "-m", vigc_folder, "--types", "detail"]
    words += ["--limit", 2, "--max-new-tokens", 60, "--iqf-steps", 1, "--settings", '{"no_repeat_ngram_size": 3}']
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code in (0, 3), done.output
    file = tmp_path / "one" / ledger.JOB
    assert yaml.safe_load(file.read_text()) == {
        "images": str(parity_dir / "images"),
        "types": ["detail"],
        "model": str(vigc_folder),
        "limit": 2,
        "max_new_tokens": 60,
        "iqf_steps": 1,
        "settings": {"no_repeat_ngram_size": 3},
    }
    again = CliRunner().invoke(app, ["generate", "--config", str(file), "-o", str(tmp_path / "two")])
    assert again.exit_code == done.exit_code, again.output
    for name in (ledger.PLAN, ledger.INPUTS, ledger.JOB, "detail/train-00000.parquet"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_paths_of_the_python_api_are_recorded_as_absolute_ones(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    job = GenerateJob(images="photos", model="user/model", format="folder", image_root="elsewhere")
    assert job.recorded()["images"] == str(tmp_path / "photos")
    assert job.recorded()["image_root"] == "elsewhere", "it is not there"


def test_choices_are_those_of_the_tables_that_the_job_reads():
    from vigc.exports.settings import ExportSettings
    from vigc.formats.coco import INSTANCES
    from vigc.formats.table import EXPORTS
    from vigc.jobs.executors import EXECUTORS

    assert set(settings_of(GenerateJob)["engine"].choices) == set(EXECUTORS)
    assert set(settings_of(CorrectJob)["store"].choices) == {"embed", "path"}
    assert set(settings_of(GenerateJob)["format"].choices) == {"folder", "llava", "dataset", *INSTANCES}
    assert set(settings_of(ExportSettings)["format"].choices) == set(EXPORTS)
