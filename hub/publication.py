"""What of a folder goes to the Hub, and what must not."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from huggingface_hub import DatasetCard, ModelCard, RepoFile
from PIL import Image

from vigc.errors import PushError
from vigc.processing.bounded_parsing import open_parquet, parse_card, read_json
from vigc.processing.images import HEIF_SUFFIXES, PICTURE_SUFFIXES
from vigc.processing.metadata import private_metadata

from .model_code import code_names, completed
from .selection import list_folder, select_files

CARD = "README.md"
_PLAN, _FINISHED = "_vigc/plan.json", "_vigc/finished.json"
# What readers of a dataset or model go through by pattern: a file of these that is gone here is gone there.
_OWNED = {
    "dataset": ("*.parquet", "_vigc/*", "quarantine/*", "report/*", "samples/*", "images/*"),
    "model": ("*.safetensors", "*.safetensors.index.json", "*_vigc.py"),
}


@dataclass(frozen=True)
class LocalFile:
    """A file to publish.

    Args:
        path: Where it lies.
        data: What is published in its place, where that differs.
    """

    path: Path
    data: bytes | None = None

    @property
    def size(self) -> int:
        """Bytes."""
        return self.path.stat().st_size if self.data is None else len(self.data)

    @cached_property
    def hashes(self) -> tuple[str, str]:
        """SHA-256 of the content, by which the Hub knows large files, and git's blob id, by which it knows others."""
        large, small = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        with io.BytesIO(self.data) if self.data is not None else self.path.open("rb") as file:
            while part := file.read(1 << 20):
                large.update(part)
                small.update(part)
        return large.hexdigest(), small.hexdigest()

    def equals(self, remote: RepoFile | None) -> bool:
        """Whether the Hub holds this content."""
        if remote is None or remote.size != self.size:
            return False
        return remote.lfs.sha256 == self.hashes[0] if remote.lfs else remote.blob_id == self.hashes[1]


@dataclass(frozen=True)
class Publication:
    """What a folder brings to the Hub.

    Args:
        kind: "model" or "dataset".
        files: By their path in the repository.
        left: Why each of the other files stays here, by name.
        licence: What the card states.
    """

    kind: str
    files: dict[str, LocalFile]
    left: dict[str, str] = field(default_factory=dict)
    licence: str | None = None

    @property
    def manifest(self) -> list[str]:
        """What says that the rest is there; uploaded last."""
        return [name for name in ("config.json", _PLAN, _FINISHED, CARD) if name in self.files]

    def owns(self, name: str) -> bool:
        """Whether a file of the repository that is not here would pass for part of this."""
        return name not in self.files and any(fnmatch(name, pattern) for pattern in _OWNED[self.kind])


def read_publication(
    folder: Path, repo_id: str, *, include: Sequence[str] = (), code: Callable[[], Mapping[str, str]] | None = None
) -> Publication:
    """What of a model or dataset folder goes to the Hub, its card as it reads there.

    Args:
        folder: The folder.
        repo_id: The repository, which the card's code names instead of the folder.
        include: Names or patterns of files that are published beyond what a model or dataset is made of.
        code: Gives the code of a VIGC model by file name, for a folder that has none.

    Raises:
        PushError: It is neither a model nor a dataset, not finished, has no card, links to files elsewhere, or holds a
            model that nobody could load.
    """
    if not folder.is_dir():
        raise PushError(f"{str(folder)!r} is not a folder: give one that holds a model or a dataset.")
    listing = list_folder(folder)
    kind = _kind(folder, listing.files)
    selection = select_files(listing, kind, include, code_names(listing.files) if kind == "model" else ())
    files = {name: LocalFile(path) for name, path in selection.files.items()}
    if _PLAN in files and not _same_job(folder):
        raise PushError(f"{str(folder)!r} is not finished: run the command that writes it again, then push.")
    if CARD not in files:
        raise PushError(f"{str(folder)!r} has no {CARD}: say in one what it is and under which licence.")
    if kind == "model":
        added = completed(selection.files, code)
        files |= {name: LocalFile(folder / name, data) for name, data in added.items()}
    text = _card_text(folder)
    try:
        parse_card(text)
    except ValueError as error:
        raise PushError(f"{CARD} of {str(folder)!r} has settings that cannot be read ({error}): correct it.") from error
    card = (ModelCard if kind == "model" else DatasetCard)(text, ignore_metadata_errors=True)
    files[CARD] = LocalFile(folder / CARD, card_on_hub(text, folder.resolve().name, repo_id).encode())
    return Publication(kind, files, selection.left, _one_licence(card.data.get("license")))


def card_on_hub(text: str, name: str, repo_id: str) -> str:
    """A card whose code names the repository instead of the folder (as it is called, or was when it was written)."""
    title = re.search(r"^# (.+)$", text, re.MULTILINE)
    for known in {name, re.sub(r"\\(.)", r"\1", title[1]) if title else name}:
        for written in (f'("{known}"', f'("./{known}"'):
            text = text.replace(written, f'("{repo_id}"')
    return text


def _card_text(folder: Path) -> str:
    try:
        return (folder / CARD).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PushError(f"{CARD} of {str(folder)!r} is not UTF-8 ({error}): write it again.") from error


def _one_licence(given: Any) -> str | None:
    return ", ".join(map(str, given)) if isinstance(given, list) else given


def _kind(folder: Path, names: Iterable[str]) -> str:
    listed = list(names)
    if "config.json" in listed and any(name.endswith(".safetensors") for name in listed):
        return "model"
    if any(name.endswith(".parquet") or name in (_PLAN, "conversations.json") for name in listed):
        return "dataset"
    raise PushError(
        f"{str(folder)!r} holds neither a model (config.json and *.safetensors) nor a dataset (*.parquet): give a "
        "folder that vigc wrote."
    )


def _same_job(folder: Path) -> bool:
    """Whether a job's mark of its end belongs to its plan."""
    try:
        plan, finished = (read_json(folder / name) for name in (_PLAN, _FINISHED))
        return bool(plan["fingerprint"] == finished["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def check_contents(publication: Publication, names: Iterable[str], *, allow_unknown_licence: bool) -> int:
    """Reads the rows and pictures among some files before they are published; returns how many rows there are.

    Raises:
        PushError: A picture still holds EXIF, GPS or the like; or a row's licence is unknown, unless that is allowed.
    """
    rows = 0
    if publication.kind == "dataset" and not allow_unknown_licence and _unknown(publication.licence):
        raise _unknown_licence(f"{CARD} states none")
    for name in names:
        file = publication.files[name]
        if name.endswith(".parquet"):
            rows += _check_rows(name, file.path, allow_unknown_licence)
        elif Path(name).suffix.lower() in PICTURE_SUFFIXES | HEIF_SUFFIXES:
            _check_picture(file.path.read_bytes(), name)
    return rows


def _unknown(licence: str | None) -> bool:
    return (licence or "").strip().lower() in ("", "unknown")


def _unknown_licence(where: str) -> PushError:
    return PushError(
        f"nobody has said under which licence this may be passed on ({where}): find out and state it (--license of "
        "`vigc generate`, or the card), or give --allow-unknown-licence."
    )


def _check_rows(name: str, path: Path, allow_unknown_licence: bool) -> int:
    try:
        with open_parquet(path) as file:
            pictures = [column.name for column in file.schema_arrow if _holds_pictures(column.type)]
            licence = "license" if "license" in file.schema_arrow.names else None
            columns = pictures + ([licence] if licence else [])
            at = 0
            for batch in file.iter_batches(64, columns=columns) if columns else ():
                for row in batch.to_pylist():
                    for column in pictures:
                        for picture in row[column] if isinstance(row[column], list) else [row[column]]:
                            _check_stored(picture, f"{name}, row {at}, column {column}")
                    if licence and not allow_unknown_licence and _unknown(row[licence]):
                        raise _unknown_licence(f"{name}, row {at}")
                    at += 1
            return file.metadata.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        raise PushError(f"{name} cannot be read ({' '.join(str(error).split())}): write it again.") from error


def _holds_pictures(kind: pa.DataType) -> bool:
    """Whether a column is of the `Image` feature, or of lists of it."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _holds_pictures(kind.value_type)
    return pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0


def _check_stored(picture: Any, where: str) -> None:
    if picture is None:
        return
    if picture["bytes"] is None:
        raise PushError(
            f"the picture at {where} is only named, by a path of this machine, which nobody else can open: write the "
            "dataset with --images embed."
        )
    _check_picture(picture["bytes"], where)


def _check_picture(data: bytes, where: str) -> None:
    try:
        found = private_metadata(data)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise PushError(f"the picture at {where} cannot be read ({error}): take it out.") from error
    if found:
        raise PushError(
            f"the picture at {where} still holds {found}, which may say where and when it was taken: write it without "
            "(`vigc generate` and `vigc correct` do)."
        )
