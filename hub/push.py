"""Pushes a model or dataset folder to the Hub, verified, with a single commit on main.

Files are uploaded to a working branch in several commits; then one commit updates main to the complete new state. The
files on the Hub are compared by hash before every step, so that an interrupted push is resumed by the same command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    RepoFile,
)
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from vigc.errors import PushError, TransientError

from .hub_calls import Patience
from .publication import LocalFile, Publication, check_contents, read_publication

BRANCH = "vigc-push"
_MAIN = "main"
_FILES_PER_COMMIT = 256


@dataclass(frozen=True)
class Pushed:
    """The result of a push.

    Args:
        repo_id: The repository, with its owner.
        kind: "model" or "dataset".
        url: The repository's URL.
        commit: The commit of main with the content of the folder.
        files: Number of published files; size and hash of each were verified.
        uploaded: Number of files that main did not have before.
        removed: Number of files of an earlier push that were deleted.
        left: Why each of the other files was not published, by name.
        private: Whether the repository is private.
    """

    repo_id: str
    kind: str
    url: str
    commit: str
    files: int
    uploaded: int
    removed: int
    left: dict[str, str]
    private: bool


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    public: bool = False,
    allow_unknown_licence: bool = False,
    token: str | None = None,
    message: str | None = None,
    include: Sequence[str] = (),
    code: Callable[[], Mapping[str, str]] | None = None,
    say: Callable[[str], object] = lambda text: None,
) -> Pushed:
    """Publishes a model or dataset folder. Resumes an interrupted push, and uploads only what is new.

    Args:
        folder: A folder that `vigc generate`, `correct`, `export`, `convert`, `train` or `save_pretrained` wrote.
        repo_id: "owner/name", or a name for a repository of your own. It is created if it does not exist.
        public: Whether a new repository is public.
        allow_unknown_licence: Whether to publish rows whose licence is unknown.
        token: Token for the Hub; by default that of `hf auth login` or HF_TOKEN.
        message: Title of the commit on main.
        include: Names or patterns of files to publish besides those of a model or dataset.
        code: Returns the code of a VIGC model by file name, for a folder without code.
        say: Called with progress messages.

    Raises:
        PushError: The folder cannot be published. It was not changed, and main has its old or its complete new state.
    """
    folder = Path(folder)
    push = _Push(HfApi(token=token, library_name="vigc"), Patience(token, say), repo_id)
    push.name_owner()
    publication = read_publication(folder, push.repo_id, include=include, code=code)
    private = push.open(publication.kind, public)
    remote = push.files(_MAIN) if private is not None else {}
    new = [name for name, file in publication.files.items() if not file.equals(remote.get(name))]
    rows = check_contents(publication, new, allow_unknown_licence=allow_unknown_licence)
    if private is None:
        private = push.create(public)
    if rows:
        say(f"{rows:,} rows checked")
    if new:
        say(f"{len(new):,} of {len(publication.files):,} files to upload to {push.repo_id}")
        push.fill_branch(publication, new)
    commit, removed = push.bring_to_main(publication, message or f"Push {folder.resolve().name}")
    push.drop_branch()
    prefix = "" if publication.kind == "model" else f"{publication.kind}s/"
    return Pushed(
        repo_id=push.repo_id,
        kind=publication.kind,
        url=f"{push.api.endpoint}/{prefix}{push.repo_id}",
        commit=commit,
        files=len(publication.files),
        uploaded=len(new),
        removed=removed,
        left=publication.left,
        private=private,
    )


class _Push:
    """The steps of a push. Every step is idempotent: it checks the state of the repository first."""

    def __init__(self, api: HfApi, patience: Patience, repo_id: str) -> None:
        self.api = api
        self.patience = patience
        self.repo_id = repo_id
        self.kind = "model"

    def name_owner(self) -> None:
        """Adds the user's name to a repository name without owner."""
        if "/" not in self.repo_id:
            user = self.patience.call("looking up your user name", lambda: self.api.whoami()["name"])
            self.repo_id = f"{user}/{self.repo_id}"

    def open(self, kind: str, public: bool) -> bool | None:
        """Whether the repository is private; None if it does not exist.

        Raises:
            PushError: The repository is public, but `public` is False.
        """
        self.kind = kind

        def look() -> bool | None:
            try:
                return bool(self.api.repo_info(self.repo_id, repo_type=kind).private)
            except RepositoryNotFoundError as error:
                if error.response.status_code != 404:
                    raise
                return None

        private = self.patience.call(f"checking {self.repo_id}", look)
        if private is False and not public:
            raise PushError(f"{self.repo_id} is public, so that everyone can see it: give --public to push to it.")
        if private and public:
            self.patience.say(f"{self.repo_id} exists and stays private: change that in its settings on the Hub")
        return private

    def create(self, public: bool) -> bool:
        """Creates the repository; returns whether it is private."""

        def make() -> None:
            try:
                self.api.create_repo(self.repo_id, repo_type=self.kind, private=not public)
            except HfHubHTTPError as error:
                if error.response.status_code != 409:  # created by an attempt whose response was lost
                    raise

        self.patience.call(f"creating {self.repo_id}", make)
        return bool(self.open(self.kind, public))

    def files(self, revision: str) -> dict[str, RepoFile]:
        """All files of a revision, by path."""
        return self.patience.call(f"listing {self.repo_id}", lambda: self._tree(revision))

    def _tree(self, revision: str) -> dict[str, RepoFile]:
        entries = self.api.list_repo_tree(self.repo_id, recursive=True, revision=revision, repo_type=self.kind)
        return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}

    def fill_branch(self, publication: Publication, new: list[str]) -> None:
        """Uploads new files to the working branch, the manifest last."""
        late = [name for name in publication.manifest if name in new]
        names = [name for name in new if name not in late] + late

        def fill() -> None:
            before: list[str] | None = None
            while missing := _missing(publication.files, names, self._branch_files()):
                if missing == before:
                    raise PushError(
                        f"{missing[0]} on the Hub differs from the local file when the push began: run the same "
                        "command again when no process is writing the folder."
                    )
                before = missing
                for batch in _batches([name for name in missing if name not in late]):
                    self._commit_files(publication.files, batch)
                self._commit_files(publication.files, [name for name in missing if name in late])

        self.patience.call(f"uploading to {self.repo_id}", fill)

    def _branch_files(self) -> dict[str, RepoFile]:
        """The files of the working branch, which is created if it does not exist."""
        try:
            return self._tree(BRANCH)
        except RevisionNotFoundError:
            pass
        try:
            self.api.create_branch(self.repo_id, branch=BRANCH, repo_type=self.kind)
        except HfHubHTTPError as error:
            if error.response.status_code != 409:  # created by an attempt whose response was lost
                raise
        return self._tree(BRANCH)

    def _commit_files(self, files: dict[str, LocalFile], names: list[str]) -> None:
        if not names:
            return
        self.api.create_commit(
            self.repo_id,
            [_addition(name, files[name]) for name in names],
            commit_message=f"Upload {len(names)} files" if len(names) > 1 else f"Upload {names[0]}",
            repo_type=self.kind,
            revision=BRANCH,
            num_threads=1,  # so that a refusal ends it at once; Xet uploads in parallel anyway
        )
        self.patience.progress += 1

    def bring_to_main(self, publication: Publication, message: str) -> tuple[str, int]:
        """Updates main to the complete new state in one commit; returns the commit and the number of deleted files.

        Size and hash of every file on main are verified at the end.
        """
        removed = 0

        def bring() -> str:
            nonlocal removed
            for _ in range(3):  # normally once; again if others commit to main at the same time
                head = self.api.repo_info(self.repo_id, repo_type=self.kind, revision=_MAIN).sha
                assert head is not None, "a branch has a commit"
                remote = self._tree(head)
                changed = _missing(publication.files, publication.files, remote)
                stale = [name for name in remote if publication.owns(name)]
                if not changed and not stale:
                    return head
                self.api.create_commit(
                    self.repo_id,
                    [*self._moves(publication, changed), *map(CommitOperationDelete, stale)],
                    commit_message=message,
                    repo_type=self.kind,
                    revision=_MAIN,
                    parent_commit=head,  # so that a commit by others in between is not overwritten
                )
                removed = len(stale)
            raise PushError(f"main of {self.repo_id} keeps changing during the push: is another process writing to it?")

        return self.patience.call(f"updating {self.repo_id}", bring), removed

    def _moves(
        self, publication: Publication, changed: list[str]
    ) -> Iterator[CommitOperationCopy | CommitOperationAdd]:
        """Operations for main: large files are copied from the working branch, small ones are uploaded again."""
        uploaded = self._branch_files() if changed else {}
        for name in changed:
            remote = uploaded.get(name)
            if not publication.files[name].equals(remote):
                raise TransientError(f"{name} changed while it was pushed: run the same command again.")
            if remote is not None and remote.lfs:
                yield CommitOperationCopy(name, name, src_revision=BRANCH)
            else:
                yield _addition(name, publication.files[name])

    def drop_branch(self) -> None:
        """Deletes the working branch of this push, or of an interrupted one."""

        def drop() -> None:
            try:
                self.api.delete_branch(self.repo_id, branch=BRANCH, repo_type=self.kind)
            except HfHubHTTPError as error:
                if error.response.status_code != 404:
                    raise

        self.patience.call("deleting the working branch", drop)


def _addition(name: str, file: LocalFile) -> CommitOperationAdd:
    addition = CommitOperationAdd(name, file.path if file.data is None else file.data)
    addition.upload_info.sha256 = bytes.fromhex(file.hashes[0])  # avoids reading gigabytes again
    return addition


def _missing(files: dict[str, LocalFile], names: Iterable[str], remote: dict[str, RepoFile]) -> list[str]:
    return [name for name in names if not files[name].equals(remote.get(name))]


def _batches(names: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), _FILES_PER_COMMIT):
        yield names[start : start + _FILES_PER_COMMIT]
