"""JSON, YAML and parquet from outside, parsed at a bounded cost: a hostile file is a `ValueError` in one line.

All of the package parses by these functions. Without them a text of brackets ends in a `RecursionError`, a few aliases
of YAML make a list of billions, and a name of 50 MB becomes a message of 50 MB.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from datasets import Features

# Levels of lists and objects in each other. What is parsed is also walked and written again by code that recurses.
MAX_DEPTH = 100
# Bytes of a JSON file that is read as a whole. Annotation files, which are larger, are read entry by entry.
MAX_JSON_BYTES = 512 * 2**20
# PyYAML reads about 100 kB in a second.
MAX_YAML_BYTES = 2 * 2**20
# Values in a YAML text once its aliases are put in.
MAX_YAML_VALUES = 200_000
# Bytes of what `datasets` keeps in a parquet file's schema: 20,000 names of classes are 500 kB.
MAX_FEATURES_BYTES = 16 * 2**20
# What parquet's own metadata may allocate, in bytes of text and in elements of its lists.
_THRIFT_STRINGS, _THRIFT_ELEMENTS = 64 * 2**20, 1_000_000


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: It is not valid JSON, holds a number of thousands of digits, or more than `MAX_DEPTH` levels.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise _too_deep() from None
    opened = (b"[", b"{") if isinstance(text, bytes) else ("[", "{")
    # The count of brackets bounds the depth, and most texts have few.
    if sum(text.count(mark) for mark in opened) > MAX_DEPTH:  # type: ignore[arg-type]
        check_depth(value)
    return value


def check_depth(value: Any) -> None:
    """Makes sure that a parsed value has at most `MAX_DEPTH` levels.

    Raises:
        ValueError: It has more.
    """
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for item in level
            if isinstance(item, (dict, list))
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return
    raise _too_deep()


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        ValueError: As of [`parse_json`]; it is not UTF-8, or has more than `MAX_JSON_BYTES` bytes.
        OSError: It cannot be read.
    """
    return parse_json(read_text(path, MAX_JSON_BYTES))


def read_text(path: Path, limit: int) -> str:
    """The text of a UTF-8 file, without the mark of byte order that some editors put first.

    Args:
        path: The file.
        limit: Bytes that it may have.

    Raises:
        ValueError: It has more, or is not UTF-8.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"has more bytes than the limit of {limit:,}")
    return data.decode("utf-8-sig")


def parse_yaml(text: str) -> Any:
    """The value of a YAML text, of plain types only.

    Raises:
        ValueError: It is not valid YAML, or has more than `MAX_YAML_BYTES` bytes, `MAX_DEPTH` levels or, its aliases
            put in, `MAX_YAML_VALUES` values.
    """
    if len(text.encode("utf-8", "replace")) > MAX_YAML_BYTES:
        raise ValueError(f"has more bytes than the limit of {MAX_YAML_BYTES:,}")
    try:
        return yaml.load(text, Loader=_BoundedLoader)  # nosec B506: a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())[:500]) from error


class _BoundedLoader(yaml.SafeLoader):
    """PyYAML's safe loader with limits on levels and, since an alias repeats what it stands for, on values."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._level = 0
        self._sizes: dict[int, int] = {}  # values in each node, by its identity

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._level += 1
        if self._level > MAX_DEPTH:
            raise _too_deep()
        repeats = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        self._level -= 1
        if not repeats:
            self._sizes[id(node)] = self._size(node)
        elif id(node) not in self._sizes:
            raise ValueError("holds an alias of what it stands in: write it out")
        return node

    def _size(self, node: Any) -> int:
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        children = [child for part in parts for child in (part if isinstance(part, tuple) else (part,))]
        size = 1 + sum(self._sizes[id(child)] for child in children)
        if size > MAX_YAML_VALUES:
            raise ValueError(f"holds more values than the limit of {MAX_YAML_VALUES:,}, its aliases put in")
        return size


def open_parquet(source: str | os.PathLike[str] | BinaryIO) -> pq.ParquetFile:
    """A parquet file, its metadata read within limits.

    Raises:
        OSError, pyarrow.ArrowInvalid: It cannot be read, is no parquet file, or is over a limit.
    """
    limits = {"thrift_string_size_limit": _THRIFT_STRINGS, "thrift_container_size_limit": _THRIFT_ELEMENTS}
    return pq.ParquetFile(source, **limits)


def features_of(schema: pa.Schema) -> Features:
    """The features of rows with an Arrow schema, from what `datasets` wrote into it or else from its types.

    Raises:
        ValueError: What `datasets` wrote is damaged, too large or nested too deeply.
    """
    written = (schema.metadata or {}).get(b"huggingface", b"")
    if len(written) > MAX_FEATURES_BYTES:
        raise ValueError(f"its 'huggingface' metadata has more bytes than the limit of {MAX_FEATURES_BYTES:,}")
    if written:
        parse_json(written)
    try:
        return Features.from_arrow_schema(schema)
    except RecursionError:
        raise _too_deep() from None
    except (TypeError, AttributeError, LookupError) as error:
        raise ValueError(f"its 'huggingface' metadata is damaged ({type(error).__name__}: {error})") from error


def _too_deep() -> ValueError:
    return ValueError(f"is nested more than {MAX_DEPTH} levels deep")
