"""Writes scenes to a folder: images with instruction rows, the true scenes, and instances in COCO's layout."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from vigc.processing.bounded_parsing import JsonObject, parse_json
from vigc.processing.rows import Record

from .language import TYPES, Pair, write_pair
from .render import PICTURE_SIZE, Rendered, render
from .world import KINDS, THEMES, Scene, SceneObject, sample_scene, sample_scenes

LAYOUTS = ("llava", "dataset")
SOURCE, LICENSE = "vigc-scenes", "CC0-1.0"

_ROWS_IN_SHARD = 5000
_CATEGORY_IDS = {name: number for number, name in enumerate(KINDS, start=1)}


@dataclass(frozen=True, slots=True)
class Row:
    """One instruction row: a scene and a pair about it. A scene has one row of each type."""

    scene: Scene
    pair: Pair

    @property
    def image_id(self) -> str:
        """The stem of the image file: a number, as in COCO."""
        return _image_id(self.scene)

    @property
    def file_name(self) -> str:
        """The path of the image in the image folder."""
        return f"{self.image_id}.png"


def iterate_rows(rows: int, seed: int = 0, unusual: float = 0.0, crowded: bool = False) -> Iterator[Row]:
    """The first `rows` rows of the world `seed`; each scene gives one row of each type."""
    for number in range(rows):
        scene = sample_scene(seed, number // len(TYPES), unusual, crowded)
        yield Row(scene, write_pair(scene, TYPES[number % len(TYPES)]))


def write_scenes(
    output: str | Path,
    rows: int,
    seed: int = 0,
    layout: str = "llava",
    unusual: float = 0.0,
    crowded: bool = False,
) -> dict[str, int]:
    """Writes a dataset of scenes, atomically.

    Both layouts have `instances.json` (COCO) and `scenes.jsonl` (the true scenes, one per line). "llava" adds
    `images/` and a file in LLaVA's layout for each type; "dataset" adds a folder of parquet files for each type with a
    README for `datasets.load_dataset`.

    Args:
        output: A folder that does not exist yet or is empty.
        rows: Number of instruction rows; a scene gives one row of each of the three types.
        seed: Seed of the world; another seed gives other scenes.
        layout: "llava" or "dataset".
        unusual: Probability of a scene without the usual objects of its theme.
        crowded: Whether scenes have 6 to 9 objects, and descriptions count and relate them instead of placing each.

    Returns:
        The number of "rows" and of "scenes".

    Raises:
        ValueError: A setting is out of range.
        FileExistsError: The folder is not empty.
        BusyError: Another process is writing the folder.
        OSError: The disk is full, or the folder cannot be written.
    """
    from vigc.processing.atomic import atomic_folder

    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout!r} is not known: use {' or '.join(map(repr, LAYOUTS))}.")
    if rows < 1:
        raise ValueError(f"rows={rows!r}: give the number of rows to write, at least 1.")
    folder = Path(output).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not an empty folder: give another --output, or remove it first.")
    scenes = sample_scenes(seed, -(-rows // len(TYPES)), unusual, crowded=crowded)
    writer = _write_llava if layout == "llava" else _write_dataset
    with atomic_folder(folder) as unfinished:
        writer(unfinished, rows, seed, unusual, crowded)
        _write_truth(unfinished, scenes)
    return {"rows": rows, "scenes": len(scenes)}


def png_bytes(scene: Scene) -> bytes:
    """The image of a scene as a PNG file."""
    return _png(render(scene))


def llava_entry(row: Row) -> JsonObject:
    """A row in LLaVA's layout. As in the released files, `<image>` is before the question or after it."""
    question = row.pair.question
    prompt = f"<image>\n{question}" if row.scene.index % 2 else f"{question}\n<image>"
    turns = [{"from": "human", "value": prompt}, {"from": "gpt", "value": row.pair.answer}]
    return {"id": row.image_id, "image": row.file_name, "conversations": turns}


def coco_instances(scenes: list[Scene]) -> JsonObject:
    """The objects of scenes as instances in COCO's layout, with the bounding boxes of the drawn objects."""
    images: list[JsonObject] = []
    annotations: list[JsonObject] = []
    for scene in scenes:
        number = scene.index
        size = {"width": PICTURE_SIZE, "height": PICTURE_SIZE}
        images.append({"id": number, "file_name": f"{_image_id(scene)}.png", **size, "license": 1})
        for item, box in zip(scene.objects, render(scene).boxes, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": _CATEGORY_IDS[item.kind],
                    "bbox": list(box),
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                    "segmentation": [],
                }
            )
    themes = {kind: theme.name for theme in reversed(THEMES.values()) for kind in theme.kinds}
    return {
        "info": {"description": "Rendered scenes with known truth"},
        "licenses": [{"id": 1, "name": LICENSE}],
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name, "supercategory": themes[name]} for name, number in _CATEGORY_IDS.items()
        ],
    }


def _image_id(scene: Scene) -> str:
    return f"{scene.index:012d}"


def _png(rendered: Rendered) -> bytes:
    buffer = io.BytesIO()
    rendered.image.save(buffer, format="PNG")
    return buffer.getvalue()


def _write_truth(folder: Path, scenes: list[Scene]) -> None:
    with (folder / "scenes.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"image_id": _image_id(scene), **asdict(scene)}) + "\n" for scene in scenes)
    (folder / "instances.json").write_text(json.dumps(coco_instances(scenes)) + "\n", encoding="utf-8")


def read_truth(path: str | Path) -> dict[str, Scene]:
    """Reads the scenes of a `scenes.jsonl`, by image id.

    Raises:
        ValueError: A line is not a scene; the message has its number.
    """
    scenes = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        try:
            values = parse_json(line)
            image_id = values.pop("image_id")
            objects = tuple(SceneObject(**item) for item in values.pop("objects"))
            scenes[image_id] = Scene(objects=objects, **values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}, line {number} is not a scene ({error}): write the folder again.") from error
    return scenes


def _write_llava(folder: Path, rows: int, seed: int, unusual: float, crowded: bool) -> None:
    images = folder / "images"
    images.mkdir()
    entries: dict[str, list[JsonObject]] = {name: [] for name in TYPES}
    for row in iterate_rows(rows, seed, unusual, crowded):
        entries[row.pair.type].append(llava_entry(row))
        path = images / row.file_name
        if not path.exists():
            path.write_bytes(png_bytes(row.scene))
    for name, listed in entries.items():
        (folder / f"{name}.json").write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")


def _write_dataset(folder: Path, rows: int, seed: int, unusual: float, crowded: bool) -> None:
    from datasets import Dataset

    from vigc.processing import TRAIN_FEATURES

    shards: dict[str, int] = dict.fromkeys(TYPES, 0)
    sizes = {name: _Size() for name in TYPES}
    waiting: dict[str, list[Record]] = {name: [] for name in TYPES}

    def write(name: str) -> None:
        if not waiting[name]:
            return
        (folder / name).mkdir(exist_ok=True)
        shard = Dataset.from_list(waiting[name], features=TRAIN_FEATURES)
        path = folder / name / f"train-{shards[name]:05d}.parquet"
        shard.to_parquet(path)
        sizes[name] += _Size(len(shard), shard.data.nbytes, path.stat().st_size)
        shards[name] += 1
        waiting[name].clear()

    for row in iterate_rows(rows, seed, unusual, crowded):
        waiting[row.pair.type].append(_train_row(row))
        if len(waiting[row.pair.type]) == _ROWS_IN_SHARD:
            write(row.pair.type)
    for name in TYPES:
        write(name)
    card = _card({name: size for name, size in sizes.items() if size.rows}, seed, unusual, crowded)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _train_row(row: Row) -> Record:
    return {
        "image": {"bytes": png_bytes(row.scene), "path": row.file_name},
        "image_id": row.image_id,
        "type": row.pair.type,
        "question": row.pair.question,
        "answers": [row.pair.answer],
        "weights": None,
        "source": SOURCE,
        "license": LICENSE,
        "conversation_id": f"{row.image_id}-{row.pair.type}",
        "turn": 0,
        "extra": json.dumps({"topic": row.pair.topic, "truth": row.pair.truth}),
    }


_CARD = """\
# Rendered scenes with known truth

Rendered images, instruction rows with true answers, and the content of each image: `scenes.jsonl` has the objects of
each scene with colour, size and cell, `instances.json` their boxes in COCO's layout.

| Type | Rows |
|---|---|
{rows}

Made by `vigc scenes --output DIR --rows {total} --seed {seed} --layout dataset --unusual {unusual}{crowded}`.
"""


@dataclass(frozen=True, slots=True)
class _Size:
    """The size of some rows: their number, and their bytes in memory and on disk."""

    rows: int = 0
    num_bytes: int = 0
    download_bytes: int = 0

    def __add__(self, other: _Size) -> _Size:
        return _Size(
            self.rows + other.rows, self.num_bytes + other.num_bytes, self.download_bytes + other.download_bytes
        )


def _card(sizes: dict[str, _Size], seed: int, unusual: float, crowded: bool) -> str:
    """README with the configurations and their sizes, by which `datasets` distinguishes folders of the same name."""
    total = sum(sizes.values(), _Size())
    files = {"default": "'*/train-*.parquet'", **{name: f"{name}/train-*.parquet" for name in sizes}}
    head = ["license: cc0-1.0", "configs:"]
    for name, path in files.items():
        head += [f"- config_name: {name}", "  data_files:", "  - split: train", f"    path: {path}"]
    head.insert(3, "  default: true")
    head.append("dataset_info:")
    for name, size in {"default": total, **sizes}.items():
        head += [f"- config_name: {name}", "  splits:", "  - name: train"]
        head += [f"    num_bytes: {size.num_bytes}", f"    num_examples: {size.rows}"]
        head += [f"  download_size: {size.download_bytes}", f"  dataset_size: {size.num_bytes}"]
    rows = "\n".join(f"| {name} | {size.rows} |" for name, size in sizes.items())
    option = " --crowded" if crowded else ""
    text = _CARD.format(rows=rows, total=total.rows, seed=seed, unusual=unusual, crowded=option)
    return "\n".join(["---", *head, "---", text])
