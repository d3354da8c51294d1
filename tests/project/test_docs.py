"""Every fenced block of README, the docs and the cards, run as it is written where a newcomer would be; and links.

A block is run unless `NOT_HERE` says why it cannot be; then at least its commands are read by their own parsers. What
the text leaves to the reader (an address, a commit, pictures) is in `STANDS_FOR` and `GIVEN`, and nowhere else.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from inspect import signature
from pathlib import Path

import doc_blocks
import pytest
from conftest import ROOT
from doc_blocks import Block, blocks_of, commands_of
from forks import WITHOUT_VIGC, Starter, write_program
from hub_server import WRITE, Hub
from judge_server import JudgeServer, by_length
from markdown_it import MarkdownIt
from test_architecture import PYPROJECT
from torch.distributed.run import get_args_parser
from typer.main import get_command

from vigc.cli.root import app
from vigc.evaluation.lmms_eval import Answers
from vigc.modeling_vigc.generation_vigc import IQF_SETTINGS
from vigc.trainer.recipe import read_recipe

EXTRAS = PYPROJECT["project"]["optional-dependencies"]

# What is written, and what a test of this machine has in its place.
ELSEWHERE = "--model vigc-7b --output {}-rows"
STANDS_FOR = {
    " /data ": " data ",
    "https://api.openai.com/v1": "{judge}",
    "http://localhost:8000/v1": "{judge}",
    "<40 hexadecimal digits>": "{commit}",
    "detail=10000": "detail=1",
    " IMAGES --output DIR ": " photos --output repeated ",
    "zhiyuan_objv2_train.json --format objects365 --image-root objects365/ ...":
        "zhiyuan_objv2_train.json --format objects365 --image-root objects365/ " + ELSEWHERE.format("objects365"),
    "user/pictures --format dataset --split train ...":
        "user/pictures --format dataset --split train " + ELSEWHERE.format("pictures"),
}  # fmt: skip

# What the reader has before a block, by its first line, in the block's language.
_PICTURES = (
    "from pathlib import Path\nfrom PIL import Image\n"
    "images = [Image.open(path) for path in sorted(Path('photos').iterdir())]\n"
    "questions = ['What can you see?'] * len(images)\n"
)
GIVEN = {
    "from transformers import AutoModel, AutoProcessor": _PICTURES,
    'pinned = {"revision": "<40 hexadecimal digits>", "trust_remote_code": True}':
        "from transformers import AutoModel",
    'inputs = processor(images=images, text=questions, padding=True, return_tensors="pt")':
        _PICTURES +
        "import subprocess\nsubprocess.run(['vigc', 'custom-generate', '--output', 'vigc-iqf'], check=True)\n"
        "from transformers import InstructBlipForConditionalGeneration, InstructBlipProcessor\n"
        "model = InstructBlipForConditionalGeneration.from_pretrained('Salesforce/instructblip-vicuna-7b')\n"
        "processor = InstructBlipProcessor.from_pretrained('Salesforce/instructblip-vicuna-7b')",
    "from vigc.evaluation import EndpointJudge, judge_answers, order_agreement, read_rules, relative_scores":
        "import json\nfrom pathlib import Path\n"
        "questions, references, contexts, answers = (\n"
        "    [json.loads(line) for line in Path(name).read_text().splitlines()]\n"
        "    for name in ('llava-bench/qa90_questions.jsonl', 'llava-bench/qa90_gpt4_answer.jsonl',\n"
        "                 'llava-bench/caps_boxes_coco2014_val_80.jsonl', 'answers.jsonl'))",
    "from vigc.trainer import EvaluationPairs, VigcMixture, VigcTrainer, VigcTrainingArguments":
        "from datasets import Dataset\nfrom vigc import VigcForConditionalGeneration, VigcProcessor\n"
        "from vigc.trainer import VigcTrainingArguments\n"
        "model, processor = (one.from_pretrained('vigc-7b') for one in (VigcForConditionalGeneration, VigcProcessor))\n"
        "args = VigcTrainingArguments('run', max_steps=1, warmup_steps=0, use_cpu=True, report_to='none', "
        "generation_samples=2, image_use_rows=0, per_device_train_batch_size=2)\n"
        "rows = held_out = Dataset.from_parquet('rows.parquet')",
}  # fmt: skip


# How a command that cannot be run here is read at least; each raises where it would be refused.


def by_vigc(words, starter) -> None:
    """The command's own parser, and the recipe's."""
    command, name, words = get_command(app), "vigc", words[1:]
    while getattr(command, "commands", None):
        name, *words = words
        command = command.commands[name]
    command.make_context(name, list(words))
    if name == "train":
        read_recipe(ROOT / words[0], [*words[1:], "--use_cpu", "true"])


def by_torchrun(words, starter) -> None:
    parsed = get_args_parser().parse_args(words[1:])
    assert parsed.module and parsed.training_script == "vigc"
    by_vigc(["vigc", *parsed.training_script_args], starter)


def by_make(words, starter) -> None:
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, check=True, capture_output=True, env=bare)


def by_extras(words, starter) -> None:
    """What pip is asked for is an extra of this package."""
    extras = re.findall(r"(?:vigc|\.)\[([\w,-]+)\]", " ".join(words))
    assert extras and {one for named in extras for one in named.split(",")} <= set(EXTRAS), words


def by_files(words, starter) -> None:
    """Every word that looks like a file of the checkout is one."""
    named = [word for word in words[1:] if word.endswith((".txt", ".py"))]
    assert all((ROOT / word).exists() for word in named), words


def by_script(words, starter) -> None:
    """The script's own parser reads its options, and it goes no further."""
    code = (
        "import argparse, runpy, sys\nread = argparse.ArgumentParser.parse_args\n"
        "def only_read(self, *given):\n    read(self, *given)\n    raise SystemExit(0)\n"
        "argparse.ArgumentParser.parse_args = only_read\n"
        "sys.argv = sys.argv[1:]\nsys.path.insert(0, sys.argv[0].rpartition('/')[0])\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\nsys.exit('it has no parser')"
    )
    done = starter.run("-c", code, *words[1:], cwd=ROOT, site=True)
    assert done.returncode == 0, done.stderr


def by_lmms_eval(words, starter) -> None:
    """lmms-eval is not installed: the model's own arguments are those of `Answers`, and of `generate`."""
    given = dict(pair.split("=") for pair in words[words.index("--model_args") + 1].split(","))
    assert set(given) <= {*signature(Answers.__init__).parameters, *IQF_SETTINGS}


# The one table: what cannot be run here, why, and how it is read at least.
NOT_HERE = [
    (r"make( \w+)?", "makes an environment, or starts these tests", by_make),
    (r"pip install .+", "downloads packages", by_extras),
    (r"vigc convert .+", "needs the released weights, whose sizes it checks; tests/cli/test_convert.py", by_vigc),
    (r"vigc generate .+ --engine ray", "starts a cluster, as tests/jobs/test_executors.py does", by_vigc),
    (
        r"vigc (scenes|evaluate \w+) .*build/scenes.*",
        "1,000 scenes; tests/evaluation/test_evaluate.py has fewer",
        by_vigc,
    ),
    (r"torchrun --nproc_per_node 8 .+", "needs eight accelerators", by_torchrun),
    (r"(\w+=\S+ )?\.venv/bin/pytest .+", "is a part of this suite", by_files),
    (r"\.venv/bin/pre-commit install", "changes the checkout's hooks", by_files),
    (r"\.venv/bin/python .+", "takes minutes to hours", by_script),
    (r"python recipes/paper/tables/run\.py table1 .+", "needs all published data; test_paper_tables.py", by_script),
    (r"lmms-eval .+", "downloads the data of its tasks", by_lmms_eval),
    (r"pipx run pip-audit .+", "asks advisory databases", by_files),
]
METRICS = sorted(path.parent for path in (ROOT / "evaluation" / "metrics").glob("*/README.md"))
PAGES = [str(path.relative_to(ROOT)) for path in doc_blocks.pages() if "```" in path.read_text(encoding="utf-8")]
# What is no code, by language.
NO_CODE = {"bibtex": "a citation", "": "a tree of files", "text": "what a command prints, or a drawing"}
# Cards whose blocks another test runs, as they are rendered and from a process without vigc.
RUN_BY = {
    "hub_cards/custom_generate_card.md": "support/custom_generate_runs.py",
    **{f"evaluation/metrics/{path.name}/README.md": "evaluation/test_metrics.py" for path in METRICS},
}
# The pages that make the dataset, the model and the export whose cards are run below; read in this order.
FIRST = ["README.md", "docs/data-formats.md"]
# Cards that their commands and a training run leave in the newcomer's folder, their templates, and whether vigc is
# needed.
RENDERED = [
    ("vigc-7b/README.md", "hub_cards/model_card.md", False),
    ("llava-qlora/README.md", "hub_cards/model_card.md", True),
    ("vigc-photos/README.md", "hub_cards/dataset_card.md", False),
    ("pairs/README.md", "hub_cards/export_card.md", False),
]
TEMPLATES = {template for _, template, _ in RENDERED}
TYPED = [page for page in PAGES if page not in {*RUN_BY, *TEMPLATES}]


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with Hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def starter(hub, tmp_path_factory):
    """Processes on this Hub that do not see vigc unless they are told to."""
    folder = tmp_path_factory.mktemp("starter")
    keep = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_CACHE", "HF_MODULES_CACHE", "HF_DATASETS_CACHE")
    environment = {name: value for name, value in os.environ.items() if name not in keep}
    packages = os.pathsep.join(path for path in sys.path if path.endswith("site-packages"))
    environment |= {
        "PYTHONPATH": packages, "HF_HOME": str(folder / "home"), "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": WRITE,
        "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1",
        "OPENAI_API_KEY": "sk-of-tests",
    }  # fmt: skip
    found = Starter(WITHOUT_VIGC, site=False, environment=environment)
    (folder / "bin").mkdir()
    write_program(folder / "bin" / "vigc", found, "-m", "vigc")
    write_program(folder / "bin" / "python", found)
    found.environment["PATH"] = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    yield found
    found.close()


class Newcomer:
    """Types blocks in a folder of their own."""

    def __init__(self, place: Path, starter: Starter, hub: Hub, judge: str):
        self.place, self.starter, self.hub, self.judge = place, starter, hub, judge

    def types(self, blocks: list[Block], site: bool = True) -> None:
        """Shell as it comes; Python under one heading in one process, as a reader goes on in a notebook."""
        waiting: list[Block] = []
        for block in [*blocks, None]:
            if waiting and (block is None or block.language != "python" or block.heading != waiting[0].heading):
                self.python(waiting, site)
                waiting = []
            if block is None or block.language in NO_CODE:
                continue
            if block.language == "python":
                waiting.append(block)
            else:
                assert block.language == "bash", f"{block} is {block.language!r}: neither run nor named in NO_CODE"
                self.shell(block)

    def shell(self, block: Block) -> None:
        for command in [*commands_of(Block("", "", 0, "", self.given(block))), *commands_of(block)]:
            command = self.filled(command)
            if self.read(command):
                continue
            done = self.run(command)
            assert done.returncode in (0, 3), f"{block}: {command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"

    def run(self, command: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["bash", "-c", command], cwd=self.place, env=self.starter.environment, capture_output=True, text=True
        )

    def read(self, command: str) -> bool:
        """Whether `NOT_HERE` names it; then it is read."""
        for pattern, _, reading in NOT_HERE:
            if re.fullmatch(pattern, command):
                reading(shlex.split(command), self.starter)
                return True
        return False

    def python(self, blocks: list[Block], site: bool) -> None:
        """A traceback names page and line."""
        code = ["names = {'__name__': '__main__'}"]
        for block in blocks:
            text = "\n" * block.line + self.filled(block.code)
            code.append(f"exec(compile({self.filled(self.given(block))!r}, 'what the reader has', 'exec'), names)")
            code.append(f"exec(compile({text!r}, {block.page!r}, 'exec'), names)")
        if not site:
            code.insert(0, "import importlib.util as util; assert util.find_spec('vigc') is None")
        done = self.starter.run("-c", "\n".join(code), cwd=self.place, site=site)
        assert done.returncode == 0, done.stderr[-3000:]

    def commit(self) -> str:
        """Of a model that somebody else has published."""
        if ("models", "someone/vigc-7b") not in self.hub.repos:
            assert self.run("vigc push vigc-7b someone/vigc-7b").returncode == 0
        return self.hub.repo("someone/vigc-7b", "models").branches["main"][-1].sha

    def given(self, block: Block) -> str:
        return GIVEN.get(block.first, "")

    def filled(self, text: str) -> str:
        for written, here in STANDS_FOR.items():
            if written in text:
                commit = self.commit() if "{commit}" in here else None
                text = text.replace(written, here.format(judge=self.judge, commit=commit))
        return text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The newcomer's folder, before anything is typed."""
    place = tmp_path_factory.mktemp("newcomer")
    doc_blocks.newcomers_folder(place)
    return place


@pytest.fixture(scope="module")
def newcomers(folder, starter, hub, tmp_path_factory):
    """Makes a newcomer, with a folder of their own."""

    def copy(source, target):
        (os.link if source.endswith(".safetensors") else shutil.copy2)(source, target)

    def come() -> Newcomer:
        place = tmp_path_factory.mktemp("page")
        shutil.copytree(folder, place, symlinks=True, dirs_exist_ok=True, copy_function=copy)
        return Newcomer(place, starter, hub, judge.url)

    with JudgeServer(by_length) as judge:
        yield come


@pytest.fixture(scope="module")
def readme(newcomers):
    """The blocks of the first pages are run; what they made lies in the newcomer's folder."""
    newcomer = newcomers()
    for page in FIRST:
        newcomer.types(blocks_of(ROOT / page))
    return newcomer


def test_first_pages(readme):
    assert (readme.place / "vigc-photos" / "report" / "index.html").is_file()
    assert ("datasets", "ada/vigc-photos") in readme.hub.repos and ("models", "ada/vigc-7b") in readme.hub.repos


def test_the_demo_prints_what_readme_shows(newcomers):
    """Of its first picture, which is the same however many there are; "..." stands for what is left out."""
    (shown,) = [block for block in blocks_of(ROOT / "README.md") if block.language == "text"]
    done = newcomers().run("vigc demo --pictures 1 --output demo")
    assert done.returncode in (0, 3), done.stderr
    printed = done.stdout + done.stderr
    wanted = [line.strip().removesuffix(" ...") for line in shown.code.splitlines()]
    fixed = [line for line in wanted if line and not re.search(r"\d+ rows|build/demo", line)]
    assert len(fixed) == 9 and [line for line in fixed if line not in printed] == [], printed


LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
PROSE = ["README.md", "CONTRIBUTING.md", "SECURITY.md", *sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))]


def anchors_of(path: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    tokens = MarkdownIt().parse(path.read_text(encoding="utf-8"))
    titles = [tokens[place + 1].content for place, token in enumerate(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PROSE)
def test_links_lead_to_a_file_and_a_heading(page):
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in filter(None, (one or other for one, other in LINK.findall(text))):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), f"{page}: {target}"
        assert not anchor or anchor in anchors_of(path), f"{page}: {target}"


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = [*(path.name for path in ROOT.glob("docs/*.md")), *(path.name for path in (ROOT / "examples").iterdir())]
    assert [name for name in pages if name != "README.md" and f"{name})" not in index] == []


@pytest.mark.parametrize("page", [page for page in TYPED if page not in FIRST])
def test_other_pages(page, newcomers):
    newcomers().types(blocks_of(ROOT / page))


@pytest.mark.parametrize(("card", "template", "site"), RENDERED)
def test_cards(card, template, site, readme):
    """From beside the folder that the card lies in, and without vigc unless it is vigc's own format."""
    blocks = blocks_of(readme.place / card, card)
    folder = (readme.place / card).parent.parent
    Newcomer(folder, readme.starter, readme.hub, readme.judge).types(blocks, site)


def test_the_card_s_command_makes_the_same_rows(readme):
    made, again = (sorted((readme.place / name).glob("*/*.parquet")) for name in ("vigc-photos", "repeated"))
    assert [path.name for path in made] == [path.name for path in again] != []
    assert [path.read_bytes() for path in made] == [path.read_bytes() for path in again]


def test_every_block_of_a_template_is_rendered_and_run(readme):
    for template in TEMPLATES:
        rendered = [blocks_of(readme.place / card, card) for card, its, _ in RENDERED if its == template]
        for block in blocks_of(ROOT / template):
            wanted = re.sub(r"\\{\\{.*?\\}\\}", ".+", re.escape(block.first))
            assert any(re.fullmatch(wanted, one.first) for blocks in rendered for one in blocks), str(block)
    for card, name in RUN_BY.items():
        assert (ROOT / "tests" / name).is_file() and blocks_of(ROOT / card), card


def test_the_tables_name_nothing_that_is_gone(newcomers):
    newcomer = newcomers()
    blocks = [block for page in TYPED for block in blocks_of(ROOT / page)]
    commands = {newcomer.filled(one) for block in blocks if block.language == "bash" for one in commands_of(block)}
    assert [pattern for pattern, _, _ in NOT_HERE if not any(re.fullmatch(pattern, one) for one in commands)] == []
    assert set(GIVEN) - {block.first for block in blocks} == set()
    rendered = (ROOT / "hub_cards" / "dataset_card.md").read_text(encoding="utf-8")
    texts = [
        *(block.code for block in blocks),
        "vigc generate IMAGES --output DIR " if "facts.command" in rendered else "",
    ]
    assert [
        written for written in STANDS_FOR if not any(written in re.sub(r"\\\n\s*", "", text) for text in texts)
    ] == []


def test_a_block_that_cannot_run_is_noticed(newcomers, tmp_path):
    """Of an unknown language, of a command or a name that does not exist."""
    for text, told in (
        ("```console\nls\n```\n", "neither run nor named in NO_CODE"),
        ("```bash\nvigc generate photos/ --modl x\n```\n", "No such option"),
        ("```bash\nvigc convert --checkpoints x\n```\n", "No such option"),
        ("```python\nfrom vigc import Nothing\n```\n", "cannot import name 'Nothing'"),
    ):
        (tmp_path / "page.md").write_text(text, encoding="utf-8")
        with pytest.raises(Exception, match=told):
            newcomers().types(blocks_of(tmp_path / "page.md", "page.md"))
