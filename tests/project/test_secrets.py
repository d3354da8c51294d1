"""Tokens planted in the environment, on disk, in a recipe and in the Hub's answers are in nothing that vigc writes."""

import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow.parquet as pq
import pytest
import yaml
from conftest import FIXTURES, SUPPORT
from training import QUICK

from vigc.scenes import VIGC_TINY, write_scenes

SCRIPT = SUPPORT / "canary_commands.py"
# As the Hub's look: in the environment, in the file that `hf auth login` writes, in a recipe.
TOKENS = [f"hf_{place}{'Canary' * 5}"[:37] for place in ("env", "file", "recipe")]


class Refusing(BaseHTTPRequestHandler):
    """A Hub that knows nobody; for some repositories it repeats the token that it was given."""

    def answer(self):
        given = self.headers.get("Authorization", "")
        self.server.seen.append(given)
        said = f"Invalid credentials {given}" if "echo" in self.path else "Invalid credentials"
        body = json.dumps({"error": said}).encode()
        self.send_response(401)
        self.send_header("X-Error-Message", said)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    do_GET = do_HEAD = do_POST = answer

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    server.seen = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def done(hub, parity_dir, parity_config, tmp_path_factory):
    """All commands, run in one process; what it printed, and the folder it wrote into."""
    home, work = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("work")
    (home / "token").write_text(TOKENS[1])
    (home / "stored_tokens").write_text(f"[canary]\nhf_token = {TOKENS[1]}\n")
    write_scenes(work / "drawn", 9, 3)
    pictures = work / "drawn" / "images"
    (pictures / "broken.png").write_bytes(b"broken")
    names = sorted(path.name for path in pictures.glob("*.png") if path.name != "broken.png")
    entries = json.loads((FIXTURES / "annotations" / "conversation_58k.json").read_text(encoding="utf-8"))
    for entry, name in zip(entries, names, strict=False):
        entry["image"] = name
    (work / "in").mkdir()
    (work / "in" / "conversation_58k.json").write_text(json.dumps(entries[: len(names)]))
    shutil.copy(parity_config, work / "in" / "sizes.json")
    recipe = {
        "model": str(VIGC_TINY), "output_dir": str(work / "trained"), "hub_token": TOKENS[2], **QUICK,
        "data": [{"layout": "llava", "files": str(work / "in" / "conversation_58k.json"), "images": str(pictures)}],
        "eval_strategy": "no", "load_best_model_at_end": False, "save_strategy": "steps", "save_steps": 1,
    }  # fmt: skip
    (work / "in" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (work / "in" / "broken.yaml").write_text(yaml.safe_dump({**recipe, "learning_rate": "much"}))
    environment = {**os.environ, "HF_HOME": str(home), "HF_TOKEN": TOKENS[0], "HF_HUB_OFFLINE": "0"}
    environment |= {"HF_DATASETS_OFFLINE": "0", "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}"}
    for name in ("HF_HUB_CACHE", "HF_MODULES_CACHE", "HF_DATASETS_CACHE"):
        environment.pop(name)
    arguments = [work, parity_dir, pictures, work / "in" / "conversation_58k.json"]
    process = subprocess.run(
        [sys.executable, SCRIPT, *arguments], capture_output=True, text=True, env=environment, cwd=work
    )
    assert process.returncode == 0, process.stderr[-3000:]
    print(process.stdout, process.stderr)
    shutil.rmtree(work / "in")
    for name in ("token", "stored_tokens"):
        (home / name).unlink()
    return process, work, home


def test_every_command_did_what_it_should(done, hub):
    codes = json.loads(done[0].stdout.splitlines()[-1])
    assert {name: code for name, (code, expected) in codes.items() if code != expected} == {}
    assert any(TOKENS[0] in given for given in hub.seen), "the token was sent, so that it could have been repeated"


def test_no_token_in_what_was_printed(done):
    printed = done[0].stdout + done[0].stderr
    assert "Traceback" in printed and "401" in printed
    for token in TOKENS:
        assert token not in printed and token[8:] not in printed


def test_no_token_in_any_file(done):
    _, work, home = done
    files = [path for folder in (work, home) for path in folder.rglob("*") if path.is_file()]
    suffixes = {path.suffix for path in files}
    assert {".md", ".html", ".json", ".jsonl", ".parquet", ".bin", ".safetensors"} <= suffixes
    assert len(pq.read_table(work / "made" / "detail")) > 0, "a job over nothing would hold no token either"
    for path in files:
        data = path.read_bytes()
        if path.suffix == ".parquet":
            data += str(pq.read_table(path).to_pylist()).encode()
        assert not [token for token in TOKENS if token.encode() in data], path
