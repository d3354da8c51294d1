"""Recipes: YAML files with the model, the data and the training arguments of a run.

```yaml
model: vigc-7b-start
output_dir: runs/llava-7b
data_root: .                      # relative paths below start here
data:
  - {layout: llava, files: [llava/conversation_58k.json], images: coco/train2017}
  - {dataset: vigc-llava-coco, weight: 2}
validation_rows: 2000
learning_rate: 3.0e-5
```
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NoReturn, Union, cast, get_args, get_origin, get_type_hints

from transformers import HfArgumentParser
from transformers.trainer_utils import IntervalStrategy

from vigc.errors import TrainingError, reason_of
from vigc.formats.table import LAYOUTS
from vigc.processing.bounded_parsing import MAX_YAML_BYTES, JsonObject, parse_yaml, read_text
from vigc.processing.instructions_vigc import INSTRUCTION_TYPES
from vigc.scenes import model_folder

from .vigc_config import VigcTrainingArguments

# Names of field types in messages.
_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", list: "a list of texts"}


@dataclass(frozen=True, slots=True)
class DataEntry:
    """A dataset of a recipe: published annotations (`layout`, `files`, `images`) or `dataset`.

    Args:
        layout: Layout of the annotations, one of `vigc.formats.table.LAYOUTS`.
        files: The annotation files.
        images: The image folder; for `dataset`, that of images which rows only name.
        type: The task type, if neither the layout, the file name nor the rows have it.
        source: Value for the column `source`.
        license: Value for the column `license`.
        dataset: A folder, a file of rows or a name on the Hub, with training rows, generated rows or conversations.
        config: Its configuration.
        split: Its split.
        revision: Its commit, tag or branch on the Hub.
        weight: Its relative share of the samples; by default the square root of its number of rows. Give it for all
            entries or none.
    """

    layout: str | None = None
    files: tuple[str, ...] = ()
    images: str | None = None
    type: str | None = None
    source: str | None = None
    license: str | None = None
    dataset: str | None = None
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    weight: float | None = None

    @property
    def name(self) -> str:
        """The name in messages."""
        return str(self.dataset or self.source or self.files[0])


@dataclass(frozen=True, slots=True)
class Recipe:
    """The content of a recipe.

    Args:
        model: Folder or Hub name of the base model; for an embedded model its folder.
        revision: The model's commit, tag or branch on the Hub.
        data: The training data.
        validation_data: The evaluation data.
        validation_rows: About how many rows of `data` to hold out for evaluation, all rows of an image together.
        arguments: The training arguments.
    """

    model: str
    revision: str | None
    data: tuple[DataEntry, ...]
    validation_data: tuple[DataEntry, ...]
    validation_rows: int
    arguments: VigcTrainingArguments


@dataclass(frozen=True, slots=True)
class _Given:
    """Unchecked values of the recipe's own keys, from the file and the command line."""

    model: Any = None
    revision: Any = None
    data_root: Any = "."
    data: Any = None
    validation_data: Any = None
    validation_rows: Any = 0


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise TrainingError(f"{message}; see VigcTrainingArguments for all training arguments.")


def read_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe.

    Args:
        path: The YAML file.
        overrides: `["--learning_rate", "1e-4", "--model=DIR", ...]`, which override the file.

    Raises:
        ValueError: The file is unreadable or not a recipe, or a key or value is unknown, missing or contradictory. The
            message names the file, the key and the value.
    """
    path = Path(path)
    values = _read_yaml(path)
    own = [item.name for item in fields(_Given)]
    arguments = [item.name for item in fields(VigcTrainingArguments) if item.init]
    for name in values:
        if name not in own and name not in arguments:
            raise TrainingError(f"{path}: {name!r} is not known: {_suggestion(str(name), [*own, *arguments])}")
    typed, rest = _own_overrides(list(overrides))
    given = _Given(**{**{name: value for name, value in values.items() if name in own}, **typed})
    _check_needed(path, given, has_output=bool(values.get("output_dir")) or _names_output(rest))
    rows = _whole_number(path, "validation_rows", given.validation_rows)
    root = Path(given.data_root)
    data = _entries(path, "data", given.data, root)
    _check_weights(path, data)
    validation = _entries(path, "validation_data", given.validation_data, root)
    parsed = _arguments(path, {name: value for name, value in values.items() if name not in own}, rest)
    if parsed.eval_strategy != "no" and not validation and rows <= 0:
        when = IntervalStrategy(parsed.eval_strategy).value
        raise TrainingError(
            f"{path}: eval_strategy={when!r} without rows to evaluate on: give validation_data or "
            "validation_rows, or eval_strategy: 'no' with load_best_model_at_end: false."
        )
    return Recipe(model_folder(given.model), given.revision, data, validation, rows, parsed)


def _check_needed(path: Path, given: _Given, *, has_output: bool) -> None:
    """Raises `TrainingError` if the model or the output folder is missing, or a name is not text."""
    if not given.model:
        raise TrainingError(f"{path}: 'model' is missing: give the folder or Hub name of the model to start from.")
    if not has_output:
        # Otherwise HF's default would be used silently.
        raise TrainingError(f"{path}: 'output_dir' is missing: give the folder to write the trained model to.")
    for name, value in (("model", given.model), ("revision", given.revision), ("data_root", given.data_root)):
        if not isinstance(value, str) and not (name == "revision" and value is None):
            raise TrainingError(f"{path}: {name}={value!r} is not a text: write it in quotes.")


def _names_output(overrides: Iterable[str]) -> bool:
    return any(word.startswith(("--output_dir", "--output-dir")) for word in overrides)


def _check_weights(path: Path, data: Sequence[DataEntry]) -> None:
    """Raises `TrainingError` if there are no datasets, or only some of them have a weight."""
    if not data:
        raise TrainingError(f"{path}: 'data' is missing: list at least one dataset.")
    weighted = [entry for entry in data if entry.weight is not None]
    if weighted and len(weighted) < len(data):
        raise TrainingError(
            f"{path}: 'weight' is given for {len(weighted)} of {len(data)} datasets: give it for all or none."
        )


def _read_yaml(path: Path) -> JsonObject:
    try:
        values = parse_yaml(read_text(path, MAX_YAML_BYTES))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path} is not a readable YAML file: {reason_of(error, path=False)}") from error
    if not isinstance(values, dict):
        raise TrainingError(f"{path} contains {type(values).__name__}, but a recipe is a mapping of 'name: value'.")
    return values


def _own_overrides(overrides: list[str]) -> tuple[dict[str, str], list[str]]:
    """Splits overrides into the recipe's own keys and training arguments."""
    given, rest = {}, []
    while overrides:
        word = overrides.pop(0)
        name, found, value = word.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if word.startswith("--") and name in ("model", "revision", "data_root", "validation_rows"):
            if not found and not overrides:
                raise TrainingError(f"--{name} needs a value.")
            given[name] = value if found else overrides.pop(0)
        elif word.startswith("--") and name in ("data", "validation_data"):
            raise TrainingError(f"--{name} cannot be given on the command line: write it into the recipe.")
        else:
            rest.append(f"--{name}{found}{value}" if word.startswith("--") else word)
    return given, rest


def _arguments(path: Path, values: Mapping[str, Any], overrides: list[str]) -> VigcTrainingArguments:
    parser = _Parser(cast(Any, VigcTrainingArguments), allow_abbrev=False)
    # YAML reads 3e-5 as text; argparse converts text defaults like command-line values.
    hints = get_type_hints(VigcTrainingArguments)
    parser.set_defaults(**{name: _as_typed(f"{path}: {name}", value, hints[name]) for name, value in values.items()})
    try:
        arguments, unknown = parser.parse_args_into_dataclasses(args=overrides, return_remaining_strings=True)
    except (TypeError, ValueError) as error:
        raise TrainingError(f"{path}: {error}") from error
    if unknown:
        name = unknown[0].removeprefix("--").partition("=")[0].replace("-", "_")
        if not unknown[0].startswith("--"):
            raise TrainingError(f"{unknown[0]!r} belongs to no argument: give arguments as --{name} VALUE.")
        raise TrainingError(f"{unknown[0].partition('=')[0]} is not known: {_suggestion(name, hints)}")
    return arguments


def _suggestion(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}?" if near else "it is neither part of a recipe nor a training argument."


def _as_typed(place: str, value: Any, hint: Any) -> Any:
    """Converts a value of the file to the type of its field; texts are left to argparse.

    Raises:
        ValueError: The value has another type.
    """
    options = get_args(hint) if isinstance(hint, UnionType) or get_origin(hint) is Union else (hint,)
    kinds = [get_origin(option) or option for option in options]
    if value is False and place.endswith("_strategy"):
        return "no"  # YAML reads an unquoted no as False
    if isinstance(value, str):
        return [value] if list in kinds and str not in kinds else value
    if not _fits(value, options, kinds):
        wanted = " or ".join(dict.fromkeys(_NAMES[kind] for kind in kinds if kind in _NAMES)) or str(hint)
        raise TrainingError(f"{place}={value!r} should be {wanted}.")
    return value


def _fits(value: Any, options: Sequence[Any], kinds: Sequence[Any]) -> bool:
    """Whether a value other than text has one of a field's types (`options`; `kinds`: without their arguments)."""
    if isinstance(value, list) and list[str] in options:
        return all(isinstance(one, str) for one in value)
    if any(type(value) is kind for kind in kinds) or (type(value) is int and float in kinds):
        return True
    return any(value is one for option in options if get_origin(option) is Literal for one in get_args(option))


def _whole_number(path: Path, name: str, value: Any) -> int:
    try:
        if isinstance(value, (bool, float)):
            raise TypeError
        return int(value)
    except (TypeError, ValueError):
        raise TrainingError(f"{path}: {name}={value!r} is not a whole number.") from None


def _entries(path: Path, key: str, values: Any, root: Path) -> tuple[DataEntry, ...]:
    if values is None:
        return ()
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise TrainingError(f"{path}: {key!r} is {values!r}, but a list of datasets is expected.")
    return tuple(_entry(f"{path}: {key}[{index}]", value, root) for index, value in enumerate(values))


def _entry(place: str, value: JsonObject, root: Path) -> DataEntry:
    names = [item.name for item in fields(DataEntry)]
    unknown = [name for name in value if name not in names]
    if unknown:
        raise TrainingError(f"{place}: {unknown[0]!r} is not known: a dataset has {', '.join(names)}.")
    if (value.get("dataset") is None) == (value.get("layout") is None):
        raise TrainingError(f"{place}: give either 'dataset' (a folder of rows) or 'layout' with 'files' and 'images'.")
    files = _files(place, value.get("files") or ())
    _check_values(place, value, names, has_files=bool(files))
    kept = {name: entry for name, entry in value.items() if entry is not None}
    kept |= {"files": tuple(str(root / file) for file in files)}
    if "weight" in kept:
        kept["weight"] = _weight(place, kept["weight"])
    if "images" in kept:
        kept["images"] = str(root / kept["images"])
    if "dataset" in kept and (root / kept["dataset"]).exists():
        kept["dataset"] = str(root / kept["dataset"])
    return DataEntry(**kept)


def _files(place: str, given: Any) -> Sequence[str]:
    files = [given] if isinstance(given, str) else given
    if not isinstance(files, (list, tuple)) or not all(isinstance(file, str) for file in files):
        raise TrainingError(f"{place}: files={files!r} should be a text or a list of texts: the names of files.")
    return files


def _check_values(place: str, value: JsonObject, names: Sequence[str], *, has_files: bool) -> None:
    """Raises `TrainingError` if a value is not text, or the task type or the layout is unknown."""
    for name in (name for name in names if name not in ("files", "weight")):
        if not isinstance(value.get(name), (str, type(None))):
            raise TrainingError(f"{place}: {name}={value[name]!r} is not a text: write it in quotes.")
    if value.get("type") is not None and value["type"] not in INSTRUCTION_TYPES:
        raise TrainingError(f"{place}: type={value['type']!r} is not known: use one of {', '.join(INSTRUCTION_TYPES)}.")
    if value.get("layout") is not None:
        if value["layout"] not in LAYOUTS:
            raise TrainingError(f"{place}: layout {value['layout']!r} is not known: use one of {', '.join(LAYOUTS)}.")
        if not has_files or not value.get("images"):
            raise TrainingError(f"{place}: a layout needs 'files' and 'images'.")


def _weight(place: str, value: Any) -> float:
    try:
        weight = math.nan if isinstance(value, bool) else float(value)  # YAML reads 1e-1 as text
    except (TypeError, ValueError):
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise TrainingError(f"{place}: weight={value!r} should be a number, 0 or more.")
    return weight
