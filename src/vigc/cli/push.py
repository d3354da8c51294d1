"""`vigc push`: publishes a model or dataset folder on the Hub."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from vigc.errors import VigcError

from .terminal import count, line, option, say

Folder = Annotated[Path, typer.Argument(help="A model or dataset folder.", show_default=False)]
Repo = Annotated[str, typer.Argument(help="The repository: owner/name, or a name in your account.", show_default=False)]
Public = Annotated[bool, option("Make the repository public; by default a new one is private.", "--public")]
AllowUnknown = Annotated[
    bool,
    option("Also publish rows with an unknown licence.", "--allow-unknown-licence"),
]
Include = Annotated[
    list[str] | None,
    option(
        "Also publish these files (a name, or a pattern such as 'notes/*'). Hidden files, pickles and files that may "
        "hold secrets need their exact name.",
        "--include",
    ),
]
Message = Annotated[str | None, option("Title of the commit on main.", "--message", "-m")]

_LISTED = 20  # skipped files that are printed


def push(
    folder: Folder,
    repo: Repo,
    public: Public = False,
    allow_unknown_licence: AllowUnknown = False,
    include: Include = None,
    message: Message = None,
) -> None:
    """Publish a model or dataset folder on the Hub, or update it.

    Files are uploaded to a working branch first; one commit then merges them into main. Size and hash of every file
    are verified. An interrupted push is resumed by the same command, which uploads only new files. Rows with an
    unknown licence, and images with EXIF or GPS data, are refused. Files that do not belong to a model or dataset are
    skipped and listed; --include publishes them too.

    Exit code 0: complete. 2: the folder, the name or the token is invalid. 75: the Hub is unavailable: retry the same
    command later. 130: interrupted.
    """
    from huggingface_hub.utils.tqdm import disable_progress_bars

    from vigc.hub import push_folder
    from vigc.scenes import model_folder

    if not typer.get_text_stream("stderr").isatty():
        disable_progress_bars()
    try:
        done = push_folder(
            model_folder(folder),
            repo,
            public=public,
            allow_unknown_licence=allow_unknown_licence,
            message=message,
            include=include or (),
            code=_code,
            say=lambda text: say(line(text), err=True),
        )
    except (VigcError, KeyboardInterrupt):
        _say_command(folder, repo, public, allow_unknown_licence, include or [])
        raise
    _say_left(done.left)
    changes = f"{count(done.uploaded, 'file')} uploaded" if done.uploaded or done.removed else "nothing to do"
    changes += f", {count(done.removed, 'file')} of an earlier push removed" if done.removed else ""
    say(f"{changes}; {count(done.files, 'file')} on main, verified by size and hash")
    seen = "private" if done.private else "public"
    say(f"{done.kind.capitalize()}: {done.url} ({seen}), commit {done.commit}")


def _code() -> dict[str, str]:
    from vigc.custom_generate.folder import travelling_code

    return travelling_code()


def _say_left(left: dict[str, str]) -> None:
    if not left:
        return
    say(f"{count(len(left), 'file')} skipped, not part of a model or dataset:")
    for name, reason in list(left.items())[:_LISTED]:
        say(f"  {line(name)} ({line(reason)})")
    if len(left) > _LISTED:
        say(f"  and {len(left) - _LISTED:,} more")
    say("To publish them, give --include with a name or a pattern.")


def _say_command(folder: Path, repo: str, public: bool, allow_unknown_licence: bool, include: list[str]) -> None:
    parts = ["vigc", "push", str(folder), repo]
    parts += ["--public"] if public else []
    parts += ["--allow-unknown-licence"] if allow_unknown_licence else []
    parts += [part for pattern in include for part in ("--include", pattern)]
    say(f"Your folder was not changed. To resume: {shlex.join(parts)}", err=True)
