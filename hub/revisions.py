"""Which commit of a repository is used: a branch may move while something is loaded from it, a commit does not."""

from __future__ import annotations

import os

from huggingface_hub import constants, resolve_revision
from huggingface_hub.errors import RevisionResolutionError


def commit_of(name: str, revision: str | None = None, repo_type: str = "model") -> str | None:
    """The commit, 40 hexadecimal digits, that a revision names now; without the Hub, when it was last cached.

    Args:
        name: A repository, or a folder, which has no commits: None.
        revision: A branch, tag or commit; the main branch by default.
        repo_type: "model" or "dataset".

    Returns:
        `revision` itself where it cannot be found out: whoever loads it then says what is wrong.
    """
    if os.path.exists(name):
        return None
    try:
        found = resolve_revision(
            name, repo_type=repo_type, revision=revision, local_files_only=constants.HF_HUB_OFFLINE
        )
    except (OSError, ValueError, RevisionResolutionError):
        return revision
    return found.resolved
