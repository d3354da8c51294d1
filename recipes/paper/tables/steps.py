"""The steps of the rows of the paper's tables: commands with their inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
PAPER = HERE.parent

LLAVA = [f"llava/{name}.json" for name in ("conversation_58k", "detail_23k", "complex_reasoning_77k")]
LLAVA_BENCH = ["qa90_questions.jsonl", "qa90_gpt4_answer.jsonl", "caps_boxes_coco2014_val_80.jsonl", "rule.json"]
# Questions whose images are excluded from generation.
TESTS = [
    "llava-bench/qa90_questions.jsonl",
    "okvqa/OpenEnded_mscoco_val2014_questions.json",
    "aokvqa/aokvqa_v1p0_val.json",
    "aokvqa/aokvqa_v1p0_test.json",
]
# The paper uses 36,781 images of COCO that are not in LLaVA-150K; it does not give the number for Objects365.
GENERATED = 36_781
REPLACED = 10_000
_RUNS_ON = 8  # number of processes of the recipes' batch sizes


@dataclass(frozen=True)
class Place:
    """Folders, and the number of processes.

    Args:
        root: The folder of all data; outputs are written to its sub-folder `vigc`.
        processes: Number of GPUs.
        judge: Options of `vigc judge` that select the judge.
    """

    root: Path
    processes: int = _RUNS_ON
    judge: tuple[str, ...] = ()

    @property
    def made(self) -> Path:
        """The folder of all outputs."""
        return self.root / "vigc"


@dataclass(frozen=True)
class Step:
    """One command.

    Args:
        name: Name of the step and of its mark file.
        tool: The tool: "vigc", "each" (a `vigc` job that processes share), "torchrun" (`vigc` under torchrun), "sft"
            (sft.py under accelerate) or "words" (first_words.py).
        words: The arguments.
        makes: The output.
        needs: The inputs.
        atomic: Whether the output is written atomically.
    """

    name: str
    tool: str
    words: list[str]
    makes: Path
    needs: list[Path] = field(default_factory=list)
    atomic: bool = False


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Args:
        paper: The paper's results.
        steps: Returns the steps.
    """

    paper: dict[str, float]
    steps: Callable[[Place], list[Step]]


# VIGC itself


def vigc_training(place: Place, recipe: Path, start: Path, name: str) -> Step:
    """`vigc train` of a recipe, from a model, with the batch of the recipe on any number of processes."""
    values = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    needs = [start]
    for entry in values["data"] + values.get("validation_data", []):
        named = [*entry.get("files", []), entry.get("images"), entry.get("dataset")]
        needs += [place.root / one for one in named if one is not None]
    accumulated = values.get("gradient_accumulation_steps", 1) * _RUNS_ON // place.processes
    made = place.made / name
    words = ["train", str(recipe), "--data_root", str(place.root), "--model", str(start), "--output_dir", str(made)]
    words += ["--gradient_accumulation_steps", str(accumulated), "--resume_from_checkpoint", "last"]
    return Step(name, "torchrun", words, made, needs)


def llava_vigc(place: Place) -> Step:
    """Trains the VIGC model for LLaVA's task types."""
    return vigc_training(place, PAPER / "llava_7b.yaml", place.root / "models/minigpt4plus-vicuna-7b", "vigc-llava-7b")


def generation(place: Place, name: str, model: Path, source: list[str], options: list[str], needs: list[Path]) -> Step:
    """`vigc generate` with the released loop, shared by all processes."""
    words = ["generate", *source, "--model", str(model), "--iqf-preset", "original", "--dtype", "bfloat16"]
    for file in TESTS:
        words += ["--exclude-ids", str(place.root / file)]
    made = place.made / name
    words += [*options, "--output", str(made)]
    needed = [model, Path(source[0]), *needs, *(place.root / file for file in TESTS)]
    return Step(name, "each", words, made, needed)


def coco_extra(place: Place) -> list[Step]:
    """coco-extra: COCO's training images without those of LLaVA-150K and the tests."""
    model, used = llava_vigc(place), [place.root / file for file in LLAVA]
    options = ["--types", "conversation,detail,complex"]
    for file in used:
        options += ["--exclude-ids", str(file)]
    return [model, generation(place, "coco-extra", model.makes, [str(place.root / "coco/train2017")], options, used)]


def objects365(place: Place) -> list[Step]:
    """The same number of images of Objects365, from one model."""
    model, folder = llava_vigc(place), place.root / "objects365"
    source = [str(folder / "zhiyuan_objv2_train.json"), "--format", "objects365", "--image-root", str(folder / "train")]
    options = ["--types", "detail", "--limit", str(GENERATED)]
    return [model, generation(place, "objects365", model.makes, source, options, [folder / "train"])]


# Tables 1 and 3: LLaVA, tuned on mixtures


def ablation(
    name: str, options: list[str], extra: Callable[[Place], list[Step]] | None = coco_extra, size: str = "7b"
) -> Callable[[Place], list[Step]]:
    """Mixes LLaVA-150K by the options of `vigc mix`, trains LLaVA's second stage on it, and runs LLaVA-eval."""

    def steps(place: Place) -> list[Step]:
        before = [] if extra is None else extra(place)  # nosec B610: no database
        mixture = options[0] if options else "llava-150k"
        base, pictures = [place.root / file for file in LLAVA], place.root / "coco/train2017"
        words = ["mix", *map(str, base), "--image-root", str(pictures)]
        needs = [*base, pictures]
        if before:
            words += ["--from", str(before[-1].makes), *options[1:]]
            needs.append(before[-1].makes)
        mixed, chats = place.made / "mixtures" / mixture, place.made / "chats" / mixture
        mix = Step(f"mix-{mixture}", "vigc", [*words, "--output", str(mixed)], mixed, needs, atomic=True)
        words = ["export", str(mixed), "--format", "trl-sft", "--image-root", str(place.root), "--output", str(chats)]
        export = Step(f"export-{mixture}", "vigc", words, chats, [mixed], atomic=True)
        tuned = tuning(place, name, chats, size)
        return [*before, mix, export, tuned, *llava_eval(place, name, tuned.makes)]

    return steps


def tuning(place: Place, name: str, data: Path, size: str) -> Step:
    """LLaVA's second stage, by sft.py."""
    recipe, start, made = HERE / f"llava_{size}.yaml", place.root / f"models/llava-{size}-stage1", place.made / name
    values = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    accumulated = values["gradient_accumulation_steps"] * _RUNS_ON // place.processes
    words = ["--config", str(recipe), "--model", str(start), "--data", str(data), "--output_dir", str(made)]
    return Step(name, "sft", [*words, "--gradient_accumulation_steps", str(accumulated)], made, [start, data])


# Evaluation


def evaluation(place: Place, name: str, model: Path, benchmark: str, folder: str, images: str, file: str) -> Step:
    """`vigc evaluate` of a model on a benchmark's published files."""
    data, made = place.root / folder, place.made / "results" / name / f"{benchmark}.json"
    words = ["evaluate", benchmark, "--data", str(data), "--model", str(model), "--output", str(made)]
    needs = [model, data / file]
    if images:
        words += ["--images", str(place.root / images)]
        needs.append(place.root / images)
    return Step(f"{name}-{benchmark}", "vigc", words, made, needs)


def llava_eval(place: Place, name: str, model: Path) -> list[Step]:
    """LLaVA-eval: a model's answers, the judge's reviews, and the metrics."""
    answer = evaluation(place, name, model, "llava", "llava-bench", "coco/val2014", LLAVA_BENCH[0])
    data, folder = place.root / "llava-bench", answer.makes.parent
    answers, reviews, result = (folder / f"llava.{end}" for end in ("answers.jsonl", "reviews.jsonl", "judged.json"))
    published = [data / file for file in LLAVA_BENCH]
    words = ["judge", str(answers), "--data", str(data), "--output", str(reviews), "--layout", "original"]
    judge = Step(f"{name}-judge", "vigc", [*words, *place.judge], reviews, [answer.makes, *published])
    words = ["evaluate", "llava", "--data", str(data), "--images", str(place.root / "coco/val2014")]
    words += ["--predictions", str(answers), "--reviews", str(reviews), "--output", str(result)]
    return [answer, judge, Step(f"{name}-llava-judged", "vigc", words, result, [answer.makes, reviews, *published])]


# Table 2: MiniGPT-4+, trained on its own data


def table2(name: str, *, coco: bool) -> Callable[[Place], list[Step]]:
    """The VIGC model on MMBench and LLaVA-eval, before or after training on coco-extra."""

    def steps(place: Place) -> list[Step]:
        before = coco_extra(place) if coco else [llava_vigc(place)]
        if coco:
            before.append(vigc_training(place, HERE / "minigpt4plus_coco.yaml", before[0].makes, name))
        model = before[-1].makes
        mmbench = evaluation(place, name, model, "mmbench", "mmbench", "", "mmbench_dev_20230712.tsv")
        return [*before, mmbench, *llava_eval(place, name, model)]

    return steps


# Table 4: short answers

_QUESTIONS = {"okvqa": "okvqa/OpenEnded_mscoco_train2014_questions.json", "aokvqa": "aokvqa/aokvqa_v1p0_train.json"}
_TESTED_ON = {
    "okvqa": ("val2014", "OpenEnded_mscoco_val2014_questions.json"),
    "aokvqa": ("val2017", "aokvqa_v1p0_val.json"),
}


def table4(name: str, kind: str, start: str, *, vigc: bool) -> Callable[[Place], list[Step]]:
    """A model trained on OK-VQA or A-OKVQA, with or without rows generated by VIGC."""

    def steps(place: Place) -> list[Step]:
        model, before, recipe = place.root / "models" / start, [], f"{kind}_answers.yaml"
        if vigc:
            before, recipe = short_answers(place, kind), f"{kind}_answers_vigc.yaml"
        trained = vigc_training(place, HERE / recipe, model, name)
        images, file = _TESTED_ON[kind]
        return [*before, trained, evaluation(place, name, trained.makes, kind, kind, f"coco/{images}", file)]

    return steps


def short_answers(place: Place, kind: str) -> list[Step]:
    """Generates questions with weighted answers about COCO's images, with a VIGC model based on InstructBLIP."""
    start, questions = place.root / "models/instructblip-vicuna-7b", place.root / _QUESTIONS[kind]
    model = vigc_training(place, PAPER / f"{kind}.yaml", start, f"vigc-{kind}")
    counted = place.made / f"{kind}-first-words.json"
    words = Step(counted.stem, "words", [str(questions), "--output", str(counted)], counted, [questions])
    options = ["--types", kind, "--answers", "5", "--first-words", str(counted)]
    pictures = [str(place.root / "coco/train2017")]
    return [model, words, generation(place, f"coco-{kind}", model.makes, pictures, options, [counted])]
