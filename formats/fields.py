"""Reads and checks the fields of an entry; every function raises a `LayoutError` that names the field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vigc.errors import LayoutError, cut, short
from vigc.processing.bounded_parsing import JsonObject


def as_object(entry: Any) -> JsonObject:
    """Checks that an entry is an object."""
    if not isinstance(entry, dict):
        raise LayoutError(f"is {short(entry)}, but an object with named fields is expected.")
    return entry


def text_field(record: Mapping[str, Any], name: str, shown: str | None = None) -> str:
    """A field that must be text and not blank. Messages call it `shown`."""
    if name not in record:
        raise LayoutError(f"has no {shown or name!r}, only {cut(', '.join(map(repr, record)))}.")
    value = record[name]
    if not isinstance(value, str) or not value.strip():
        raise LayoutError(f"{shown or name!r} is {short(value)}, but text is expected.")
    return value


def whole_field(record: Mapping[str, Any], name: str) -> int:
    """A field that must be an integer, 0 or more."""
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise LayoutError(f"{name!r} is {short(value)}, but a whole number is expected.")
    return value


def answer_list(values: Any, name: str) -> list[str]:
    """The values of a field that must be a list of texts, at least one of them not blank."""
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise LayoutError(f"{name!r} is {short(values)}, but a list of texts is expected.")
    if not any(value.strip() for value in values):
        raise LayoutError(f"{name!r} is {short(values)}: at least one answer should not be empty.")
    return values
