"""The `vigc` command: what it prints, how it ends, and that mistakes cost a sentence, not a traceback."""

import json
import re
import shutil

import forks
import pytest
from typer.main import get_command
from typer.testing import CliRunner

import vigc
from vigc.cli.root import app


@pytest.fixture(scope="module")
def pictures(parity_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for name in ("img_0.png", "img_1.png"):
        shutil.copy(parity_dir / "images" / name, folder)
    return folder


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def run(*arguments, cwd):
    """The real thing, as a user starts it."""
    return forks.run("-m", "vigc", *arguments, cwd=cwd)


def test_generate_prints_what_a_person_wants_to_know(pictures, vigc_folder, tmp_path):
    (pictures / "broken \x1b[31m.png").write_bytes(b"broken")
    try:
        result = run("generate", pictures, "--output", "out", "--model", vigc_folder, "--batch-size", 2, cwd=tmp_path)
    finally:
        (pictures / "broken \x1b[31m.png").unlink()
    assert result.returncode == 3, result.stderr
    assert "rows from 2 images" in result.stdout and "answers edited" in result.stdout
    for kind in ("conversation", "detail", "complex"):
        assert f"  {kind}" in result.stdout
    assert "Skipped, 1 file:" in result.stdout and r"broken \x1b[31m.png is not an image" in result.stdout
    assert "\x1b" not in result.stdout
    assert result.stdout.count("  question  ") == result.stdout.count("  draft     ") == 3
    assert result.stdout.endswith("Dataset: out\nReport:  out/report/index.html\n")
    assert (tmp_path / "out" / "report" / "index.html").is_file()
    assert re.search(r"^\d+ rows from 2 images in \d+\.\d s, ", result.stdout, re.MULTILINE), result.stdout
    assert result.stderr == "", "no progress bar where nobody watches"


def test_generate_ends_with_zero_when_nothing_is_set_aside(pictures, vigc_folder, tmp_path):
    options = ("--types", "detail", "--iqf-steps", "1", "--no-iqf-keep-tail", "--max-new-tokens", 60, "--seed", 4)
    result = call("generate", pictures, "-o", tmp_path / "out", "-m", vigc_folder, *options)
    assert result.exit_code == 0, result.output
    plan = json.loads((tmp_path / "out" / "_vigc" / "plan.json").read_text())
    assert plan["settings"] == {"iqf_steps": 1, "iqf_keep_tail": False, "max_new_tokens": 60}
    assert plan["configuration"]["seed"] == 4 and plan["configuration"]["types"] == ["detail"]
    assert plan["configuration"]["dtype"] == "float32"
    again = call("generate", pictures, "-o", tmp_path / "out", "-m", vigc_folder, "--no-correct", "--overwrite")
    assert again.exit_code in (0, 3), again.output
    assert not (json.loads((tmp_path / "out" / "_vigc" / "plan.json").read_text()))["configuration"]["correct"]


def test_every_setting_of_correction_is_an_option():
    from vigc.modeling_vigc.generation_vigc import IQF_SETTINGS

    options = {parameter.name for parameter in get_command(app).commands["generate"].params}
    assert set(IQF_SETTINGS) <= options


@pytest.mark.parametrize("command", ["generate", "correct"])
def test_options_are_the_settings_of_the_job(command):
    from dataclasses import MISSING, fields

    from vigc.generation import CorrectJob, GenerateJob
    from vigc.inference.settings import DecodingSettings
    from vigc.options import settings_of

    job = {"generate": GenerateJob, "correct": CorrectJob}[command]
    settings = {field.name: field.default for field in fields(job) if field.name not in ("processor", "settings")}
    assert settings.keys() == settings_of(job).keys()
    decoding = {field.name for field in fields(DecodingSettings)}
    options = {parameter.name: parameter.default for parameter in get_command(app).commands[command].params}
    assert settings.keys() <= options.keys()
    general = {"help", "debug", "log_level", "config", "help_all"}
    assert options.keys() - settings.keys() - decoding - general == {"output", "dry_run", "settings"}
    for name in settings.keys() & options.keys() - {"types"}:
        assert (options[name] or None) == (None if settings[name] is MISSING else settings[name] or None), name


def test_declared_decoding_settings_are_those_of_the_model():
    from vigc.inference.settings import DecodingSettings
    from vigc.modeling_vigc import IqfSettings
    from vigc.options import settings_of

    declared = {name: item for name, item in settings_of(DecodingSettings).items() if name.startswith("iqf_")}
    assert declared.keys() == IqfSettings.__dataclass_fields__.keys()
    for name, setting in declared.items():
        for value in setting.choices or ((True, False) if setting.kind is bool else (-1, 0, 1)):
            IqfSettings(**{name: value})
        for value in ("x", -2):
            with pytest.raises(ValueError, match=name):
                IqfSettings(**{name: value})


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (
            ("generate", "{images}", "-o", "{out}", "-m", "{model}", "--types", "detail,poem"),
            "'poem' is not known: use",
        ),
        (("generate", "{out}", "-o", "{out}", "-m", "{model}"), "is neither a folder nor a file: give a folder"),
        (("generate", "{images}", "-o", "{images}", "-m", "{model}"), "is no dataset of vigc: give --output a new"),
        (("generate", "{images}", "-o", "{out}", "-m", "no/model"), "The model 'no/model' cannot be loaded"),
        (("generate", "{images}", "-o", "{out}", "-m", "{images}"), "cannot be loaded"),
        (
            ("generate", "{images}", "-o", "{out}", "-m", "{model}", "--iqf-split", "x"),
            "iqf_split 'x' is not known: use",
        ),
        (("generate", "{images}", "-o", "{out}", "-m", "{model}", "--temperature", "2"), "give --do-sample too"),
        (("report", "{images}"), "is not a dataset of vigc"),
        (("convert",), "Give --checkpoint FILE, --language-model DIR and --output DIR"),
        (("convert", "--to-original", "{out}"), "--to-original FILE needs --model DIR"),
        (("convert", "--checkpoint", "{out}", "--language-model", "{out}", "-o", "{out}"), "has no config.json"),
    ],
)
def test_mistakes_cost_one_sentence(given, reason, pictures, vigc_folder, tmp_path):
    places = {"images": pictures, "out": tmp_path / "out", "model": vigc_folder}
    result = call(*(part.format(**places) for part in given))
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert reason in result.stderr and result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith(f"vigc {given[0]}: ")
    assert not (tmp_path / "out").exists()


def test_bad_usage_ends_with_two(pictures):
    assert call("generate", pictures).exit_code == 2
    assert call("generate", pictures, "-o", "x", "-m", "y", "--batch-size", "0").exit_code == 2


def test_a_full_disk_is_said_plainly(pictures, vigc_folder, tmp_path, monkeypatch):
    from vigc.jobs import ledger

    def fail(path, data):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(ledger, "atomic_write", fail)
    result = call("generate", pictures, "-o", tmp_path / "out", "-m", vigc_folder, "--types", "detail")
    assert result.exit_code == 75 and "No space left on device" in result.stderr


def test_report_writes_the_page_anew(pictures, vigc_folder, tmp_path):
    call("generate", pictures, "-o", tmp_path / "out", "-m", vigc_folder, "--types", "detail")
    page = tmp_path / "out" / "report" / "index.html"
    before = page.read_bytes()
    page.unlink()
    result = call("report", tmp_path / "out")
    assert result.exit_code == 0 and str(page) in result.output
    assert page.read_bytes() == before
    assert call("report", tmp_path / "out", "--rows", 1).exit_code == 0
    assert "1 of 2 rows are on this page" in page.read_text(encoding="utf-8")


def test_convert_and_back(parity_dir, parity_config, vigc_folder, tmp_path):
    from safetensors.torch import load_file

    result = call(
        "convert",
        *("--checkpoint", parity_dir / "official_checkpoint.safetensors"),
        *("--checkpoint", parity_dir / "llm_pad_row.safetensors"),
        *("--language-model", parity_dir / "llm"),
        *("--qformer-tokenizer", parity_dir / "qformer_tokenizer"),
        *("--config", parity_config),
        *("--output", tmp_path / "vigc-tiny"),
    )
    assert result.exit_code == 0, result.output
    assert "weights mapped" in result.output and "parameters" in result.output
    assert (tmp_path / "vigc-tiny" / "model.safetensors").read_bytes() == (
        vigc_folder / "model.safetensors"
    ).read_bytes()
    assert "# vigc-tiny" in (tmp_path / "vigc-tiny" / "README.md").read_text(encoding="utf-8")
    back = call("convert", "--model", tmp_path / "vigc-tiny", "--to-original", tmp_path / "back.safetensors")
    assert back.exit_code == 0, back.output
    assert load_file(tmp_path / "back.safetensors").keys() >= {"query_tokens", "llm_proj.weight"}


def test_version_and_help():
    assert call("--version").output == f"vigc {vigc.__version__}\n"
    text = call("--help").output
    assert all(command in text for command in ("generate", "convert", "report", "export"))
