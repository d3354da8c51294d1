"""A model or dataset folder to the Hub: whole, verified, and never half of it on main.

Files go to a working branch, in as many commits as it takes; then one commit brings main from what it was to all of
the new. What is on the Hub is compared by hash before every step, so that the same command goes on wherever an
earlier one was broken off.
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
    """What a push did.

    Args:
        repo_id: The repository, with its owner.
        kind: "model" or "dataset".
        url: Where it is.
        commit: main's commit, which holds what the folder holds.
        files: How many files that is; size and hash of each were compared.
        uploaded: How many of them the Hub did not have on main.
        removed: How many files of an earlier push it no longer has.
        left: Why each of the other files stayed here, by name.
        private: Whether others cannot see it.
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
    """Publishes a model or dataset folder, or goes on with it, or adds to it what is new.

    Args:
        folder: A folder that `vigc generate`, `correct`, `export`, `convert`, `train` or `save_pretrained` wrote.
        repo_id: "owner/name", or a name of one's own. The repository is made if it is not there.
        public: Whether a new repository is for all to see.
        allow_unknown_licence: Also publish rows of which nobody has said under which licence they are.
        token: Instead of the one that `hf auth login` or HF_TOKEN gave.
        message: Title of main's commit.
        include: Names or patterns of files that are published beyond what a model or dataset is made of.
        code: Gives the code of a VIGC model by file name, for a folder that has none.
        say: Is told in words what happens.

    Raises:
        PushError: Something keeps the folder from the Hub; nothing in it was changed, and main is what it was or what
            it should be.
    """
    folder = Path(folder)
    push = _Push(HfApi(token=token, library_name="vigc"), Patience(token, say), repo_id)
    push.name_owner()
    publication = read_publication(folder, push.repo_id, include=include, code=code)
    private = push.open(publication.kind, public)
    there = push.files(_MAIN) if private is not None else {}
    new = [name for name, file in publication.files.items() if not file.equals(there.get(name))]
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
    """A repository under way. Every step may be repeated: each looks first at what is there."""

    def __init__(self, api: HfApi, patience: Patience, repo_id: str) -> None:
        self.api = api
        self.patience = patience
        self.repo_id = repo_id
        self.kind = "model"

    def name_owner(self) -> None:
        """Completes a repository's name by its owner."""
        if "/" not in self.repo_id:
            user = self.patience.call("asking who you are", lambda: self.api.whoami()["name"])
            self.repo_id = f"{user}/{self.repo_id}"

    def open(self, kind: str, public: bool) -> bool | None:
        """Whether the repository is private; None if there is none yet.

        Raises:
            PushError: It is public, and nobody said that it may be.
        """
        self.kind = kind

        def look() -> bool | None:
            try:
                return bool(self.api.repo_info(self.repo_id, repo_type=kind).private)
            except RepositoryNotFoundError as error:
                if error.response.status_code != 404:
                    raise
                return None

        private = self.patience.call(f"a look at {self.repo_id}", look)
        if private is False and not public:
            raise PushError(f"{self.repo_id} is public, for all to see: give --public if that is meant.")
        if private and public:
            self.patience.say(f"{self.repo_id} is there and stays private: its settings on the Hub can change that")
        return private

    def create(self, public: bool) -> bool:
        """Makes the repository; returns whether it is private."""

        def make() -> None:
            try:
                self.api.create_repo(self.repo_id, repo_type=self.kind, private=not public)
            except HfHubHTTPError as error:
                if error.response.status_code != 409:  # made by an attempt whose answer was lost
                    raise

        self.patience.call(f"making {self.repo_id}", make)
        return bool(self.open(self.kind, public))

    def files(self, revision: str) -> dict[str, RepoFile]:
        """Every file of a revision."""
        return self.patience.call(f"listing {self.repo_id}", lambda: self._tree(revision))

    def _tree(self, revision: str) -> dict[str, RepoFile]:
        entries = self.api.list_repo_tree(self.repo_id, recursive=True, revision=revision, repo_type=self.kind)
        return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}

    def fill_branch(self, publication: Publication, new: list[str]) -> None:
        """Uploads what is new to the working branch, the manifest last."""
        late = [name for name in publication.manifest if name in new]
        names = [name for name in new if name not in late] + late

        def fill() -> None:
            before: list[str] | None = None
            while missing := _missing(publication.files, names, self._branch_files()):
                if missing == before:
                    raise PushError(
                        f"{missing[0]} is not on the Hub as it was here when the push began: if nobody is writing the "
                        "folder any more, run the same command again."
                    )
                before = missing
                for batch in _batches([name for name in missing if name not in late]):
                    self._commit_files(publication.files, batch)
                self._commit_files(publication.files, [name for name in missing if name in late])

        self.patience.call(f"uploading to {self.repo_id}", fill)

    def _branch_files(self) -> dict[str, RepoFile]:
        """The files of the working branch, which is made if it is not there."""
        try:
            return self._tree(BRANCH)
        except RevisionNotFoundError:
            pass
        try:
            self.api.create_branch(self.repo_id, branch=BRANCH, repo_type=self.kind)
        except HfHubHTTPError as error:
            if error.response.status_code != 409:  # made by an attempt whose answer was lost
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
            num_threads=1,  # a refusal ends it at once; Xet, which the Hub uses, uploads side by side all the same
        )
        self.patience.progress += 1

    def bring_to_main(self, publication: Publication, message: str) -> tuple[str, int]:
        """One commit from what main is to all that is published; returns main's commit and how many files went.

        Size and hash of every file on main are compared at the end.
        """
        removed = 0

        def bring() -> str:
            nonlocal removed
            for _ in range(3):  # once; more often if others commit to main at the same time
                head = self.api.repo_info(self.repo_id, repo_type=self.kind, revision=_MAIN).sha
                assert head is not None, "a branch has a commit"
                there = self._tree(head)
                changed = _missing(publication.files, publication.files, there)
                stale = [name for name in there if publication.owns(name)]
                if not changed and not stale:
                    return head
                self.api.create_commit(
                    self.repo_id,
                    [*self._moves(publication, changed), *map(CommitOperationDelete, stale)],
                    commit_message=message,
                    repo_type=self.kind,
                    revision=_MAIN,
                    parent_commit=head,  # somebody else's commit in between is seen, not overwritten
                )
                removed = len(stale)
            raise PushError(f"main of {self.repo_id} does not stay as it was pushed: is somebody else writing to it?")

        return self.patience.call(f"bringing {self.repo_id} up to date", bring), removed

    def _moves(
        self, publication: Publication, changed: list[str]
    ) -> Iterator[CommitOperationCopy | CommitOperationAdd]:
        """Large files are named by their hash and not sent again; small ones travel with the commit."""
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
        """Removes the working branch, this push's or one that was broken off."""

        def drop() -> None:
            try:
                self.api.delete_branch(self.repo_id, branch=BRANCH, repo_type=self.kind)
            except HfHubHTTPError as error:
                if error.response.status_code != 404:
                    raise

        self.patience.call("removing the working branch", drop)


def _addition(name: str, file: LocalFile) -> CommitOperationAdd:
    addition = CommitOperationAdd(name, file.path if file.data is None else file.data)
    addition.upload_info.sha256 = bytes.fromhex(file.hashes[0])  # known already: gigabytes need not be read once more
    return addition


def _missing(files: dict[str, LocalFile], names: Iterable[str], there: dict[str, RepoFile]) -> list[str]:
    return [name for name in names if not files[name].equals(there.get(name))]


def _batches(names: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), _FILES_PER_COMMIT):
        yield names[start : start + _FILES_PER_COMMIT]
