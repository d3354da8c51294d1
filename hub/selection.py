"""Selects the files of a folder to publish: those of a model or dataset. All others are skipped and reported."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch, fnmatchcase
from pathlib import Path

from vigc.errors import PushError
from vigc.processing.images import PICTURE_SUFFIXES

# Local files, and those that only a Trainer needs to resume. They are never published, nor reported as skipped.
_LOCAL = (
    *("_vigc/locks", "_vigc/hashes", "_vigc/job.yaml", "*.tmp"),
    *("checkpoint-*", "trainer_state.json", "runs", "*__pycache__"),
)
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
# Content is checked before the upload (rows, images), or the format can only hold tensors.
_CHECKED = (".parquet", ".safetensors", *PICTURE_SUFFIXES)

# Patterns as in a shell: `*` does not match "/", and "**" matches any number of folders.
_ANY_KIND = ("README.md", "LICENSE", "LICENSE.*", "LICENCE", "LICENCE.*", "NOTICE", "NOTICE.*")
_DATASET = (
    *_ANY_KIND,
    "**/*.parquet",
    "dataset_infos.json",
    "instances.json",
    "scenes.jsonl",
    "metadata.jsonl",
    "_vigc/*.json",
    "_vigc/*.jsonl",
    "_vigc/shards/*.json",
    "quarantine/part-*.jsonl",
    "report/*.html",
    "report/*.css",
    "report/*.js",
)
_IMAGE_FOLDERS = ("images", "samples", "report")  # of a dataset
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
_MODEL = (
    *_ANY_KIND,
    "config.json",
    "generation_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "adapter_config.json",
    "trained_weights.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
    "*.safetensors",
    "*.safetensors.index.json",
    *_TOKENIZER,
    *(f"qformer_tokenizer/{name}" for name in _TOKENIZER),
    "*_vigc.py",
    "custom_generate/*.py",
    "custom_generate/requirements.txt",
)

_SECRET = re.compile(
    r"""\.env.* | .*\.env | \.?(netrc|npmrc|pypirc|htpasswd|git-credentials) | kaggle\.json
    | id_(rsa|dsa|ecdsa|ed25519).* | .*\.(pem|key|p12|pfx|jks|keystore|kdbx|ppk|gpg|asc|token)
    | (.*[._-])? (tokens?|secrets?|credentials?|passwords?|passwd|(api|private)[._-]?keys?|service[._-]?account)
      ([._-].*)?""",
    re.VERBOSE | re.IGNORECASE,
)
# The start of a file of rows: a list of objects, or an object on each line.
_ROWS, _LINES = re.compile(rb"\s*\[\s*\{"), re.compile(rb"\s*\{")
_LEADS_OUT = "a link out of the folder"


@dataclass(frozen=True)
class Listing:
    """The content of a folder, without local files.

    Args:
        root: The folder, with links resolved.
        files: Regular files, and links to files in the folder, by name.
        links: Descriptions of other links, by name; names of links to folders end in "/".
        others: Descriptions of everything else, by name: hidden folders (names end in "/"), pipes and so on.
    """

    root: Path
    files: dict[str, Path] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Selection:
    """The files of a folder to publish.

    Args:
        files: The local path of each file, by its name in the repository.
        left: Why each of the other files is not published, by name.
    """

    files: dict[str, Path]
    left: dict[str, str]


def list_folder(folder: Path) -> Listing:
    """Lists a folder recursively; links out of it are not followed.

    Raises:
        PushError: A sub-folder cannot be listed.
    """
    listing = Listing(folder.resolve())

    def refuse(error: OSError) -> None:
        raise PushError(f"{error.filename!r} cannot be listed ({error.strerror}): make it readable.") from error

    for place, folders, names in os.walk(folder, onerror=refuse):
        prefix = "" if Path(place) == folder else f"{Path(place).relative_to(folder).as_posix()}/"
        folders[:] = [name for name in sorted(folders) if not _is_local(prefix + name)]
        for name in list(folders):
            path = Path(place, name)
            if path.is_symlink():
                listing.links[f"{prefix}{name}/"] = _why_not_followed(path, listing.root) or "a link to a folder"
                folders.remove(name)
            elif name.startswith("."):
                listing.others[f"{prefix}{name}/"] = "hidden"
                folders.remove(name)
        for name in sorted(names):
            path = Path(place, name)
            if _is_local(prefix + name):
                continue
            if path.is_symlink() and (reason := _why_not_followed(path, listing.root)):
                listing.links[prefix + name] = reason
            elif path.is_file():
                listing.files[prefix + name] = path
            else:
                listing.others[prefix + name] = "not a regular file"
    return listing


def _is_local(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in _LOCAL)


def _why_not_followed(path: Path, root: Path) -> str | None:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: a loop of links, before Python 3.13
        return "a broken link"
    return None if target.is_relative_to(root) else _LEADS_OUT


def select_files(listing: Listing, kind: str, include: Sequence[str] = (), code: Collection[str] = ()) -> Selection:
    """Selects the files to publish: those of a model or dataset, and those that `include` adds.

    Args:
        listing: The content of the folder.
        kind: "model" or "dataset".
        include: Names or patterns (as in `hf upload --include`) of further files to publish. Hidden files, pickles and
            names that look like secrets are not matched by patterns, only by their exact name.
        code: Names of the code files that the model's configuration loads.

    Raises:
        PushError: A file to publish is a link that is not followed, or its name is not UTF-8; or an entry of `include`
            matches nothing.
    """
    named = {*code, *include}

    def why_skipped(name: str, patterns: Sequence[str] = include) -> str | None:
        return None if name in named else _why_skipped(name, listing.files.get(name), kind, patterns)

    for name, what in listing.links.items():
        hidden = any(part.startswith(".") for part in name.split("/"))
        wanted = what == _LEADS_OUT if name.endswith("/") else why_skipped(name, ()) is None
        if wanted and not hidden:
            raise PushError(f"{name!r} is {what}: replace the link by the file itself, or remove it.")
    files, left = {}, {**listing.links, **listing.others}
    for name, path in listing.files.items():
        reason = why_skipped(name)
        if reason is None and path.is_symlink():
            path = path.resolve()
            target = path.relative_to(listing.root).as_posix()
            skipped = why_skipped(target)
            reason = f"a link to {target}: {skipped}" if skipped else None
        if reason is None:
            files[_utf8_name(name)] = path
        else:
            left[name] = reason
    for pattern in include:
        if not any(_is_included(name, pattern) for name in listing.files):
            raise PushError(f"--include {pattern!r} matches no file of the folder: correct or remove it.")
    return Selection(files, dict(sorted(left.items())))


def _utf8_name(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise PushError(f"the name of {name!r} is not UTF-8, which the Hub cannot store: rename it.") from error
    return name


def _why_skipped(name: str, path: Path | None, kind: str, include: Sequence[str]) -> str | None:
    """Why a file is not published; None if it is part of the model or dataset, or matches `include`."""
    parts, base = name.split("/"), name.rsplit("/", 1)[-1]
    patterns = _MODEL if kind == "model" else _DATASET
    if name in patterns:
        return None
    if any(part.startswith(".") for part in parts):
        return "hidden"
    if base.lower().endswith(_PICKLES):
        return "a pickle, which runs code when it is opened"
    if _SECRET.fullmatch(base) and base not in _TOKENIZER and not base.lower().endswith(_CHECKED):
        return "looks like a secret"
    part = any(_matches(parts, pattern.split("/")) for pattern in patterns)
    if kind == "dataset" and not part:
        image = parts[0] in _IMAGE_FOLDERS and base.lower().endswith(tuple(PICTURE_SUFFIXES))
        part = image or _has_rows(name, path)
    return None if part or any(_is_included(name, pattern) for pattern in include) else f"not part of a {kind}"


def _is_included(name: str, pattern: str) -> bool:
    return fnmatchcase(name, f"{pattern}*" if pattern.endswith("/") else pattern)


def _matches(parts: list[str], pattern: list[str]) -> bool:
    if pattern[0] == "**":
        return fnmatchcase(parts[-1], pattern[-1])
    return len(parts) == len(pattern) and all(map(fnmatchcase, parts, pattern))


def _has_rows(name: str, path: Path | None) -> bool:
    """Whether a file has rows: a list of JSON objects or JSON Lines. Without `path` only the name is checked."""
    start = {".json": _ROWS, ".jsonl": _LINES}.get(Path(name).suffix)
    if path is None or start is None:
        return start is not None
    with path.open("rb") as file:
        return start.match(file.read(4096)) is not None
