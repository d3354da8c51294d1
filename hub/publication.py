"""Determines the files of a folder to publish on the Hub, and checks their content."""

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
# Files that readers find by pattern. A remote file that matches, but no longer exists locally, is deleted.
_OWNED = {
    "dataset": ("*.parquet", "_vigc/*", "quarantine/*", "report/*", "samples/*", "images/*"),
    "model": ("*.safetensors", "*.safetensors.index.json", "*_vigc.py"),
}


@dataclass(frozen=True)
class LocalFile:
    """A file to publish.

    Args:
        path: The local path.
        data: The content to publish, if it differs from that of the file.
    """

    path: Path
    data: bytes | None = None

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self.path.stat().st_size if self.data is None else len(self.data)

    @cached_property
    def hashes(self) -> tuple[str, str]:
        """SHA-256 of the content, which the Hub reports for large files, and git's blob id, for all other files."""
        large, small = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        with io.BytesIO(self.data) if self.data is not None else self.path.open("rb") as file:
            while part := file.read(1 << 20):
                large.update(part)
                small.update(part)
        return large.hexdigest(), small.hexdigest()

    def equals(self, remote: RepoFile | None) -> bool:
        """Whether a file on the Hub has the same content."""
        if remote is None or remote.size != self.size:
            return False
        return remote.lfs.sha256 == self.hashes[0] if remote.lfs else remote.blob_id == self.hashes[1]


@dataclass(frozen=True)
class Publication:
    """The files of a folder to publish.

    Args:
        kind: "model" or "dataset".
        files: The files by their path in the repository.
        left: Why each of the other files is not published, by name.
        licence: The licence on the card.
    """

    kind: str
    files: dict[str, LocalFile]
    left: dict[str, str] = field(default_factory=dict)
    licence: str | None = None

    @property
    def manifest(self) -> list[str]:
        """The files that show that the upload is complete. They are uploaded last."""
        return [name for name in ("config.json", _PLAN, _FINISHED, CARD) if name in self.files]

    def owns(self, name: str) -> bool:
        """Whether a file of the repository is stale: readers would take it for a part of this folder."""
        return name not in self.files and any(fnmatch(name, pattern) for pattern in _OWNED[self.kind])


def read_publication(
    folder: Path, repo_id: str, *, include: Sequence[str] = (), code: Callable[[], Mapping[str, str]] | None = None
) -> Publication:
    """The files of a model or dataset folder to publish, with the card adapted to the Hub.

    Args:
        folder: The folder.
        repo_id: The repository. It replaces the folder's name in the card's code.
        include: Names or patterns of files to publish besides those of a model or dataset.
        code: Returns the code of a VIGC model by file name, for a folder without code.

    Raises:
        PushError: The folder is neither a model nor a dataset, is not finished, has no card, links to files elsewhere,
            or has a model that could not be loaded.
    """
    if not folder.is_dir():
        raise PushError(f"{str(folder)!r} is not a folder: give the folder of a model or a dataset.")
    listing = list_folder(folder)
    kind = _kind(folder, listing.files)
    selection = select_files(listing, kind, include, code_names(listing.files) if kind == "model" else ())
    files = {name: LocalFile(path) for name, path in selection.files.items()}
    if _PLAN in files and not _same_job(folder):
        raise PushError(f"{str(folder)!r} is not finished: run the command that writes it again, then push.")
    if CARD not in files:
        raise PushError(f"{str(folder)!r} has no {CARD}: write one that states what it is and its licence.")
    if kind == "model":
        added = completed(selection.files, code)
        files |= {name: LocalFile(folder / name, data) for name, data in added.items()}
    text = _card_text(folder)
    try:
        parse_card(text)
    except ValueError as error:
        raise PushError(f"{CARD} of {str(folder)!r} has metadata that cannot be read ({error}): correct it.") from error
    card = (ModelCard if kind == "model" else DatasetCard)(text, ignore_metadata_errors=True)
    files[CARD] = LocalFile(folder / CARD, card_on_hub(text, folder.resolve().name, repo_id).encode())
    return Publication(kind, files, selection.left, _one_licence(card.data.get("license")))


def card_on_hub(text: str, name: str, repo_id: str) -> str:
    """The card's text, with the repository instead of the folder (by its current or original name) in code."""
    title = re.search(r"^# (.+)$", text, re.MULTILINE)
    for known in {name, re.sub(r"\\(.)", r"\1", title[1]) if title else name}:
        for call in (f'("{known}"', f'("./{known}"'):
            text = text.replace(call, f'("{repo_id}"')
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
        f"{str(folder)!r} has neither a model (config.json and *.safetensors) nor a dataset (*.parquet): give a "
        "folder that vigc wrote."
    )


def _same_job(folder: Path) -> bool:
    """Whether a job is finished: the file that marks its end belongs to its plan."""
    try:
        plan, finished = (read_json(folder / name) for name in (_PLAN, _FINISHED))
        return bool(plan["fingerprint"] == finished["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def check_contents(publication: Publication, names: Iterable[str], *, allow_unknown_licence: bool) -> int:
    """Checks the rows and images in some files before they are published; returns the number of rows.

    Raises:
        PushError: An image has private metadata (EXIF, GPS, ...); or a licence is unknown and that is not allowed.
    """
    rows = 0
    if publication.kind == "dataset" and not allow_unknown_licence and _unknown(publication.licence):
        raise _unknown_licence(f"{CARD} has none")
    for name in names:
        file = publication.files[name]
        if name.endswith(".parquet"):
            rows += _check_rows(name, file.path, allow_unknown_licence)
        elif Path(name).suffix.lower() in PICTURE_SUFFIXES | HEIF_SUFFIXES:
            _check_image(file.path.read_bytes(), name)
    return rows


def _unknown(licence: str | None) -> bool:
    return (licence or "").strip().lower() in ("", "unknown")


def _unknown_licence(where: str) -> PushError:
    return PushError(
        f"the licence is unknown ({where}): find it out and state it (--license of `vigc generate`, or the card), or "
        "give --allow-unknown-licence."
    )


def _check_rows(name: str, path: Path, allow_unknown_licence: bool) -> int:
    try:
        with open_parquet(path) as file:
            images = [column.name for column in file.schema_arrow if _holds_images(column.type)]
            licence = "license" if "license" in file.schema_arrow.names else None
            columns = images + ([licence] if licence else [])
            at = 0
            for batch in file.iter_batches(64, columns=columns) if columns else ():
                for row in batch.to_pylist():
                    for column in images:
                        for image in row[column] if isinstance(row[column], list) else [row[column]]:
                            _check_stored(image, f"{name}, row {at}, column {column}")
                    if licence and not allow_unknown_licence and _unknown(row[licence]):
                        raise _unknown_licence(f"{name}, row {at}")
                    at += 1
            return file.metadata.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        raise PushError(f"{name} cannot be read ({' '.join(str(error).split())}): write it again.") from error


def _holds_images(kind: pa.DataType) -> bool:
    """Whether a column has the `Image` feature, or lists of it."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _holds_images(kind.value_type)
    return pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0


def _check_stored(image: Any, where: str) -> None:
    if image is None:
        return
    if image["bytes"] is None:
        raise PushError(
            f"the image at {where} is only a local path, which others cannot open: write the dataset with --images "
            "embed."
        )
    _check_image(image["bytes"], where)


def _check_image(data: bytes, where: str) -> None:
    try:
        found = private_metadata(data)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise PushError(f"the image at {where} cannot be read ({error}): remove it.") from error
    if found:
        raise PushError(
            f"the image at {where} still has {found} metadata, which may reveal where and when it was taken: remove it "
            "(`vigc generate` and `vigc correct` do)."
        )
