"""Names of pictures as tools write them into annotations: with backslashes, percent codes, and what follows a "?".

Nothing here asks the disk. Each spelling must be checked to stay under the folder of the pictures, the decoded ones
too: decode first, then confine.
"""

from __future__ import annotations

import posixpath
import re
from urllib.parse import unquote, urlsplit

from .images import PICTURE_SUFFIXES

# No system opens a longer name (PATH_MAX of Linux, in bytes), and few servers a longer address.
MAX_NAME = 4_096
_MARKS = re.compile(r"[\\%?]")


def spellings(name: str) -> tuple[str, ...]:
    r"""The names that a file may have on disk, likeliest first: as it is written, then decoded.

    `train\a%20b.jpg?width=640` may be that, `train/a%20b.jpg?width=640`, `train/a%20b.jpg`, or `train/a b.jpg`.
    """
    if not _MARKS.search(name):
        return (name,)
    slashed = name.replace("\\", "/")
    bare = slashed.partition("?")[0]
    decoded = (unquote(one).replace("\\", "/") for one in (slashed, bare))
    return tuple(dict.fromkeys(filter(None, (name, slashed, bare, *decoded))))


def name_for_id(name: str) -> str:
    """The name that an id is made of: "/" between its parts, and without a query behind the suffix of a picture."""
    if not _MARKS.search(name):
        return name
    slashed = name.replace("\\", "/")
    bare, found, _ = slashed.partition("?")
    return bare if found and posixpath.splitext(bare)[1].lower() in PICTURE_SUFFIXES else slashed


def names_in_address(address: str) -> tuple[str, ...]:
    """Names that the file of an address may have under a folder of pictures: as COCO's archives unpack, or alone."""
    try:
        parts = [part for part in urlsplit(address).path.split("/") if part]
    except ValueError:
        return ()
    if not parts:
        return ()
    file = parts[-1]
    return tuple(dict.fromkeys(("/".join(parts[-2:]), file, f"train2017/{file}", f"val2017/{file}")))


def unusable(name: str) -> str | None:
    """Why no file can have such a name and no server such an address, or None."""
    if name[:5].lower() == "data:":
        return "is the picture itself (a data URI), not the name of a file: write it to a file and name that"
    # A name in surrogates or half characters is refused by others; here only its length counts.
    if len(name) > MAX_NAME or len(name.encode("utf-8", "replace")) > MAX_NAME:
        return f"has {len(name):,} characters, more than the name of a file can have: correct the annotation"
    return None
