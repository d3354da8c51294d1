"""A Hub on the loopback for tests: repositories, commits, branches, LFS, tokens, and faults by script.

It speaks what huggingface_hub, transformers and datasets ask for, over real sockets, and keeps every state that a
branch ever had. Xet is not spoken: clients run with `HF_HUB_DISABLE_XET=1`. Standard library only.
"""

import base64
import hashlib
import json
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET
from urllib.parse import parse_qs, unquote, urlsplit

LFS_SUFFIXES = (".parquet", ".safetensors", ".png", ".jpg", ".bin", ".model", ".gz")
PAGE = 40  # entries of a listing; the Hub has 1,000
REPO = "ada/vigc-shapes"
WRITE, READ = "hf_writeTokenOfTests", "hf_readTokenOfTests"
TOKENS = {WRITE: ("ada", True), READ: ("ada", False)}


@dataclass(frozen=True)
class Fault:
    """What goes wrong with a request.

    Args:
        kind: "status" (answered with it, nothing done), "reset" (the connection breaks, nothing done), "lost" (done,
            and the connection breaks), "after" (done, and answered with `status`), "slow" (the answer comes in
            drops), "html" (a proxy's page instead of JSON), "kill" and "kill-after" (`pid` is killed before or after
            it is done).
        status: The status of an answer.
        retry_after: Seconds, as a header.
        pid: Of the client.
    """

    kind: str
    status: int = 500
    retry_after: int | None = None
    pid: int = 0


@dataclass(frozen=True)
class File:
    """The content of a path."""

    data: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def pointer(self) -> bytes:
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n".encode()

    @property
    def blob(self) -> str:
        content = self.pointer if self.lfs else self.data
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.blob


@dataclass(frozen=True)
class Commit:
    """A state of a repository."""

    sha: str
    title: str
    files: dict[str, File]


@dataclass
class Repo:
    """A repository; `branches` hold all commits of each branch, the last one at the end.

    `deleted` are those of branches that are gone; `parents` what each commit to main was said to follow.
    """

    name: str
    private: bool
    branches: dict[str, list[Commit]] = field(default_factory=dict)
    deleted: list[list[Commit]] = field(default_factory=list)
    parents: list[str | None] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)

    def find(self, revision: str) -> Commit | None:
        if revision in self.branches:
            return self.branches[revision][-1]
        commits = (commit for branch in self.branches.values() for commit in branch)
        return next((commit for commit in commits if commit.sha == revision), None)

    def states(self, branch: str = "main") -> list[dict[str, bytes]]:
        """Every state that a branch ever had, without the file that the Hub itself puts there."""
        states = []
        for commit in self.branches[branch]:
            states.append({path: file.data for path, file in commit.files.items() if path != ".gitattributes"})
        return states


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, code: str | None = None, **more: str):
        super().__init__(message)
        self.status, self.code, self.more = status, code, more


class Hub(ThreadingHTTPServer):
    """The server; `with Hub() as hub:` starts it in a thread, `hub.endpoint` is its address."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.RLock()
        self.repos: dict[tuple[str, str], Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.play()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        """Clients that are killed leave broken connections, which is what some tests are about."""

    def play(self, faults: dict[int, Fault] | None = None, *, deny_from=None, deny=403, meanwhile=None):
        """Counts requests anew; the n-th meets its fault, and from `deny_from` on all are answered with `deny`.

        `meanwhile` is called with the repository when the first commit to main arrives, before it is looked at.
        """
        with self.lock:
            self.meanwhile = meanwhile
            self.faults, self.deny_from, self.deny = dict(faults or {}), deny_from, deny
            self.log: list[tuple[str, str]] = []
            self.uploaded: list[str] = []  # sha256 of each body that was stored

    def repo(self, name, kind="datasets") -> Repo:
        return self.repos[kind, name]


class Pusher:
    """A process that pushes to a Hub; see pushing.py."""

    def __init__(self, home):
        self.hub = Hub().__enter__()
        environment = {**os.environ, "HF_ENDPOINT": self.hub.endpoint, "HF_HOME": str(home), "HF_TOKEN": WRITE}
        environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_CACHE"):
            environment.pop(name, None)
        self.environment = environment
        command = [sys.executable, str(Path(__file__).with_name("pushing.py"))]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, env=environment, text=True, **pipes)

    def __call__(self, folder, repo=REPO, faults=None, kill=None, deny_from=None, deny=403, meanwhile=None, **given):
        """What came of a push; `faults` by number of request, `kill` is the kind and number of one that kills it."""
        pid = self._ask({"folder": str(folder), "repo": repo, **given})
        killing = {kill[1]: Fault(kill[0], pid=pid)} if kill else {}
        self.hub.play({**(faults or {}), **killing}, deny_from=deny_from, deny=deny, meanwhile=meanwhile)
        return self._ask("go")

    def _ask(self, order):
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=600)
        self.process.stdout.close()
        self.hub.__exit__()


class Handler(BaseHTTPRequestHandler):
    """A connection."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer in one piece: two would wait for each other's acknowledgement
    server: Hub

    def log_message(self, *arguments):
        pass

    def _serve(self):
        body = self._body()
        with self.server.lock:
            self.server.log.append((self.command, self.path))
            number = len(self.server.log)
            denied = self.server.deny_from is not None and number >= self.server.deny_from
            fault = Fault("status", self.server.deny) if denied else self.server.faults.get(number)
            kind = fault.kind if fault else None
            if kind == "kill":
                os.kill(fault.pid, signal.SIGKILL)
            answer = None if kind in ("status", "reset", "html", "kill") else self._answer(body)
            if kind == "kill-after":
                os.kill(fault.pid, signal.SIGKILL)
        if kind in ("reset", "lost", "kill", "kill-after"):
            self.connection.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not an end
            self.close_connection = True
        elif kind == "html":
            self._send(502, {"Content-Type": "text/html"}, b"<html>Bad Gateway</html>")
        elif kind in ("status", "after"):
            more = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
            self._send(fault.status, more, json.dumps({"error": "by script"}).encode())
        else:
            self._send(*answer, slow=kind == "slow")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, status, headers, data, slow=False):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        for start in range(0, len(data), step := max(1, len(data) // 8) if slow else max(1, len(data))):
            self.wfile.write(data[start : start + step])
            if slow:
                self.wfile.flush()
                time.sleep(0.01)

    def _answer(self, body):
        """Status, headers and body, once the request is done."""
        self.url = urlsplit(self.path)
        path = self.url.path
        try:
            for method, pattern, name in ROUTES:
                if self.command in method and (match := re.fullmatch(pattern, path)):
                    groups = {key: unquote(value or "") for key, value in match.groupdict().items()}
                    answer = getattr(self, name)(body, **groups)
                    return answer if isinstance(answer, tuple) else (200, *_json(answer))
            raise Refused(404, f"no such route: {self.command} {path}")
        except Refused as error:
            headers, data = _json({"error": str(error), **error.more})
            more = {"X-Error-Message": str(error)} | ({"X-Error-Code": error.code} if error.code else {})
            return error.status, headers | more, data

    # Who asks, and for what

    def _user(self, write=False):
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token not in TOKENS:
            raise Refused(401, "Invalid credentials in Authorization header")
        name, may_write = TOKENS[token]
        if write and not may_write:
            raise Refused(403, f"the token {token} may not write")  # a careless server repeats what it was sent
        return name

    def _repo(self, kind, repo, write=False):
        found = self.server.repos.get((kind or "models", repo.rstrip("/")))
        if found is None:
            raise Refused(404, "Repository not found", "RepoNotFound")
        if write or found.private:
            self._user(write)
        return found

    @staticmethod
    def _commit_of(repo, revision):
        commit = repo.find(revision or "main")
        if commit is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def _query(self, name):
        return (parse_qs(self.url.query).get(name) or [""])[0]

    # Routes

    def whoami(self, body):
        return {"type": "user", "name": self._user(), "orgs": [], "auth": {"type": "access_token"}}

    def create(self, body):
        given = json.loads(body)
        owner = self._user(write=True)
        kind, name = f"{given.get('type') or 'model'}s", f"{given.get('organization') or owner}/{given['name']}"
        url = f"{self.server.endpoint}/{'' if kind == 'models' else kind + '/'}{name}"
        if (kind, name) in self.server.repos:
            raise Refused(409, f"You already created this {kind[:-1]} repo", url=url)
        private = given.get("private") or given.get("visibility") == "private"
        attributes = {".gitattributes": File(b"*.parquet filter=lfs diff=lfs merge=lfs -text\n", False)}
        repo = Repo(name, private, {"main": []})
        _add_commit(repo, "main", "initial commit", attributes)
        self.server.repos[kind, name] = repo
        return {"url": url, "name": name, "id": name}

    def validate(self, body):
        if not json.loads(body)["content"].startswith("---\n"):
            return 200, *_json({"errors": [], "warnings": [{"message": "empty or missing yaml metadata"}]})
        return {"errors": [], "warnings": []}

    def info(self, body, kind, repo, revision=""):
        found = self._repo(kind, repo)
        commit = self._commit_of(found, revision)
        siblings = [{"rfilename": path, "size": len(file.data)} for path, file in sorted(commit.files.items())]
        state = {"private": found.private, "gated": False, "disabled": False, "tags": [], "downloads": 0, "likes": 0}
        pipeline = {"pipeline_tag": "image-text-to-text", "library_name": "transformers"} if kind == "models" else {}
        return {"id": found.name, "_id": "0", "sha": commit.sha, "siblings": siblings, **state, **pipeline}

    def refs(self, body, kind, repo):
        found = self._repo(kind, repo)
        branches = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commits[-1].sha}
            for name, commits in found.branches.items()
        ]
        return {"branches": branches, "converts": [], "tags": []}

    def commits(self, body, kind, repo, revision):
        found = self._repo(kind, repo)
        listed = found.branches.get(revision, [])
        when = "2026-01-01T00:00:00.000Z"
        return [{"id": c.sha, "title": c.title, "message": "", "authors": [], "date": when} for c in listed[::-1]]

    def tree(self, body, kind, repo, revision, path=""):
        commit = self._commit_of(self._repo(kind, repo), revision)
        entries, prefix = {}, f"{path}/" if path else ""
        for name, file in sorted(commit.files.items()):
            if not name.startswith(prefix):
                continue
            parts = name[len(prefix) :].split("/")
            folders = [prefix + "/".join(parts[: depth + 1]) for depth in range(len(parts) - 1)]
            recursive = self._query("recursive").lower() in ("true", "1")
            for folder in folders if recursive else folders[:1]:
                entries[folder] = {"type": "directory", "path": folder, "oid": "0" * 40, "size": 0}
            if recursive or not folders:
                entries[name] = _entry(name, file)
        if path and not entries:
            raise Refused(404, f"{path} does not exist", "EntryNotFound")
        start = int(self._query("cursor") or 0)
        listed = [entries[name] for name in sorted(entries)]
        headers, data = _json(listed[start : start + PAGE])
        if start + PAGE < len(listed):
            query = "&".join(part for part in self.url.query.split("&") if not part.startswith("cursor="))
            headers["Link"] = f'<{self.server.endpoint}{self.url.path}?{query}&cursor={start + PAGE}>; rel="next"'
        return 200, headers, data

    def paths(self, body, kind, repo, revision):
        commit = self._commit_of(self._repo(kind, repo), revision)
        given = self.headers.get("Content-Type") or ""
        wanted = json.loads(body)["paths"] if "json" in given else parse_qs(body.decode())["paths"]
        return [_entry(path, commit.files[path]) for path in wanted if path in commit.files]

    def preupload(self, body, kind, repo, revision):
        commit = self._commit_of(self._repo(kind, repo, write=True), revision)
        listed = []
        for file in json.loads(body)["files"]:
            there = commit.files.get(file["path"])
            large = file["path"].endswith(LFS_SUFFIXES) or file["size"] > 10 * 2**20
            mode = {"uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            listed.append({"path": file["path"], **mode, "oid": there.etag if there else None})
        return {"files": listed}

    def commit(self, body, kind, repo, revision):
        found = self._repo(kind, repo, write=True)
        if revision == "main" and self.server.meanwhile:
            meanwhile, self.server.meanwhile = self.server.meanwhile, None
            meanwhile(found)
        lines = [json.loads(line) for line in body.splitlines()]
        header, files = lines[0]["value"], dict(self._commit_of(found, revision).files)
        if revision not in found.branches:
            raise Refused(400, f"{revision} is not a branch")
        if header.get("parentCommit") not in (None, found.branches[revision][-1].sha):
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        if revision == "main":
            found.parents.append(header.get("parentCommit"))
        seen = [line["value"]["path"] for line in lines[1:]]
        found.doubled += [path for path in set(seen) if seen.count(path) > 1]
        for line in lines[1:]:
            path = line["value"]["path"]
            if line["key"] == "file":
                files[path] = File(base64.b64decode(line["value"]["content"]), False)
            elif line["key"] == "lfsFile":
                if line["value"]["oid"] not in self.server.objects:
                    raise Refused(400, f"LFS pointer of {path} points to a file that does not exist")
                files[path] = File(self.server.objects[line["value"]["oid"]], True)
            elif line["key"] == "deletedFile":
                if files.pop(path, None) is None:
                    raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
            elif line["key"] == "deletedFolder":
                files = {name: file for name, file in files.items() if not name.startswith(path.rstrip("/") + "/")}
            else:
                raise Refused(400, f"unknown operation {line['key']}")
        sha = _add_commit(found, revision, header["summary"], files)
        url = f"{self.server.endpoint}/{'' if kind == 'models' else kind + '/'}{repo}/commit/{sha}"
        return {"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""}

    def branch(self, body, kind, repo, branch):
        found = self._repo(kind, repo, write=True)
        if self.command == "DELETE":
            if branch == "main" or branch not in found.branches:
                raise Refused(404, f"Invalid rev id: {branch}", "RevisionNotFound")
            found.deleted.append(found.branches.pop(branch))
            return {"success": True}
        if branch in found.branches:
            raise Refused(409, f"Reference already exists: {branch}")
        start = (json.loads(body) if body else {}).get("startingPoint")
        found.branches[branch] = [self._commit_of(found, start or "main")]
        return {"success": True}

    def lfs_batch(self, body, kind, repo):
        self._repo(kind.rstrip("/"), repo, write=True)
        objects = []
        for wanted in json.loads(body)["objects"]:
            there = wanted["oid"] in self.server.objects
            href = f"{self.server.endpoint}/lfs-store/{wanted['oid']}?signature=temporary"
            objects.append(wanted if there else {**wanted, "actions": {"upload": {"href": href}}})
        return {"transfer": "basic", "objects": objects}

    def lfs_store(self, body, oid):
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refused(400, "the body is not what its name says")
        self.server.objects[oid] = body
        self.server.uploaded.append(oid)
        return {}

    def no_xet(self, body, kind, repo):
        raise Refused(404, "this Hub speaks no xet: set HF_HUB_DISABLE_XET=1")

    def resolve(self, body, kind, repo, revision, path):
        commit = self._commit_of(self._repo(kind.rstrip("/"), repo), revision)
        file = commit.files.get(path)
        headers = {"X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
        if file is None:
            error = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            return 404, headers | error, b"Entry not found"
        headers |= {"ETag": f'"{file.etag}"', "Content-Type": "application/octet-stream"}
        if file.lfs:
            headers |= {"X-Linked-Size": str(len(file.data)), "X-Linked-Etag": f'"{file.sha256}"'}
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if part is None:
            return 200, headers, file.data
        start, end = int(part[1]), min(int(part[2] or len(file.data)), len(file.data) - 1)
        if start >= len(file.data):
            return 416, headers | {"Content-Range": f"bytes */{len(file.data)}"}, b""
        return 206, headers | {"Content-Range": f"bytes {start}-{end}/{len(file.data)}"}, file.data[start : end + 1]


_API = r"/api/(?P<kind>models|datasets)/(?P<repo>[^/]+/[^/]+)"
_PAGE = r"/(?P<kind>datasets/|)(?P<repo>[^/]+/[^/]+)"
ROUTES = [
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/repos/create", "create"),
    ("POST", r"/api/validate-yaml", "validate"),
    ("GET", _API, "info"),
    ("GET", _API + r"/revision/(?P<revision>[^/]+)", "info"),
    ("GET", _API + r"/refs", "refs"),
    ("GET", _API + r"/commits/(?P<revision>[^/]+)", "commits"),
    ("GET", _API + r"/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?", "tree"),
    ("GET", _API + r"/xet-(?:read|write)-token/.+", "no_xet"),
    ("POST", _API + r"/paths-info/(?P<revision>[^/]+)", "paths"),
    ("POST", _API + r"/preupload/(?P<revision>[^/]+)", "preupload"),
    ("POST", _API + r"/commit/(?P<revision>[^/]+)", "commit"),
    ("POST DELETE", _API + r"/branch/(?P<branch>[^/]+)", "branch"),
    ("POST", _PAGE + r"\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", r"/lfs-store/(?P<oid>[0-9a-f]{64})", "lfs_store"),
    ("GET HEAD", _PAGE + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
]


def _json(value):
    return {"Content-Type": "application/json"}, json.dumps(value).encode()


def _entry(path, file):
    entry = {"type": "file", "path": path, "oid": file.blob, "size": len(file.data)}
    if file.lfs:
        entry["lfs"] = {"oid": file.sha256, "size": len(file.data), "pointerSize": len(file.pointer)}
    return entry


def _add_commit(repo, branch, title, files):
    commits = repo.branches[branch]
    parent = commits[-1].sha if commits else ""
    content = json.dumps([parent, title, sorted((path, file.blob) for path, file in files.items())])
    sha = hashlib.sha1(content.encode()).hexdigest()
    commits.append(Commit(sha, title, files))
    return sha
