"""Where pictures come from: a list in a stable order, each with an id of its own."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from vigc.processing.images import PICTURE_SUFFIXES

from .errors import GenerationError


@dataclass(frozen=True, slots=True)
class Source:
    """One picture file.

    Args:
        path: Where it lies.
        name: Its path relative to the root, with "/" between the parts.
        image_id: The name without its suffix, or with it where two files would share one.
        refused: Why it must not be opened, if so.
    """

    path: Path
    name: str
    image_id: str
    refused: str | None = None


def list_images(images: Path) -> list[Source]:
    """All pictures under a folder, its sub-folders included, sorted by their names; or the one file given.

    Links to folders are not followed. A link to a file is, unless it leads out of the folder, into nothing, or in a
    circle: such a file is listed as refused.

    Raises:
        GenerationError: There is nothing at `images`, no picture in it, or a sub-folder that cannot be listed.
    """
    if images.is_file():
        return [Source(images, *_ids([images.name])[0])]
    if not images.is_dir():
        raise GenerationError(f"{str(images)!r} is neither a folder nor a file: give a folder of pictures.")
    root = images.resolve()
    names = sorted(
        (Path(folder) / file).relative_to(images).as_posix()
        for folder, _, files in os.walk(images, onerror=_refuse_folder)
        for file in files
        if Path(file).suffix.lower() in PICTURE_SUFFIXES
    )
    if not names:
        suffixes = ", ".join(sorted(PICTURE_SUFFIXES))
        raise GenerationError(f"{str(images)!r} holds no picture: no file there ends in {suffixes}.")
    return [Source(images / name, name, id_, _refusal(images / name, root)) for name, id_ in _ids(names)]


def _refuse_folder(error: OSError) -> NoReturn:
    # Left alone, os.walk would pass over what it cannot list, and its pictures would be missing without a word.
    raise GenerationError(
        f"The folder {error.filename!r} cannot be listed ({error.strerror}): make it readable."
    ) from error


def _refusal(path: Path, root: Path) -> str | None:
    if not path.is_symlink():
        return None
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        return f"is a link that leads nowhere ({type(error).__name__}): replace it by the file"
    return None if target.is_relative_to(root) else "is a link out of the folder: copy the file into it"


def _ids(names: list[str]) -> list[tuple[str, str]]:
    """Each name with its id: without suffix, unless that would be another file's name or id."""
    shown = [printable(name) for name in names]
    stems = [name[: -len(suffix)] if (suffix := Path(name).suffix) else name for name in shown]
    counts, taken = Counter(stems), set(shown)
    ids = [stem if counts[stem] == 1 and stem not in taken else name for name, stem in zip(shown, stems, strict=True)]
    return list(zip(names, ids, strict=True))


def printable(name: str) -> str:
    r"""A file name as valid Unicode: bytes that are not are written as `\xff`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
