"""What a job is about: its inputs, cut into shards, and everything that decides what it writes."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from vigc.errors import ConflictError, GenerationError, ImageError, NoImageError, TransientError, is_transient
from vigc.generation.filters.exclusion import ExcludedIds, ExcludedPictures, keys_of
from vigc.generation.filters.hashing import hashed
from vigc.generation.sources.base import Collection, Source
from vigc.generation.sources.empty_folders import EmptyFolders
from vigc.jobs import ledger
from vigc.processing.bounded_parsing import parse_json

_VERSION = 2
# So many are tried, or up to twice as many: enough to tell pictures from something else. Broken ones are told apart
# later, one by one.
_TRIED = 200


@dataclass
class Selection:
    """Which inputs a job takes.

    Args:
        collection: Where they come from.
        exclude_ids: Files that list what is left out.
        exclude_images: Folders of pictures; what looks like one of them is left out.
        dedup: Whether exact copies are found over the whole job, and not only inside a shard.
        limit: Only the first so many of what is left.
        shard_size: How many make a shard.

    Attributes:
        tried: Some of what was listed last, at even distances: what [`check_readable`] opens.
        uncompared: By folder of pictures to leave out: how many files of it cannot be read, and the names of some.
        empty_folders: Sub-folders with nothing in them that inputs should be in, when the job was begun.
    """

    collection: Collection
    exclude_ids: Sequence[Path] = ()
    exclude_images: Sequence[Path] = ()
    dedup: bool = False
    limit: int | None = None
    shard_size: int = 256
    listed: int = 0
    taken: int = 0
    copies: int = 0
    excluded: list[tuple[str, str, str]] = field(default_factory=list)
    tried: list[Source] = field(default_factory=list)
    uncompared: dict[str, dict[str, Any]] = field(default_factory=dict)
    empty_folders: list[str] = field(default_factory=list)
    _beside: dict[str, int] = field(default_factory=dict, init=False)

    def sources(self, folder: Path) -> Iterator[Source]:
        """The inputs that are left; hashes are kept in `folder`."""
        self.listed = self.taken = self.copies = 0
        self.excluded, self.tried, step = [], [], 1
        empty = EmptyFolders(folder, self.collection)
        sources: Iterator[Source] = map(empty.mark, self._listed())
        if self.exclude_ids:
            sources = self._without_ids(sources, [ExcludedIds(path) for path in self.exclude_ids])
        if self.exclude_images or self.dedup:
            sources = self._by_content(sources, folder)
        for source in islice(sources, self.limit):
            if self.taken % step == 0:
                if len(self.tried) == 2 * _TRIED:
                    del self.tried[1::2]
                    step *= 2
                self.tried.append(replace(source, boxes=None))
            self.taken += 1
            yield source
        self.empty_folders = empty.names

    @property
    def unlisted(self) -> dict[str, int]:
        """What lay beside the inputs, and beside the pictures to leave out, and is none of them, in words."""
        return self.collection.unlisted | self._beside

    def _listed(self) -> Iterator[Source]:
        for source in self.collection:
            again = len(source.same or ())
            self.listed += 1 + again
            self.copies += again
            yield source

    def _without_ids(self, sources: Iterator[Source], lists: list[ExcludedIds]) -> Iterator[Source]:
        for source in sources:
            keys = keys_of(source)
            reason = next(filter(None, (given.reason(keys) for given in lists)), None)
            if reason is None:
                yield source
            else:
                self._exclude(source, reason)

    def _by_content(self, sources: Iterator[Source], folder: Path) -> Iterator[Source]:
        hashes = folder / ledger.HASHES
        pictures = [ExcludedPictures(path, hashes) for path in self.exclude_images]
        self.uncompared = {given.name: given.uncompared for given in pictures if given.unreadable}
        self._beside = {what: count for given in pictures for what, count in given.unlisted.items()}
        first: dict[str, int] = {}
        kept: list[Source] = []
        same: dict[int, list[str]] = {}
        for source, (digest, look) in hashed(hashes, self.collection, sources, looks=bool(pictures)):
            reason = next(filter(None, (given.reason(look) for given in pictures)), None)
            if reason is not None:
                self._exclude(source, reason)
            elif self.dedup and digest is not None and digest in first:
                same.setdefault(first[digest], []).extend([source.name, *(source.same or ())])
                self.copies += 1
            else:
                if digest is not None:
                    first[digest] = len(kept)
                kept.append(source)
        for place, source in enumerate(kept):
            yield replace(source, same=[*(source.same or ()), *same[place]]) if place in same else source

    def _exclude(self, source: Source, reason: str) -> None:
        self.excluded.append((source.name, source.image_id, reason))

    def facts(self) -> dict[str, Any]:
        """What enters the plan: figures, and which lists and folders were used."""
        by = Counter(in_general(reason) for _, _, reason in self.excluded)
        return {
            "listed": self.listed,
            "taken": self.taken,
            "copies": self.copies,
            "compared": sorted({Path(path).name for path in (*self.exclude_ids, *self.exclude_images)}),
            "excluded": dict(sorted(by.items())),
            **({"uncompared": self.uncompared} if self.uncompared else {}),
        }


def in_general(reason: str) -> str:
    """A reason without the single picture that it names."""
    return f"looks like a picture in {reason.rsplit(' in ', 1)[1]}" if reason.startswith("looks like ") else reason


def make_plan(
    kind: str,
    configuration: dict[str, Any],
    *,
    settings: dict[str, Any],
    source: str,
    license: str,
    job: dict[str, Any],
    notice: str | None = None,
) -> dict[str, Any]:
    """A plan without its inputs.

    Args:
        kind: "generate" or "correct".
        configuration: All that decides what is written about a picture; its hash is part of every row.
        settings: The decoding and `iqf_*` settings that were given.
        source: Where the inputs come from.
        license: Of inputs that do not say.
        job: What else decides what the folder holds: sizes of batches and shards, how pictures are stored, ...
        notice: What readers must know first; see [`notice_of`].
    """
    return {
        "version": _VERSION,
        "kind": kind,
        "configuration": configuration,
        "config_hash": ledger.fingerprint(configuration),
        "settings": settings,
        "source": source,
        "license": license,
        "job": job,
        **({"notice": notice} if notice else {}),
    }


def complete_plan(folder: Path, plan: dict[str, Any], selection: Selection, *, write: bool) -> dict[str, Any]:
    """The plan with its inputs and its fingerprint; with `write` both lists of inputs are written to the folder."""
    digest, shards = hashlib.sha256(), 0

    def lines() -> Iterator[bytes]:
        nonlocal shards
        for line in _lines(selection, folder):
            digest.update(line)
            shards += 1
            yield line

    if write:
        ledger.atomic_write(folder / ledger.INPUTS, lines())
        ledger.write_empty_folders(folder, selection.empty_folders)
        if selection.excluded:
            ledger.atomic_write(folder / ledger.EXCLUDED, _excluded_lines(selection.excluded))
        else:  # a job that left out something may have been killed here before it had a plan
            (folder / ledger.EXCLUDED).unlink(missing_ok=True)
    else:
        for _ in lines():
            pass
    if not selection.taken:
        raise GenerationError(f"Nothing is left of {selection.listed} inputs: exclude less.")
    inputs = {**selection.facts(), "shards": shards, "sha256": digest.hexdigest()}
    plan = {**plan, "inputs": inputs}
    return {**plan, "fingerprint": ledger.fingerprint(plan)}


def _lines(selection: Selection, folder: Path) -> Iterator[bytes]:
    sources = selection.sources(folder)
    while shard := [source.to_record() for source in islice(sources, selection.shard_size)]:
        yield f"{json.dumps(shard, ensure_ascii=True)}\n".encode()


def excluded_digest(selection: Selection) -> str:
    """SHA-256 of the list of what was left out, in hexadecimal digits."""
    digest = hashlib.sha256()
    for line in _excluded_lines(selection.excluded):
        digest.update(line)
    return digest.hexdigest()


def _excluded_lines(excluded: Iterable[tuple[str, str, str]]) -> Iterator[bytes]:
    for name, image_id, reason in excluded:
        record = {"path": name, "image_id": image_id, "reason": reason}
        yield f"{json.dumps(record, ensure_ascii=True)}\n".encode()


def check_readable(selection: Selection) -> None:
    """Makes sure, before a model is loaded or anything replaced, that there is a picture to work on.

    What was listed last is tried here and there. Texts without a picture, which are passed on, say nothing of pictures;
    beside them, entries that cannot be read do not either.
    """
    reasons: list[str] = []
    refused: list[str] = []
    texts = False
    for source in selection.tried:
        if source.pairs is not None and not source.name:
            texts = True
            continue
        try:
            selection.collection.open(source)
            return
        except ImageError as error:
            if is_transient(error.__cause__):
                raise TransientError(f"{error}: run the same command again later.") from error
            if source.pairs is not None and isinstance(error, NoImageError):
                texts = True
            else:
                (reasons if source.refused is None else refused).append(str(error))
    if not texts:
        reasons += refused
    if not reasons:
        return
    more = f" (and {len(reasons) - 3} more)" if len(reasons) > 3 else ""
    raise GenerationError(f"None of {len(reasons)} pictures can be read: {'; '.join(reasons[:3])}{more}.")


def check_same(folder: Path, plan: dict[str, Any], sources: Iterable[Source]) -> None:
    """Raises a `ConflictError` with the difference, if the folder's plan or a finished shard is of another job.

    Args:
        folder: The dataset folder.
        plan: Of the job that is asked for.
        sources: Its inputs, which are only listed again where they are the difference.
    """
    old: dict[str, Any] | None = None
    with suppress(GenerationError):  # damaged: made again, unless shards tell of another job
        found = ledger.read_plan(folder)
        old = found if ledger.is_whole(found) else None
    if old is not None and old.get("fingerprint") != plan["fingerprint"]:
        differences = _differences(old, plan)
        if not differences and old.get("inputs", {}).get("sha256") != plan["inputs"]["sha256"]:
            differences = [_changed_input(folder, sources)]
        listed = "; ".join(differences) or "it was made by another version of vigc"
        raise _conflict(folder, listed)
    others = [record.shard for record in ledger.shard_records(folder) if record.fingerprint != plan["fingerprint"]]
    if others:
        raise _conflict(folder, f"its shard {others[0]} was made by another plan")


def _conflict(folder: Path, difference: str) -> ConflictError:
    return ConflictError(
        f"{str(folder)!r} holds a dataset made otherwise: {difference}. Take the same settings to go on, give "
        "--overwrite to replace it, or another folder."
    )


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What differs between two plans, in words."""
    before, after = _flat(old), _flat(new)
    hashes = ("fingerprint", "config_hash", "inputs.sha256")
    found = []
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name) and name not in hashes:
            shown = name.split(".", 1)[1] if name.startswith(("configuration.", "job.")) else name
            found.append(f"{shown} was {_short(before.get(name))}, now {_short(after.get(name))}")
    return found


def _changed_input(folder: Path, sources: Iterable[Source]) -> str:
    """The first input that is not as the folder's list has it, in words."""
    with suppress(OSError, ValueError):  # the list is lost or torn
        inputs = ledger.Inputs(folder / ledger.INPUTS)
        listed = (record for shard in range(len(inputs)) for record in inputs[shard])
        for before, source in zip(listed, sources, strict=False):
            now = parse_json(json.dumps(source.to_record()))
            if before != now and before["name"] != now["name"]:
                return f"where {_short(before['name'])} was among the inputs is now {_short(now['name'])}"
            for name in sorted(before.keys() | now.keys()):
                if before.get(name) != now.get(name):
                    what = f"the {name} of {_short(now['name'])}"
                    return f"{what} was {_short(before.get(name))}, now {_short(now.get(name))}"
    return "the list of inputs changed (other names, order or annotations)"


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{name}.{key}" if name else str(key))
    return flat


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 60 else f"{text[:57]}..."
