"""The fenced blocks of the documentation, and the folder of a newcomer in which they are run."""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import benchmark_files as files
import torch
from conftest import FIXTURES, ROOT
from datasets import Dataset, Features, Image
from markdown_it import MarkdownIt
from stock_vlm import save_stock_instructblip, save_stock_vlm
from training import make_trainer, rows_of

from vigc import VigcForConditionalGeneration, VigcProcessor
from vigc.hub_cards import write_model_card
from vigc.scenes import VIGC_TINY, write_scenes


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, under which heading, its language and what it holds."""

    page: str
    heading: str
    line: int
    language: str
    code: str

    def __str__(self):
        return f"{self.page}:{self.line}"

    @property
    def first(self) -> str:
        """Its first line without comment, by which tables name it."""
        return re.sub(r"\s+#.*$", "", self.code.strip().splitlines()[0])


def blocks_of(path: Path, page: str | None = None) -> list[Block]:
    """All blocks of a page, in order."""
    page = page or str(path.relative_to(ROOT))
    found, heading = [], ""
    tokens = MarkdownIt().parse(path.read_text(encoding="utf-8"))
    for place, token in enumerate(tokens):
        if token.type == "heading_open":
            heading = tokens[place + 1].content
        if token.type in ("fence", "code_block"):
            found.append(Block(page, heading, token.map[0] + 1, token.info, token.content))
    return found


def pages() -> list[Path]:
    """Every page that git tracks or, before the next commit, would."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in sorted(set(listed.split("\0"))) if name and (ROOT / name).is_file()]


def commands_of(block: Block) -> list[str]:
    """The commands of a block of shell, each with its continuation lines and without its comment."""
    joined = re.sub(r"\\\n\s*", "", block.code)
    lines = [re.sub(r"\s+#.*$", "", line).strip() for line in joined.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


# The newcomer's folder


def newcomers_folder(place: Path) -> None:
    """What the pages speak of, small: pictures, published files, models of these names; and files of the checkout."""
    write_scenes(place / "drawn", 3 * 3, 3)
    shown = sorted((place / "drawn" / "images").iterdir())
    for name in ("recipes", "benchmarks", "scenes", "evaluation", "constraints.txt"):
        (place / name).symlink_to(ROOT / name)
    for name in ("photos", "test-images"):
        (place / name).mkdir()
        for path in shown if name == "photos" else shown[:1]:
            shutil.copy(path, place / name)
    for name in ("vigc-7b", "vigc-start"):
        _model(place / name)
    save_stock_vlm(place / "llava-hf" / "llava-1.5-7b-hf")
    save_stock_instructblip(place / "Salesforce" / "instructblip-vicuna-7b")
    files.write(place / "photo.jpg", files.picture(1))
    _llava(place)
    _benchmarks(place)
    _large_jobs(place)
    _training(place)


def _model(folder):
    """The embedded model as `vigc convert` leaves one: with its code and card."""
    model = VigcForConditionalGeneration.from_pretrained(VIGC_TINY, dtype=torch.float32)
    model.save_pretrained(folder)
    VigcProcessor.from_pretrained(VIGC_TINY).save_pretrained(folder)
    sizes = {"language model": model.language_model.num_parameters()}
    write_model_card(folder, name=folder.name, checkpoints=["vigc.pth"], language_model="vicuna", parameters=sizes)


def _llava(place):
    """LLaVA-150K's files, a file of its layout, and COCO's pictures."""
    for name in ("conversation_58k.json", "detail_23k.json", "complex_reasoning_77k.json"):
        files.write(place / "llava" / name, (FIXTURES / "annotations" / name).read_bytes())
    shutil.copy(place / "llava" / "conversation_58k.json", place / "llava_instruct.json")
    for path in (place / "llava").iterdir():
        for entry in json.loads(path.read_text(encoding="utf-8")):
            if "image" in entry:
                files.write(place / "coco" / entry["image"], files.picture(int(Path(entry["image"]).stem)))


def _benchmarks(place):
    files.pope(place / "coco")
    files.llava(place / "llava-bench")
    asked = (place / "llava-bench" / "qa90_questions.jsonl").read_text(encoding="utf-8").splitlines()
    answers = [{"question_id": json.loads(line)["question_id"], "text": "A red boat and two dogs."} for line in asked]
    files.write_lines(place / "answers.jsonl", answers)
    rule = {"role": "Assistant", "prompt": "Rate both, from 1 to 10, on the first line."}
    files.write_json(place / "rule.json", dict.fromkeys(("default", "conv", "detail", "complex"), rule))


def _large_jobs(place):
    """COCO's and Objects365's files as published, LLaVA's list of ids, and a dataset of pictures."""
    images = [{"id": number, "file_name": f"{number:012d}.jpg", "license": 4} for number in (9, 25, 30)]
    licenses = [{"id": 4, "name": "Attribution License", "url": "http://creativecommons.org/licenses/by/2.0/"}]
    listed = {"images": images, "annotations": [], "categories": [], "licenses": licenses}
    files.write_json(place / "instances_train2017.json", listed)
    files.write_json(place / "llava_instruct_150k.json", [{"id": "000000000009", "image": "000000000009.jpg"}])
    for image in images:
        files.write(place / "train2017" / image["file_name"], files.picture(image["id"]))
    images = [{"id": n, "file_name": f"images/v1/patch0/objects365_v1_{n:08d}.jpg"} for n in (7, 8)]
    files.write_json(place / "zhiyuan_objv2_train.json", {**listed, "images": images})
    for image in images:
        files.write(place / "objects365" / image["file_name"], files.picture(image["id"]))
    rows = {"image": [{"bytes": files.picture(n), "path": None} for n in (1, 2)]}
    (place / "user" / "pictures").mkdir(parents=True)
    Dataset.from_dict(rows, features=Features({"image": Image()})).to_parquet(
        place / "user" / "pictures" / "train-00000-of-00001.parquet"
    )


def _training(place):
    """OK-VQA as a recipe names it, rows of one's own, and what two runs left."""
    for subset, split in (("train2014", "train"), ("val2014", "val")):
        for stem in ("OpenEnded_mscoco_{}2014_questions.json", "mscoco_{}2014_annotations.json"):
            text = (FIXTURES / "annotations" / stem.format("train")).read_text(encoding="utf-8")
            files.write(place / "data" / "okvqa" / stem.format(split), text.replace('"train"', f'"{split}"'))
        for number in (9, 25):
            files.write(place / f"data/coco/{subset}/COCO_{subset}_{number:012d}.jpg", files.picture(number))
    rows_of(place / "photos", "detail", 4).to_parquet(place / "rows.parquet")
    settings = {"max_steps": 1, "evaluated": False, "save_strategy": "steps", "save_steps": 1, "lora_rank": 2}
    trainer = make_trainer(
        place / "vigc-start", place / "photos", place / "runs/okvqa", final_weights="trained", **settings
    )
    trainer.train()
    trainer.save_final(place / "llava-qlora")
    (place / "runs" / "llava-qlora").symlink_to(Path("..", "llava-qlora"))
    (place / "runs/okvqa/checkpoint-1").rename(place / "runs/okvqa/checkpoint-500")
