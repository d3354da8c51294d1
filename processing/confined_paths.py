"""Names that data gives to files: followed only below the folder that they belong to.

Every path that stands in data (annotations, rows, a dataset's settings) goes through this file, and every link that
such a path meets.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from vigc.errors import ImagePathError

from .image_names import spellings

# No system opens a longer path; following its parts would take long all the same.
_LONGEST = 4096
_SHOWN = 200


def confined(real_root: str, name: str, *, listed: bool = False) -> str:
    """The path of `name` under a root that is resolved already.

    Args:
        real_root: The root.
        name: Relative to it.
        listed: The system gave the name: marks that only other systems take for parts of paths are of the name.

    Raises:
        ImagePathError: It is no relative path, or leads out of the root.
    """
    _check_parts(name, listed)
    path = os.path.join(real_root, name)
    try:
        real = os.path.realpath(path)
    except OSError as error:
        raise ImagePathError(shown(name), f"cannot be followed ({error.strerror}): replace the link") from error
    if not leads_into(real, real_root):
        raise ImagePathError(shown(name), "is a link out of the folder: copy the file into it")
    return path


def located(real_root: str, name: str) -> str:
    """The path under a resolved root of the first spelling of `name` that a file has; of `name` itself if none has.

    Raises:
        ImagePathError: A spelling, such as one with its percent codes decoded, leads out of the root.
    """
    paths = [confined(real_root, name)]
    if os.path.lexists(paths[0]):
        return paths[0]
    paths += [confined(real_root, spelling) for spelling in spellings(name)[1:]]
    return next((path for path in paths if os.path.lexists(path)), paths[0])


def leads_into(real: str, real_root: str) -> bool:
    """Whether a resolved path lies below a resolved root, or where the links of the Hub client's copies may lead."""
    return any(real.startswith(root.rstrip(os.sep) + os.sep) for root in _linked_roots(real_root))


@cache
def _linked_roots(real_root: str) -> tuple[str, ...]:
    """The root, and the blobs beside it if it is a snapshot in the Hub client's cache, whose files are links there."""
    repository = Path(real_root).parents[1] if len(Path(real_root).parts) > 3 else Path(real_root)
    blobs = repository / "blobs"
    is_snapshot = Path(real_root).parent.name == "snapshots" and repository.name.startswith(("datasets--", "models--"))
    if is_snapshot and blobs.is_dir() and os.path.realpath(blobs) == str(blobs):
        return real_root, str(blobs)
    return (real_root,)


def _check_parts(name: str, listed: bool = False) -> None:
    """Makes sure that a name is a relative path that does not climb, whatever the disk holds."""
    if not name or "\0" in name or len(name) > _LONGEST or not is_file_name(name):
        raise ImagePathError(shown(name), "is no file name: correct the annotation")
    parts = (name.replace(os.sep, "/") if listed else name.replace("\\", "/")).split("/")
    if not parts[0] or ".." in parts or (name[1:2] == ":" and not (listed and os.name == "posix")):
        raise ImagePathError(shown(name), "is a path out of the folder of pictures: give one relative to it")


class ListedFolder:
    """Finds files below a root by the names that data gives them.

    Each folder is listed once and its links are looked at then: asking for each file is slow on network disks.

    Args:
        root: The folder that names are relative to. It may be a link itself: the user named it, not the data.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.path.normpath(root)
        self._real_root = os.path.realpath(root)
        self._folders: dict[str, dict[str, bool]] = {}  # the files of each folder, and whether they are links

    def find(self, name: str) -> Path | None:
        """The file of that name, or None if there is none.

        Raises:
            ImagePathError: The name, or a link that it meets, leads out of the root.
        """
        _check_parts(name)
        path = os.path.normpath(os.path.join(self.root, name))
        if path == self.root:
            return None
        folder, file = os.path.split(path)
        folder = folder or os.curdir
        if folder not in self._folders:
            self._folders[folder] = self._files(folder, name)
        linked = self._folders[folder].get(file)
        if linked is None:
            return None
        if linked:
            self._check_link(path, name)
            if os.path.isdir(path):
                return None
        return Path(path)

    def _files(self, folder: str, name: str) -> dict[str, bool]:
        if not os.path.isdir(folder):
            return {}
        if folder != self.root:
            self._check_link(folder, name)
        with os.scandir(folder) as entries:
            return {entry.name: entry.is_symlink() for entry in entries if not entry.is_dir(follow_symlinks=False)}

    def _check_link(self, path: str, name: str) -> None:
        if not leads_into(os.path.realpath(path), self._real_root):
            raise ImagePathError(shown(name), "is a link out of the folder: copy the file into it")


def is_file_name(name: str) -> bool:
    """Whether a file can be called so."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:  # half a character, which JSON can spell and no file can be called
        return False
    return True


def shown(name: str) -> str:
    """A name for messages, whatever it holds: of a long one the beginning."""
    text = name if len(name) <= _LONGEST else f"{name[:_SHOWN]}... ({len(name):,} characters)"
    return text.encode("utf-8", "backslashreplace").decode()


def printable(name: str) -> str:
    r"""A file name as valid Unicode: bytes that are not are written as `\xff`."""
    if name.isascii():
        return name
    return os.fsencode(name).decode("utf-8", "backslashreplace") if is_file_name(name) else shown(name)
