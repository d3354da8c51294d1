"""Parses untrusted JSON, YAML and parquet with limits: a hostile file raises a one-line `ValueError`.

The whole package parses with these functions. Without them, a text of nothing but brackets raises a `RecursionError`,
a few YAML aliases expand to a list of billions, and a name of 50 MB becomes an error message of 50 MB.
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

# Levels of nested lists and objects. Recursive code walks and serializes the parsed values later.
MAX_DEPTH = 100
# Bytes of a JSON file that is read at once. Larger annotation files are read entry by entry.
MAX_JSON_BYTES = 512 * 2**20
# PyYAML reads about 100 kB per second.
MAX_YAML_BYTES = 2 * 2**20
# Values in a YAML text with all aliases expanded.
MAX_YAML_VALUES = 200_000
# Bytes of the metadata that `datasets` stores in a parquet schema: 20,000 class names take 500 kB.
MAX_FEATURES_BYTES = 16 * 2**20
# A JSON object, to be written or parsed from a file; the types of parsed values are unknown until they are checked.
JsonObject: TypeAlias = dict[str, Any]

_DECODER = json.JSONDecoder()
# Limits on parquet's own metadata: bytes of text, and elements of lists.
_THRIFT_STRINGS, _THRIFT_ELEMENTS = 64 * 2**20, 1_000_000


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: The text is not valid JSON, has a number of thousands of digits, or more than `MAX_DEPTH` levels.
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
    """The JSON value that starts at index `at` of a text, and the index of its end.

    Raises:
        json.JSONDecodeError: The value is not valid JSON, or incomplete.
        ValueError: As in [`parse_json`].
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
    """Turns garbage collection off: finalizers that run at the bottom of a deep recursion would exhaust the stack."""
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
        return  # nearly always: too few brackets to nest deeper
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
        ValueError: As in [`parse_json`]; or the file is not UTF-8, or has more than `MAX_JSON_BYTES` bytes.
        OSError: The file cannot be read.
    """
    return parse_json(read_text(path, MAX_JSON_BYTES))


def read_text(path: Path, limit: int) -> str:
    """The text of a UTF-8 file, without the byte order mark that some editors write.

    Args:
        path: The file.
        limit: The most bytes that the file may have.

    Raises:
        ValueError: The file is not a regular file, has more than `limit` bytes, or is not UTF-8.
        OSError: The file cannot be read.
    """
    if path.exists() and not path.is_file():  # reading a pipe would block, a device may never end
        raise ValueError("is not a regular file")
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"has more bytes than the limit of {limit:,}")
    return data.decode("utf-8-sig")


def parse_yaml(text: str) -> Any:
    """The value of a YAML text. Only plain types are built.

    Raises:
        ValueError: The text is not valid YAML, or has more than `MAX_YAML_BYTES` bytes, `MAX_DEPTH` levels, or
            `MAX_YAML_VALUES` values with all aliases expanded.
    """
    if len(text.encode("utf-8", "replace")) > MAX_YAML_BYTES:
        raise ValueError(f"has more bytes than the limit of {MAX_YAML_BYTES:,}")
    try:
        return _BoundedLoader(text).get_single_data()
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())[:500]) from error


def parse_card(text: str) -> Any:
    """The YAML metadata of a README.md, located as huggingface_hub does; None if there is no metadata.

    Raises:
        ValueError: As in [`parse_yaml`].
    """
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    block = REGEX_YAML_BLOCK.search(text)
    return parse_yaml(block.group(2)) if block else None


class _BoundedLoader(yaml.SafeLoader):
    """PyYAML's safe loader with limits on nesting and on values, counted with all aliases expanded."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._level = 0
        self._sizes: dict[int, int] = {}  # values in each node, by its `id()`

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
            raise ValueError("has an alias inside the value that it refers to: write the value out")
        return node

    def _size(self, node: Any) -> int:
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        children = [child for part in parts for child in (part if isinstance(part, tuple) else (part,))]
        size = 1 + sum(self._sizes[id(child)] for child in children)
        if size > MAX_YAML_VALUES:
            raise ValueError(f"has more values than the limit of {MAX_YAML_VALUES:,}, with all aliases expanded")
        return size


def open_parquet(source: str | os.PathLike[str] | BinaryIO) -> pq.ParquetFile:
    """Opens a parquet file, with limits on its metadata.

    Raises:
        OSError, pyarrow.ArrowInvalid: The file cannot be read, is not a parquet file, or exceeds a limit.
    """
    import pyarrow.parquet as pq

    limits = {"thrift_string_size_limit": _THRIFT_STRINGS, "thrift_container_size_limit": _THRIFT_ELEMENTS}
    return pq.ParquetFile(source, **limits)


def features_of(schema: pa.Schema) -> Features:
    """The features of an Arrow schema: from the metadata that `datasets` stored in it, or else from its types.

    Raises:
        ValueError: The metadata of `datasets` is damaged, too large or nested too deeply.
    """
    from datasets import Features

    metadata = (schema.metadata or {}).get(b"huggingface", b"")
    if len(metadata) > MAX_FEATURES_BYTES:
        raise ValueError(f"its 'huggingface' metadata has more bytes than the limit of {MAX_FEATURES_BYTES:,}")
    if metadata:
        parse_json(metadata)
    try:
        return Features.from_arrow_schema(schema)
    except RecursionError:
        raise NestingError(MAX_DEPTH) from None
    except (TypeError, AttributeError, LookupError) as error:
        raise ValueError(f"its 'huggingface' metadata is damaged ({type(error).__name__}: {error})") from error
