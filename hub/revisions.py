"""Resolves a revision to a commit, because a branch may move while something is loaded from it."""

from __future__ import annotations

import os

from huggingface_hub import constants, resolve_revision
from huggingface_hub.errors import RevisionResolutionError


def commit_of(name: str, revision: str | None = None, repo_type: str = "model") -> str | None:
    """The commit of a revision; offline, the commit that was last cached.

    Args:
        name: A repository or a folder.
        revision: A branch, tag or commit; the main branch by default.
        repo_type: "model" or "dataset".

    Returns:
        The commit, 40 hexadecimal digits; None for a folder. If the revision cannot be resolved, `revision` itself:
        loading it then raises the error.
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
