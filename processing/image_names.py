"""Image names as tools write them into annotations: with backslashes, percent codes and query strings.

Nothing here accesses the disk. The caller checks that each spelling, decoded ones included, stays under the image
folder: decode first, then confine.
"""

from __future__ import annotations

import posixpath
import re
from urllib.parse import unquote, urlsplit

from .images import PICTURE_SUFFIXES

# No system opens a longer name (PATH_MAX of Linux, in bytes), and few servers accept a longer URL.
MAX_NAME = 4_096
_MARKS = re.compile(r"[\\%?]")


def spellings(name: str) -> tuple[str, ...]:
    r"""The names that a file may have on disk, likeliest first: the given name, then decoded ones.

    `train\a%20b.jpg?width=640` may have that name, or `train/a%20b.jpg?width=640`, `train/a%20b.jpg`, `train/a b.jpg`.
    """
    if not _MARKS.search(name):
        return (name,)
    slashed = name.replace("\\", "/")
    bare = slashed.partition("?")[0]
    decoded = (unquote(one).replace("\\", "/") for one in (slashed, bare))
    return tuple(dict.fromkeys(filter(None, (name, slashed, bare, *decoded))))


def name_for_id(name: str) -> str:
    """The name that an id is made from: "/" as separator, and without a query string after an image suffix."""
    if not _MARKS.search(name):
        return name
    slashed = name.replace("\\", "/")
    bare, found, _ = slashed.partition("?")
    return bare if found and posixpath.splitext(bare)[1].lower() in PICTURE_SUFFIXES else slashed


def names_in_address(address: str) -> tuple[str, ...]:
    """Names under an image folder that the file of a URL may have: as COCO's archives unpack, or the bare file name."""
    try:
        parts = [part for part in urlsplit(address).path.split("/") if part]
    except ValueError:
        return ()
    if not parts:
        return ()
    file = parts[-1]
    return tuple(dict.fromkeys(("/".join(parts[-2:]), file, f"train2017/{file}", f"val2017/{file}")))


def unusable(name: str) -> str | None:
    """Why a name can be neither a file name nor a URL; None if it can be one."""
    if name[:5].lower() == "data:":
        return "is the image itself (a data URI), not a file name: write it to a file and name that"
    # Others refuse names with surrogates; only the length is checked here.
    if len(name) > MAX_NAME or len(name.encode("utf-8", "replace")) > MAX_NAME:
        return f"has {len(name):,} characters, more than a file name can have: correct the annotation"
    return None
