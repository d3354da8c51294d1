"""Mixes datasets as in an ablation: adds N instances of a task type to a base, or replaces N instances of it.

```python
base, extra = training_rows(llava), training_rows(generated, name="vigc-coco-extra", text="draft")
rows, record = add_rows(base, extra, type="detail", count=36_000, seed=0)
rows, record = replace_rows(base, extra, type="detail", count=10_000, seed=0)
```

An instance is a conversation with all its rows, as in LLaVA-150K, or a row without conversation. Which instances are
drawn depends only on the seed and their ids, not on their order; a smaller count draws a subset of a larger one.
Table 1 of [VIGC](https://arxiv.org/abs/2308.12714) consists of such mixtures.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

from datasets import Dataset, Features, Image, concatenate_datasets

from vigc.errors import MixError
from vigc.processing.bounded_parsing import JsonObject
from vigc.processing.instructions_vigc import instruction_type
from vigc.processing.rows import TRAIN_FEATURES

TEXTS = ("answer", "draft")

_TEXT_FEATURES = Features({name: feature for name, feature in TRAIN_FEATURES.items() if name != "image"})
MIX_FEATURES = Features({"image": Image(decode=False), **_TEXT_FEATURES})


class Mixed(NamedTuple):
    """The rows of a mixture, and the record of their origin (JSON)."""

    rows: Dataset
    record: JsonObject


def training_rows(rows: Dataset, *, name: str = "", text: str = "answer") -> Dataset:
    """Converts rows to the columns of `TRAIN_FEATURES`, with undecoded images and a `conversation_id` for each row.

    Args:
        rows: Training rows or generated rows.
        name: Prefix of all ids, so that the ids of two datasets differ; "" keeps the ids.
        text: The answer of a generated row: its corrected "answer" (VIC), or the "draft" (VIG).

    Raises:
        MixError: Columns are missing, or a row has no such text.
    """
    if text not in TEXTS:
        raise MixError(f"text={text!r} is not known: use one of {', '.join(TEXTS)}.")
    columns = rows.column_names
    lacking = [column for column in ("image", "type", "question") if column not in columns]
    if not {"answer", "answers"} & set(columns):
        lacking.append("answers")
    if text == "draft" and "draft" not in columns:
        lacking.append("draft")
    if lacking:
        has = ", ".join(columns)
        raise MixError(f"{name or 'a dataset'} has no column {', '.join(lacking)}, only {has}: give rows to train on.")
    texts = rows.remove_columns("image").map(
        partial(_training_texts, text=text, name=name),
        batched=True,
        with_indices=True,
        remove_columns=[column for column in columns if column != "image"],
        features=_TEXT_FEATURES,
    )
    images = rows.select_columns("image").cast_column("image", Image(decode=False))
    return concatenate_datasets([images, texts], axis=1)


def _training_texts(batch: dict[str, list[Any]], places: list[int], *, text: str, name: str) -> dict[str, list[Any]]:
    """A batch with the columns of `_TEXT_FEATURES`."""
    nothing = [None] * len(places)
    made = {column: batch.get(column, nothing) for column in _TEXT_FEATURES}
    made["answers"], made["weights"] = [], []
    for index, place in enumerate(places):
        given, weights = batch.get("answers", nothing)[index] or [], batch.get("weights", nothing)[index]
        if text == "draft" or (not given and "answer" in batch):
            given, weights = [batch[text][index]], None
        answers, weights = _without_empty(given, weights, f"row {place} of {name or 'a dataset'}", text)
        made["answers"].append(answers)
        made["weights"].append(weights)
    ids = zip(places, batch.get("conversation_id", nothing), batch.get("id", nothing), strict=True)
    own = [conversation or one or f"row-{place}" for place, conversation, one in ids]
    made["conversation_id"] = [f"{name}/{one}" for one in own] if name else own
    return made


def _without_empty(
    given: list[Any], weights: list[float] | None, place: str, text: str
) -> tuple[list[str], list[float] | None]:
    """The answers of a row that are not empty, with their weights if it has any.

    Raises:
        MixError: The weights do not fit the answers, or all answers are empty. The message names the row by `place`.
    """
    if weights and len(weights) != len(given):
        raise MixError(f"{place} has {len(weights)} weights for {len(given)} answers.")
    kept = [at for at, answer in enumerate(given) if isinstance(answer, str) and answer.strip()]
    if not kept:
        raise MixError(f"{place} has no {text}: remove the row, or use the other text.")
    return [given[at] for at in kept], [weights[at] for at in kept] if weights else None


def add_rows(
    base: Dataset, extra: Dataset, *, type: str, count: int | None = None, seed: int = 0, name: str = "extra"
) -> Mixed:
    """Appends `count` instances of one task type from `extra` to `base`.

    Args:
        base: Rows from [`training_rows`].
        extra: Rows from [`training_rows`].
        type: The task type.
        count: Number of instances; None adds all.
        seed: Seed of the selection.
        name: The name of `extra` in the record.

    Raises:
        MixError: An unknown task type, or too few instances that are not yet in `base`.
    """
    return _mix(base, extra, "add", type, count, seed, name)


def replace_rows(base: Dataset, extra: Dataset, *, type: str, count: int, seed: int = 0, name: str = "extra") -> Mixed:
    """Like [`add_rows`], but also removes `count` instances of that type from `base`."""
    return _mix(base, extra, "replace", type, count, seed, name)


def _mix(base: Dataset, extra: Dataset, operation: str, type: str, count: int | None, seed: int, name: str) -> Mixed:
    try:
        kind = instruction_type(type).name
    except ValueError as error:
        raise MixError(str(error)) from error
    held = set(base["conversation_id"][:])
    offered = [one for one in _instances(extra, kind) if one not in held]
    taken = _drawn(offered, count, f"{seed}/add", f"apart from those in the base, {name} has", kind)
    removed: list[str] = []
    if operation == "replace":
        removed = _drawn(_instances(base, kind), len(taken), f"{seed}/remove", "the base has", kind)
    kept, added = _without(base, removed), _only(extra, taken)
    record = {
        "operation": operation,
        "type": kind,
        "seed": seed,
        "from": name,
        "fingerprint": content_fingerprint(extra),
        "instances": len(taken),
        "rows": len(added),
        "removed_rows": len(base) - len(kept),
        "pictures_in_base": len(set(added["image_id"][:]) & set(kept["image_id"][:]) - {None}),
        "added": taken,
        "removed": removed,
    }
    return Mixed(concatenate_datasets([kept, added]), record)


def _instances(rows: Dataset, kind: str) -> list[str]:
    """Ids of the instances of a task type, in order."""
    pairs = zip(rows["conversation_id"][:], rows["type"][:], strict=True)
    return list(dict.fromkeys(one for one, own in pairs if own == kind))


def _drawn(ids: list[str], count: int | None, key: str, whose: str, kind: str) -> list[str]:
    """The first `count` of `ids` in a pseudo-random order, given by hashes of `key` and id."""
    wanted = len(ids) if count is None else count
    if not 1 <= wanted <= len(ids):
        raise MixError(f"{wanted:,} instances of type {kind} are requested, but {whose} {len(ids):,}.")
    return sorted(ids, key=lambda one: hashlib.sha256(f"{key}/{one}".encode()).digest())[:wanted]


def _only(rows: Dataset, ids: Iterable[str]) -> Dataset:
    wanted = set(ids)
    return rows.select([index for index, one in enumerate(rows["conversation_id"][:]) if one in wanted])


def _without(rows: Dataset, ids: Iterable[str]) -> Dataset:
    unwanted = set(ids)
    return rows.select([index for index, one in enumerate(rows["conversation_id"][:]) if one not in unwanted])


def content_fingerprint(rows: Dataset) -> str:
    """16 hexadecimal digits, a hash of the ids and texts of all rows in order. It is the same on every machine."""
    digest = hashlib.sha256()
    for batch in rows.select_columns(["conversation_id", "turn", "type", "question", "answers", "weights"]).iter(1_000):
        for *row, weights in zip(*batch.values(), strict=True):
            digest.update(json.dumps(row + ([weights] if weights else [])).encode() + b"\n")
    return digest.hexdigest()[:16]
