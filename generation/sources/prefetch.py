"""Opens and prepares images in the background while the model generates."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any, TypeVar

from vigc.errors import ImageDataError, ImageError, ImagePathError, NoImageError, TransientError, is_transient
from vigc.processing.bounded_parsing import JsonObject
from vigc.processing.confined_paths import is_file_name, shown
from vigc.processing.digest import file_digest
from vigc.processing.images import MAX_BYTES
from vigc.processing.rows import ImageCell

from .base import Collection, DraftPair, Source

T = TypeVar("T")

_THREADS = min(4, os.cpu_count() or 1)
_BATCHES_AHEAD = 2


@dataclass(slots=True)
class Item:
    """An opened input.

    Args:
        source: The input.
        digest: SHA-256 of the file.
        image: The `image` column of its rows.
        prepared: The prepared image, until its batch is encoded; None for an input without image.
        same: Names of exact copies, which are not processed again.
    """

    source: Source
    digest: str
    image: ImageCell | None = None
    prepared: Any = None
    same: list[str] = field(default_factory=list)


class Loader:
    """Opens the inputs of a shard and forms batches from them.

    Args:
        collection: Opens images.
        prepare: Prepares an image for the model; raises a ValueError for an unsupported one.
        batch_size: Number of inputs per batch.
        embed: Whether rows contain the image or its path.
    """

    def __init__(
        self, collection: Collection, prepare: Callable[[Any], Any], batch_size: int, embed: bool = True
    ) -> None:
        self.collection, self.prepare, self.batch_size, self.embed = collection, prepare, batch_size, embed
        self._read: Source | None = None  # the last readable input

    def batches(self, sources: Sequence[Source], skipped: list[JsonObject]) -> Iterator[list[Item]]:
        """Yields batches of inputs in order, without skipped ones and copies of earlier ones.

        Args:
            sources: The shard's inputs.
            skipped: Receives the records of inputs that cannot be opened.
        """
        return ahead(self._batches(sources, skipped), _BATCHES_AHEAD)

    def _batches(self, sources: Sequence[Source], skipped: list[JsonObject]) -> Iterator[list[Item]]:
        known: dict[str, Item] = {}
        batch: list[Item] = []
        for found in self._in_order(sources):
            if not isinstance(found, Item):
                skipped.append(found)
            elif found.source.pairs is None and (first := known.get(found.digest)) is not None:
                first.same += [found.source.name, *found.same]
            else:
                known[found.digest] = found
                batch.append(found)
            if len(batch) == self.batch_size:
                yield batch
                batch = []
        if batch:
            yield batch

    def _in_order(self, sources: Sequence[Source]) -> Iterator[Item | JsonObject]:
        window: deque[Future[Item | JsonObject]] = deque()
        with ThreadPoolExecutor(_THREADS) as threads:
            try:
                for source in sources:
                    window.append(threads.submit(self.load, source))
                    if len(window) > 2 * _THREADS:
                        yield window.popleft().result()
                while window:
                    yield window.popleft().result()
            finally:
                for waiting in window:
                    waiting.cancel()

    def load(self, source: Source) -> Item | JsonObject:
        """Opens and prepares an input; returns a record with the reason if it is skipped.

        Raises:
            TransientError: Disk, memory or network is unavailable.
        """
        if source.pairs is not None and source.name == "":
            return Item(source, "")
        try:
            picture = self.collection.open(source)
            self._read = source
            image: ImageCell = {"bytes": picture.data, "path": None} if self.embed else self._path(source)
            return Item(
                source,
                hashlib.sha256(picture.original).hexdigest(),
                image,
                self._prepared(picture.image, source),
                list(source.same or ()),
            )
        except NoImageError as error:
            if source.pairs is not None:
                return Item(source, "")
            return self._skipped(source, error)
        except (ImageError, MemoryError, OSError) as error:
            check_machine(self.collection, source, error, self._read)
            if not isinstance(error, ImageError):
                raise
            return self._skipped(source, error)

    def _prepared(self, image: Any, source: Source) -> Any:
        try:
            return self.prepare(image)
        except ValueError as error:  # the processor cannot resize an image of this shape
            raise ImageDataError(source.name, f"cannot be prepared for the model ({error})") from error

    def _path(self, source: Source) -> ImageCell:
        path = self.collection.locate(source)
        if path is None:
            raise ImagePathError(source.name, "is no file, so rows cannot hold its path: use --images embed")
        if any("\udc80" <= char <= "\udcff" for char in path):
            raise ImagePathError(source.name, "has a path that is no Unicode, which no row can hold: rename the file")
        return {"bytes": None, "path": path}

    def _skipped(self, source: Source, error: ImageError) -> JsonObject:
        return {
            "kind": "image",
            "path": source.name,
            "image_id": source.image_id,
            "sha256": self._digest(source, error),
            "reason": error.reason,
            "exception": type(error.__cause__ or error).__name__,
            **({"same": source.same} if source.same else {}),
            **(_of_conversation(source.pairs) if source.pairs else {}),
        }

    def _digest(self, source: Source, error: ImageError) -> str | None:
        """The hash of a skipped file, if it may be read and is not too large."""
        if source.refused is not None or isinstance(error, ImagePathError) or not is_file_name(source.name):
            return None
        path = self.collection.locate(source)
        return file_digest(Path(path), MAX_BYTES) if path is not None else None


def _of_conversation(pairs: list[DraftPair]) -> JsonObject:
    """The conversation that is skipped with an image, and the number of its texts."""
    return {"conversation_id": pairs[0].get("conversation_id"), "pairs": len(pairs)}


def check_machine(collection: Collection, source: Source, error: BaseException, before: Source | None = None) -> None:
    """Raises a `TransientError` if opening an input failed because of the system and not of the input.

    Args:
        collection: The collection of the input.
        source: The input.
        error: The error of opening it.
        before: An input that was readable before; if it is missing too, the storage is unavailable.

    Raises:
        TransientError: The disk is full, or a share is not mounted.
    """
    if isinstance(error, MemoryError):  # has no message
        raise TransientError(
            f"Not enough memory for image {shown(source.name)!r}: free some and run the same command again."
        ) from error
    if is_transient(error) or is_transient(error.__cause__):
        raise TransientError(f"{error}: run the same command again later.") from error
    missing = isinstance(error.__cause__, FileNotFoundError)
    path = collection.locate(before) if missing and before is not None else None
    gone = not source.absent and not collection.is_there(source)
    if gone or (path is not None and not os.path.exists(path)):
        raise TransientError(
            f"{error}, and the folder of the images is missing or empty: run the same command again when it is back, "
            "or delete the empty folder if nothing belongs there any more."
        ) from error


@dataclass(frozen=True, slots=True)
class _Failure:
    error: BaseException


_END = object()


def ahead(items: Iterable[T], size: int) -> Iterator[T]:
    """Yields items that a thread makes up to `size` items ahead.

    An error in the thread is raised here. The thread stops if the caller stops early.
    """
    ready: Queue[Any] = Queue(size)
    stopped = threading.Event()

    def put(item: Any) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except Full:
                continue
        return False

    def feed() -> None:
        try:
            for item in items:
                if not put(item):
                    return
            put(_END)
        except BaseException as error:
            put(_Failure(error))
        finally:
            if hasattr(items, "close"):
                items.close()

    thread = threading.Thread(target=feed, name="vigc-loading", daemon=True)
    thread.start()
    try:
        while True:
            try:
                item = ready.get(timeout=0.5)
            except Empty:  # wait in steps, so that an interrupt is noticed
                continue
            if item is _END:
                return
            if isinstance(item, _Failure):
                raise item.error
            yield item
    finally:
        stopped.set()
        thread.join()
