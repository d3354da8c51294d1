"""The table of all layouts. To add one, write its module and list its `Format` here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from vigc.processing.bounded_parsing import JsonObject, parse_json
from vigc.processing.rows import Row

from .base import Format, Writing
from .finevision import FINEVISION
from .llava import LLAVA
from .stable_llava import STABLE_LLAVA
from .trl import TRL_DPO, TRL_SFT
from .vqa import AOKVQA, OKVQA, VIGC, VIGC_AOKVQA, VQAV2

FORMATS: dict[str, Format] = {
    one.name: one
    for one in (TRL_SFT, TRL_DPO, LLAVA, FINEVISION, VIGC, VIGC_AOKVQA, AOKVQA, STABLE_LLAVA, OKVQA, VQAV2)
}
# The layouts of annotation files, which `read_annotations` reads, and the layouts that `vigc export` writes.
LAYOUTS = {name: one for name, one in FORMATS.items() if one.pairs is not None}
EXPORTS = {name: one for name, one in FORMATS.items() if one.is_exported}


def source_records(rows: Iterable[Row]) -> Iterator[JsonObject]:
    """Converts the rows of an annotation file back to its entries, in the same order, with the rows' texts.

    Unchanged rows give exactly the published entries; for OK-VQA and VQAv2, whose entries are split over two files,
    `{"question": ..., "annotation": ...}`.

    Args:
        rows: Training rows; those of one conversation are adjacent.
    """
    for _, group in groupby(rows, key=lambda row: row["conversation_id"]):
        turns = list(group)
        layout = LAYOUTS[parse_json(turns[0]["extra"])["layout"]]
        yield from (record for record in layout.write(turns, Writing()) if not isinstance(record, str))
