"""The texts of a batch's rows: `text`, `task` and `target` as the processor is given them, one entry per row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def check_given(shown: list[bool] | None, text: Any, task: Any, target: Any) -> None:
    """Raises `ValueError` where the arguments of one call leave open what is asked."""
    if shown == [] or (shown is None and text is None and task is None):
        raise ValueError("Nothing to process: give images with task= (VIG) or with text= (VIC).")
    if text is None and task is None and target is not None:
        raise ValueError("target= needs text=: what is the model asked when it should write the target?")
    if text is not None and task is not None and target is not None:
        raise ValueError("With target=, give what the model is asked either as text= or as task=, not both.")


def text_rows(
    shown: list[bool] | None, text: Any, task: Any, target: Any
) -> tuple[list[str] | None, list[str] | None, list[str] | None]:
    """`text`, `task` and `target` as lists with one entry per row, None where one was not given.

    Raises:
        ValueError: An entry is no string, or the counts of images, texts, task types and targets do not agree.
    """
    texts = None if text is None else _as_list("text", text)
    targets = None if target is None else _as_list("target", target)
    named = None if task is None or isinstance(task, str) else _as_list("task", task)
    count = next(len(column) for column in (shown, texts, named, [task]) if column is not None)
    tasks = [task] * count if isinstance(task, str) else named
    for name, column in (("text", texts), ("task", tasks), ("target", targets)):
        if column is not None and len(column) != count:
            what = "images" if shown is not None else "texts"
            raise ValueError(f"{count} {what} but {len(column)} of {name}=: give one for each.")
    return texts, tasks, targets


def _as_list(name: str, value: str | Sequence[str]) -> list[str]:
    values = [value] if isinstance(value, str) else list(value)
    for index, item in enumerate(values):
        if not isinstance(item, str):
            raise ValueError(f"{name}= takes a string or a list of strings, but entry {index} is {item!r}.")
    return values
