"""The hash pass: hashes all images and caches the hashes in parts, so that it can be resumed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from vigc.errors import ImageError
from vigc.generation.sources.base import Collection, Source
from vigc.generation.sources.prefetch import check_machine
from vigc.jobs import ledger
from vigc.jobs.canonical import fingerprint
from vigc.jobs.progress import Progress
from vigc.processing.bounded_parsing import parse_json
from vigc.processing.confined_paths import shown
from vigc.processing.digest import file_digest
from vigc.processing.images import MAX_BYTES

_PIECE = 512
_THREADS = min(8, os.cpu_count() or 1)

# SHA-256 of the file and its perceptual hash; None if it cannot be opened (or was not requested).
Hashes = tuple[str | None, int | None]


def hashed(
    place: Path, collection: Collection, sources: Iterator[Source], *, looks: bool
) -> Iterator[tuple[Source, Hashes]]:
    """Yields each input with its hashes, which are cached until its file or its dataset changes.

    Args:
        place: The cache folder.
        collection: Opens the inputs.
        sources: The inputs.
        looks: Whether to compute perceptual hashes too, which decodes each image.
    """
    number, of = 0, fingerprint({"name": collection.name, **collection.facts})
    with (
        Progress("images", None, label="hashes") as progress,
        ThreadPoolExecutor(_THREADS) as threads,
    ):
        while piece := list(islice(sources, _PIECE)):
            path = place / f"part-{number:05d}.jsonl"
            keys = [_stamp(collection, source) for source in piece]
            hashes = _kept(path, of, keys, looks)
            if hashes is None:
                hashes = list(threads.map(lambda source: _hash(collection, source, looks), piece))
                head = json.dumps({"of": of, "looks": looks})
                lines = [json.dumps([key, *pair]) for key, pair in zip(keys, hashes, strict=True)]
                ledger.atomic_write(path, "\n".join([head, *lines, ""]).encode())
            yield from zip(piece, hashes, strict=True)
            progress.add(len(piece))
            number += 1


def _stamp(collection: Collection, source: Source) -> list[str | int | list[int] | None]:
    """A cache key of an input: values that change with it and need no reading of the file."""
    try:
        path = collection.locate(source)
        if path is None:
            return [source.name, source.where]
        status = os.stat(path)
    except (OSError, ValueError):  # its hashes are None; the worker reports the reason later
        return [source.name, None]
    return [source.name, status.st_size, status.st_mtime_ns]


def _kept(path: Path, of: str, keys: Sequence[list[str | int | list[int] | None]], looks: bool) -> list[Hashes] | None:
    try:
        head, *lines = path.read_text(encoding="utf-8").splitlines()
        rows = [parse_json(line) for line in lines]
        made = parse_json(head)
        known = made["of"] == of and (made["looks"] or not looks)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):  # damaged: hashed again
        return None
    if not known or [row[0] for row in rows] != list(keys):
        return None
    return [(row[1], row[2]) for row in rows]


def _hash(collection: Collection, source: Source, looks: bool) -> Hashes:
    try:
        if not looks and (path := collection.locate(source)) is not None and source.refused is None:
            if (digest := file_digest(Path(path), MAX_BYTES)) is None:
                raise ImageError(shown(source.name), "cannot be read, or is too large")
            return digest, None
        picture = collection.open(source)
    except (ImageError, OSError) as error:
        check_machine(collection, source, error)
        return None, None
    digest = hashlib.sha256(picture.original).hexdigest()
    return digest, perceptual_hash(picture.image) if looks else None


def perceptual_hash(image: Any) -> int:
    """A perceptual hash (DCT) of an image, 64 bits, independent of its size."""
    import imagehash  # imports scipy, which is slow

    return int(str(imagehash.phash(image)), 16)
