"""Resolves file names that come from data, and keeps them inside the folder that they are relative to.

Every path that comes from data (annotations, rows, a dataset's settings) is checked here, and so is every link on it.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from vigc.errors import ImagePathError

from .image_names import spellings

# No system opens a longer path, and resolving one would still be slow.
_LONGEST = 4096
_SHOWN = 200


def confined(real_root: str, name: str, *, listed: bool = False) -> str:
    """The path of `name` under a resolved root.

    Args:
        real_root: The root, with links resolved.
        name: A name relative to the root.
        listed: Whether the name comes from a directory listing. It may then contain what is special on other systems,
            such as backslashes or "c:".

    Raises:
        ImagePathError: The name is not a relative path, or leads out of the root.
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
    """The path of the first spelling of `name` that exists under a resolved root; that of `name` if none does.

    Raises:
        ImagePathError: A spelling (for example with percent codes decoded) leads out of the root.
    """
    paths = [confined(real_root, name)]
    if os.path.lexists(paths[0]):
        return paths[0]
    paths += [confined(real_root, spelling) for spelling in spellings(name)[1:]]
    return next((path for path in paths if os.path.lexists(path)), paths[0])


def leads_into(real: str, real_root: str) -> bool:
    """Whether a resolved path lies below a resolved root or, in the Hub client's cache, among its blobs."""
    return any(real.startswith(root.rstrip(os.sep) + os.sep) for root in _linked_roots(real_root))


@cache
def _linked_roots(real_root: str) -> tuple[str, ...]:
    """The root; for a snapshot in the Hub client's cache also its blobs, because a snapshot's files link to them."""
    repository = Path(real_root).parents[1] if len(Path(real_root).parts) > 3 else Path(real_root)
    blobs = repository / "blobs"
    is_snapshot = Path(real_root).parent.name == "snapshots" and repository.name.startswith(("datasets--", "models--"))
    if is_snapshot and blobs.is_dir() and os.path.realpath(blobs) == str(blobs):
        return real_root, str(blobs)
    return (real_root,)


def _check_parts(name: str, listed: bool = False) -> None:
    """Checks that a name is a relative path without "..". Does not access the disk."""
    if not name or "\0" in name or len(name) > _LONGEST or not is_file_name(name):
        raise ImagePathError(shown(name), "is not a file name: correct the annotation")
    parts = (name.replace(os.sep, "/") if listed else name.replace("\\", "/")).split("/")
    if not parts[0] or ".." in parts or (name[1:2] == ":" and not (listed and os.name == "posix")):
        raise ImagePathError(shown(name), "is a path out of the folder of images: give one relative to it")


class ListedFolder:
    """Finds files below a root by names that come from data.

    Each folder is listed once, with its links: a system call for each file is slow on network disks.

    Args:
        root: The folder that names are relative to. It may be a link itself, because the user named it, not the data.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.path.normpath(root)
        self._real_root = os.path.realpath(root)
        self._folders: dict[str, dict[str, bool]] = {}  # by folder and file name: whether the file is a link

    def find(self, name: str) -> Path | None:
        """The file of that name, or None if there is none.

        Raises:
            ImagePathError: The name, or a link on its path, leads out of the root.
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
    """Whether a file can have this name."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:  # a lone surrogate: valid in JSON, but not in a file name
        return False
    return True


def shown(name: str) -> str:
    """A name as messages show it: valid Unicode, and a long name shortened."""
    text = name if len(name) <= _LONGEST else f"{name[:_SHOWN]}... ({len(name):,} characters)"
    return text.encode("utf-8", "backslashreplace").decode()


def printable(name: str) -> str:
    r"""A file name as valid Unicode: invalid bytes are escaped as `\xff`."""
    if name.isascii():
        return name
    return os.fsencode(name).decode("utf-8", "backslashreplace") if is_file_name(name) else shown(name)
