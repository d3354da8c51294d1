"""JSON, YAML and parquet from outside, parsed at a bounded cost: a hostile file is a `ValueError` in one line.

All of the package parses by these functions. Without them a text of brackets ends in a `RecursionError`, a few aliases
of YAML make a list of billions, and a name of 50 MB becomes a message of 50 MB.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import yaml

from vigc.errors import NestingError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq
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
# A JSON object: one to be written, or one of a parsed file, of whose values nothing is known before they are checked.
JsonObject: TypeAlias = dict[str, Any]

_DECODER = json.JSONDecoder()
# What parquet's own metadata may allocate, in bytes of text and in elements of its lists.
_THRIFT_STRINGS, _THRIFT_ELEMENTS = 64 * 2**20, 1_000_000


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: It is not valid JSON, holds a number of thousands of digits, or more than `MAX_DEPTH` levels.
    """
    decoded = text.decode(json.detect_encoding(text), "surrogatepass") if isinstance(text, bytes) else text
    try:
        with _no_garbage_collection():
            value = json.loads(decoded)
    except RecursionError:
        raise NestingError(MAX_DEPTH) from None
    _check_depth(value, decoded, 0, len(decoded))
    return value


def decode_json(text: str, at: int) -> tuple[Any, int]:
    """The value that begins at a place in a text, and where it ends.

    Raises:
        json.JSONDecodeError: It is not valid JSON, or not all there.
        ValueError: As of [`parse_json`].
    """
    try:
        with _no_garbage_collection():
            value, end = _DECODER.raw_decode(text, at)
    except RecursionError:
        raise NestingError(MAX_DEPTH) from None
    _check_depth(value, text, at, end)
    return value, end


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Turns garbage collection off: finalizers run in a deep recursion would exceed the recursion limit themselves."""
    # Only the thread that turned it off turns it on again.
    if enabled := gc.isenabled():
        gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _check_depth(value: Any, text: str, start: int, end: int) -> None:
    if text.count("[", start, end) + text.count("{", start, end) <= MAX_DEPTH:
        return  # as in nearly all texts: no brackets for more levels
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
    raise NestingError(MAX_DEPTH)


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
        ValueError: It is no regular file, has more, or is not UTF-8.
        OSError: It cannot be read.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for, a device has no end
        raise ValueError("is not a regular file")
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
        return _BoundedLoader(text).get_single_data()
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())[:500]) from error


def parse_card(text: str) -> Any:
    """The settings at the head of a README.md, found as huggingface_hub finds them; None if there are none.

    Raises:
        ValueError: As of [`parse_yaml`].
    """
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    block = REGEX_YAML_BLOCK.search(text)
    return parse_yaml(block.group(2)) if block else None


class _BoundedLoader(yaml.SafeLoader):
    """PyYAML's safe loader with limits on levels and, since an alias repeats what it stands for, on values."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._level = 0
        self._sizes: dict[int, int] = {}  # values in each node, by its identity

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Composes a node as PyYAML does, and counts its levels and values."""
        self._level += 1
        if self._level > MAX_DEPTH:
            raise NestingError(MAX_DEPTH)
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
    import pyarrow.parquet as pq

    limits = {"thrift_string_size_limit": _THRIFT_STRINGS, "thrift_container_size_limit": _THRIFT_ELEMENTS}
    return pq.ParquetFile(source, **limits)


def features_of(schema: pa.Schema) -> Features:
    """The features of rows with an Arrow schema, from what `datasets` wrote into it or else from its types.

    Raises:
        ValueError: What `datasets` wrote is damaged, too large or nested too deeply.
    """
    from datasets import Features

    written = (schema.metadata or {}).get(b"huggingface", b"")
    if len(written) > MAX_FEATURES_BYTES:
        raise ValueError(f"its 'huggingface' metadata has more bytes than the limit of {MAX_FEATURES_BYTES:,}")
    if written:
        parse_json(written)
    try:
        return Features.from_arrow_schema(schema)
    except RecursionError:
        raise NestingError(MAX_DEPTH) from None
    except (TypeError, AttributeError, LookupError) as error:
        raise ValueError(f"its 'huggingface' metadata is damaged ({type(error).__name__}: {error})") from error
