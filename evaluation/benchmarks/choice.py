"""MMBench: multiple choice with rotated options, in a table with embedded images."""

from __future__ import annotations

import base64
import binascii
import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vigc.errors import AnnotationError, EvaluationError, reason_of
from vigc.evaluation.metrics.mmbench import mmbench

from .base import Benchmark, Numbers, Predictions, Question, Unit
from .entries import Entry, checked

# Maximum length of a field with a base64 image, for the csv module.
_LONGEST_FIELD = 2**28
# In some tables, rotated rows have the index of the row with the image instead of the image.
_LONGEST_INDEX = 16
_HIDDEN = ("image", "answer", "source", "comment")


class MMBench(Benchmark):
    """MMBench, from a TSV file. Rotations are created if the file has none."""

    name, title, metric, main = "mmbench", "MMBench", "mmbench", "overall"
    summary = "MMBench: multiple choice with rotated options, by ability; writes the server's Excel table."
    source = "https://github.com/open-compass/MMBench"
    template = "{question}\n{options}\nAnswer with the letter of the right option."
    max_new_tokens = 16

    def read(self) -> list[Question]:
        """A question per row of the file, with rotations if the file has none."""
        if find_openpyxl() is None:
            raise EvaluationError(
                "MMBench's server takes Excel files, which need openpyxl: pip install 'vigc[mmbench]'."
            )
        path = self._table()
        rows = _read_table(path)
        pictures = {row["index"]: row["image"] for row in rows}
        if all(row["index"] < mmbench.ROTATION for row in rows):
            rows = [turned for row in rows for turned in rotations(row)]
        decoded: dict[str, bytes] = {}  # rotations share an image
        found = []
        for row in rows:
            image = row["image"]
            if len(image) <= _LONGEST_INDEX and image.isdigit():
                image = pictures.get(int(image), image)
            if image not in decoded:
                decoded[image] = _picture(path, row["index"], image)
            text = "\n".join(part for part in (row.get("hint") or "", row["question"]) if part)
            options = "\n".join(f"{letter}. {option}" for letter, option in mmbench.options_of(row).items())
            asked = self.asked(text, options=options)
            asked = asked._replace(text=asked.prompt)  # VIC needs the options too
            reference = {name: value for name, value in row.items() if name != "image"}
            group = str(row["index"] % mmbench.ROTATION)
            place = (str(row["index"]), group, decoded[image], f"of row {row['index']}")
            found.append(Question(*place, *asked, reference))
        return found

    def _table(self) -> Path:
        self.file_if_any()
        split = (self.settings.split or "").lower()
        tables = [
            path
            for path in sorted(self.settings.data.iterdir())
            if path.suffix == ".tsv" and "mmbench" in path.name.lower() and split in path.stem.lower()
        ]
        if len(tables) == 1:
            return tables[0]
        if tables:
            names = ", ".join(path.name for path in tables)
            raise EvaluationError(
                f"MMBench: {self.settings.data} has {names}: select one with --split, a part of its name."
            )
        wanted = f" with {split!r} in its name" if split else ""
        raise EvaluationError(
            f"MMBench needs a table such as mmbench_dev_20230712.tsv{wanted} in {self.settings.data}: get it from "
            f"{self.source}."
        )

    def units(self, questions: Sequence[Question], predictions: Predictions) -> list[Unit]:
        """A unit per question with all its rotations; empty for a split without published answers."""
        groups: dict[str, list[Question]] = defaultdict(list)
        for question in questions:
            groups[question.image_id].append(question)
        units = []
        for group in groups.values():
            rows = [question.reference for question in group]
            if any(not row.get("answer") for row in rows):
                continue
            said = [predictions[question.id] or "" for question in group]
            units.append(Unit(group[0].id, group[0].image_id, mmbench.counts(said, rows)))
        return units

    def figures(self, sums: Numbers) -> Numbers:
        """See [`mmbench.figures`]."""
        return mmbench.figures(sums)

    def submission(self, questions: Sequence[Question], predictions: Predictions, model: str) -> dict[str, bytes]:
        """The server's Excel table: the published columns without image and answer, and `prediction`."""
        openpyxl = find_openpyxl()
        columns = [name for name in questions[0].reference if name not in _HIDDEN]
        book = openpyxl.Workbook(write_only=True)
        sheet = book.create_sheet("Sheet1")
        sheet.append([*columns, "prediction"])
        for question in questions:
            row = [question.reference[name] for name in columns]
            sheet.append([_cell(sheet, value) for value in (*row, predictions[question.id] or "")])
        buffer = io.BytesIO()
        book.save(buffer)
        return {"submission.xlsx": buffer.getvalue()}


def find_openpyxl() -> Any:
    """The `openpyxl` module, or None if it is not installed."""
    try:
        import openpyxl
    except ImportError:
        return None
    return openpyxl


def rotations(row: Mapping[str, Any]) -> list[Entry]:
    """The row and all rotations of its options, with the letter of the answer adapted."""
    options = mmbench.options_of(row)
    letters, texts = list(options), list(options.values())
    found: list[Entry] = []
    for turn in range(len(texts)):
        moved = texts[len(texts) - turn :] + texts[: len(texts) - turn]
        turned = {**row, "index": row["index"] + turn * mmbench.ROTATION, **dict(zip(letters, moved, strict=True))}
        if row.get("answer") in options:
            turned["answer"] = letters[(letters.index(row["answer"]) + turn) % len(letters)]
        found.append(turned)
    return found


def _read_table(path: Path) -> list[Entry]:
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_FIELD))
    rows: list[Entry] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, entry in enumerate(csv.DictReader(file, delimiter="\t")):
                row = checked(path, number, entry, ("index", "question", "A", "B", "l2-category", "image"))
                if not str(row["index"]).isdigit() or row["image"] is None:
                    raise AnnotationError(path, f"'index' is {row['index']!r}: the table is damaged.", number)
                options = {letter: _option(row.get(letter)) for letter in mmbench.LETTERS}
                rows.append({**row, "index": int(row["index"]), **options})
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AnnotationError(path, f"cannot be read ({reason_of(error, path=False)}): get the file again.") from error
    for number, row in enumerate(rows):
        if not mmbench.options_of(row):
            raise AnnotationError(path, f"row {row['index']} has no options.", number)
    return rows


def _option(text: str | None) -> str | None:
    return None if text in ("", "nan") else text


def _picture(path: Path, index: int, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise AnnotationError(path, f"the image of row {index} is not valid base64 ({error}).") from error


def _cell(sheet: Any, value: Any) -> Any:
    """A value for Excel: without control characters or invalid Unicode, and never a formula."""
    from openpyxl.cell import WriteOnlyCell

    if not isinstance(value, str):
        return value
    text = value.encode("utf-8", "replace").decode()
    cell = WriteOnlyCell(sheet, "".join(char for char in text if char >= " " or char in "\n\t"))
    cell.data_type = "s"
    return cell
