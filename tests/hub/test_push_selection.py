"""What of a folder `vigc push` publishes: the parts of a model or dataset. All else is named, and asked for by name."""

import json
import os
import shutil
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from hub_server import REPO, WRITE, Commit, File
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from vigc import scenes
from vigc.custom_generate.folder import travelling_code
from vigc.errors import PushError
from vigc.hub.publication import read_publication
from vigc.hub.selection import list_folder, select_files

SECRETS = [
    "token.txt", "hf_token", "my-token.json", "id_rsa", "id_ed25519.pub", "server.pem", "a.key", "secrets.yaml",
    "credentials.json", "client_secret.json", "kaggle.json", "passwords.jsonl", "api-keys.txt", "prod.env",
    "service-account.json", "private_key.json", "netrc", "_vigc/token.json", "qformer_tokenizer/token.txt",
]  # fmt: skip
NO_SECRETS = [
    "tokenizer.json", "special_tokens_map.json", "added_tokens.json", "secret-garden.png", "keys.parquet",
    "monkey.json", "environment.json", "passworded.txt",
]  # fmt: skip


def place(folder, *names, content=b"x"):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@pytest.fixture
def shapes(versions, tmp_path):
    return shutil.copytree(versions[0], tmp_path / "shapes")


def chosen(folder, kind="dataset", include=()):
    return select_files(list_folder(folder), kind, include)


STRANGE = {
    "token.txt": "looks like a secret", "id_rsa": "looks like a secret", ".env": "hidden", ".git/": "hidden",
    "model.pkl": "a pickle", "detail/cache.pt": "a pickle", "notes.txt": "not part of a dataset",
    "detail/scan.png": "not part of a dataset", "settings.json": "not part of a dataset", "run.py": "not part of",
    "link.jsonl": "a link to .env: hidden", "quarantine/part-9.jsonl": "a link to id_rsa: looks like a secret",
    "latest/": "a link to a folder", "away.txt": "a link out of the folder", "gone.txt": "a broken link",
    "pipe": "not a regular file",
}  # fmt: skip


@pytest.fixture
def strange(shapes, tmp_path):
    """A dataset folder with all that people have in their folders."""
    regular = [name for name, why in STRANGE.items() if "link" not in why and not name.endswith(("/", "pipe"))]
    place(shapes, *regular, ".git/config", ".git/hooks/a", content=b'{"a": 1}')
    place(tmp_path, "elsewhere.txt", content=b"SECRET")
    (shapes / "link.jsonl").symlink_to(shapes / ".env")
    (shapes / "quarantine").mkdir(exist_ok=True)
    (shapes / "quarantine" / "part-9.jsonl").symlink_to("../id_rsa")
    (shapes / "latest").symlink_to("detail")
    (shapes / "away.txt").symlink_to(tmp_path / "elsewhere.txt")
    (shapes / "gone.txt").symlink_to("nowhere")
    os.mkfifo(shapes / "pipe")
    return shapes


def test_what_is_no_part_of_a_dataset_stays_and_is_named(push, strange, versions):
    expected = read_publication(versions[0], REPO).files.keys()
    left = read_publication(strange, REPO).left
    assert left.keys() == STRANGE.keys()
    assert not [name for name, why in STRANGE.items() if why not in left[name]], left
    done = push(strange, how="command")
    assert push.hub.repo(REPO).states()[-1].keys() == expected
    assert f"{len(STRANGE)} files skipped, not part of a model or dataset:" in done["stdout"]
    assert "  token.txt (looks like a secret)\n" in done["stdout"] and "--include" in done["stdout"]


def test_the_output_names_twenty_and_counts_the_rest(push, shapes):
    place(shapes, *(f"notes/{index:02d}.txt" for index in range(25)))
    done = push(shapes, how="command")
    assert "25 files skipped" in done["stdout"] and "  and 5 more\n" in done["stdout"]
    assert "notes/19.txt" in done["stdout"] and "notes/20.txt" not in done["stdout"]


def test_include_publishes_more_and_secrets_only_by_their_exact_name(push, strange):
    plain = read_publication(strange, REPO).files.keys()
    wide = read_publication(strange, REPO, include=["*"])
    assert wide.files.keys() - plain == {"notes.txt", "detail/scan.png", "settings.json", "run.py"}
    for name in ("token.txt", "id_rsa", ".env", "model.pkl"):
        assert read_publication(strange, REPO, include=[name]).files.keys() - plain >= {name}
        assert name not in read_publication(strange, REPO, include=[f"{name[:-1]}*", f"*{name}"]).files
    (strange / "detail" / "scan.png").unlink()  # which is no picture, and would be refused
    done = push(strange, how="command", options=["--include", "*.txt", "--include", "run.py"])
    assert push.hub.repo(REPO).states()[-1].keys() - plain == {"notes.txt", "run.py"}, done
    with pytest.raises(PushError, match=r"--include 'nots/\*' matches no file"):
        read_publication(strange, REPO, include=["nots/*"])


def test_what_is_included_is_checked_like_the_rest(push, strange):
    refused = push(strange, include=["*"])
    assert refused["exit_code"] == 2 and "detail/scan.png cannot be read" in refused["error"]
    assert push.hub.repos == {}


@pytest.mark.parametrize("kind", ["dataset", "model"])
def test_names_of_secrets(tmp_path, kind):
    place(tmp_path, *SECRETS, *NO_SECRETS, content=b'{"a": 1}')
    names = {name for name, why in chosen(tmp_path, kind).left.items() if "secret" in why}
    assert names == set(SECRETS)
    assert not chosen(tmp_path, kind, ["*"]).files.keys() & set(SECRETS)
    assert chosen(tmp_path, kind, SECRETS).files.keys() >= set(SECRETS)


def test_rows_of_a_dataset_are_known_by_their_content(tmp_path):
    rows = {"detail.json": b' [\n {"id": 1}]', "rows.jsonl": b'{"id": 1}\n'}
    others = {"login.json": b'{"private": 1}', "list.json": b"[1]", "words.jsonl": b"a b c", "empty.json": b""}
    for name, content in {**rows, **others}.items():
        place(tmp_path, name, content=content)
    place(tmp_path, "images/a.jpg", "images/b/c.PNG", "images/readme.txt", "samples/x.png", "x/y/train.parquet")
    assert chosen(tmp_path).files.keys() == {
        *rows,
        "images/a.jpg",
        "images/b/c.PNG",
        "samples/x.png",
        "x/y/train.parquet",
    }


def test_links_out_of_the_folder_are_not_followed(shapes, tmp_path):
    outside = tmp_path / "outside"
    place(outside, "more.jsonl", "a.png")
    for name, target in (("detail/more.jsonl", "more.jsonl"), ("images/a.png", "a.png"), ("images", ".")):
        (shapes / name).parent.mkdir(exist_ok=True)
        (shapes / name).symlink_to(outside / target)
        with pytest.raises(PushError, match="link out of the folder: replace the link by the file itself"):
            read_publication(shapes, REPO, include=["*"])
        (shapes / name).unlink()
        shutil.rmtree(shapes / "images", ignore_errors=True)
    shutil.copytree(shapes, outside / "copy")
    (tmp_path / "link").symlink_to(outside / "copy")  # the folder itself may be one
    assert read_publication(tmp_path / "link", REPO).files.keys() == read_publication(shapes, REPO).files.keys()


# Models


def test_a_model_folder_goes_with_its_parts(vigc_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(vigc_folder, folder)
    expected = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    place(folder, "training_args.bin", "token.txt", "train.py", "images/me.png", "checkpoint-10/x.bin", "runs/events")
    publication = read_publication(folder, REPO)
    assert publication.files.keys() == expected
    assert publication.left.keys() == {"training_args.bin", "token.txt", "train.py", "images/me.png"}
    assert all(file.data is None for name, file in publication.files.items() if name != "README.md")


@pytest.fixture
def bare(tmp_path):
    """The embedded model, without code and without anything that names code."""
    folder = shutil.copytree(Path(scenes.__file__).parent / "vigc_tiny", tmp_path / "tiny")
    for path in folder.glob("*.py"):
        path.unlink()
    for path in folder.rglob("*.json"):
        content = json.loads(path.read_bytes())
        if isinstance(content, dict) and content.pop("auto_map", None):
            path.write_text(json.dumps(content))
    return folder


def test_a_model_without_code_is_completed(push, bare, tmp_path):
    before = {path: path.read_bytes() for path in bare.rglob("*") if path.is_file()}
    assert push(bare, "ada/tiny")["exit_code"] == 0
    assert {path: path.read_bytes() for path in bare.rglob("*") if path.is_file()} == before
    files = push.hub.repo("ada/tiny", "models").states()[-1]
    assert files.keys() >= travelling_code().keys()
    config, processor = (json.loads(files[name]) for name in ("config.json", "processor_config.json"))
    assert config["auto_map"]["AutoModelForImageTextToText"] == "modeling_vigc.VigcForConditionalGeneration"
    assert processor["auto_map"] == {"AutoProcessor": "processing_vigc.VigcProcessor"}
    again = push(bare, "ada/tiny")
    assert again["uploaded"] == 0 and again["exit_code"] == 0
    published = tmp_path / "published"
    for name, data in files.items():
        place(published, name, content=data)
    named = config["auto_map"]["AutoModelForImageTextToText"]  # as the auto class finds it where vigc is not installed
    model = get_class_from_dynamic_module(named, published).from_pretrained(published)
    given = get_class_from_dynamic_module(processor["auto_map"]["AutoProcessor"], published).from_pretrained(published)
    assert (type(model).__name__, type(given).__name__) == ("VigcForConditionalGeneration", "VigcProcessor")
    assert all(type(one).__module__.startswith("transformers_modules.published.") for one in (model, given))


def without(name):
    return lambda folder: (folder / name).unlink()


def edited(name, **values):
    def edit(folder):
        content = json.loads((folder / name).read_bytes())
        (folder / name).write_text(json.dumps({**content, **values}))

    return edit


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (without("modeling_vigc.py"), "modeling_vigc.py, which config.json names, is not in the folder"),
        (without("cache_vigc.py"), "cache_vigc.py, which .*_vigc.py names, is not in the folder"),
        (without("processor_config.json"), "no processor_config.json"),
        (edited("config.json", model_type="other", auto_map={}), "'other', which transformers does not know"),
        (edited("config.json", auto_map={"AutoModel": ["foo.Bar", None]}), "foo.py, which config.json names"),
        (cut, "model.safetensors is truncated or not a safetensors file"),
        (lambda folder: place(folder, "config.json", content=b"{"), "config.json is not valid JSON"),
        (
            lambda folder: place(
                folder, "model.safetensors.index.json", content=b'{"weight_map": {"a": "model-2.safetensors"}}'
            ),
            "model-2.safetensors, which model.safetensors.index.json names, is not in the folder",
        ),
    ],
    ids=["code", "imported", "processor", "type", "foreign", "truncated", "json", "shards"],
)
def test_what_nobody_could_load_is_refused(vigc_folder, tmp_path, spoil, reason):
    folder = shutil.copytree(vigc_folder, tmp_path / "model")
    spoil(folder)
    with pytest.raises(PushError, match=reason):
        read_publication(folder, REPO, code=travelling_code)


def test_without_code_at_hand_a_bare_model_is_refused(bare):
    with pytest.raises(PushError, match=r"code of the model is missing.*save_pretrained.*vigc push"):
        read_publication(bare, REPO)


def test_models_of_transformers_and_of_other_code_are_not_touched(vigc_folder, tmp_path):
    folder = shutil.copytree(vigc_folder, tmp_path / "model")
    for path in folder.glob("*_vigc.py"):
        path.unlink()
    edited("config.json", model_type="instructblip", auto_map={})(folder)
    for name in ("processor_config.json", "tokenizer_config.json"):
        edited(name, auto_map={})(folder)
    place(folder, "custom_generate/generate.py", "train.py")
    files = read_publication(folder, REPO, code=travelling_code).files
    assert "custom_generate/generate.py" in files and "modeling_vigc.py" not in files and "train.py" not in files
    edited("config.json", model_type="mine", auto_map={"AutoConfig": "mine.Config", "AutoModel": "a/b--x.Y"})(folder)
    place(folder, "mine.py", content=b"from .layers import Layer\nimport .more\n")
    place(folder, "layers.py", "more.py", content=b"")
    assert read_publication(folder, REPO).files.keys() - files.keys() == {"mine.py", "layers.py", "more.py"}


# The order of commits


def test_the_manifest_comes_last_to_the_working_branch(push, versions):
    push(versions[1])
    (states,) = push.hub.repo(REPO).deleted
    manifest = set(read_publication(versions[1], REPO).manifest)
    *before, last = [set(commit.files) - {".gitattributes"} for commit in states]
    assert manifest and len(before) >= 2
    assert not [names & manifest for names in before if names & manifest]
    assert last - before[-1] == manifest and last == set(read_publication(versions[1], REPO).files)


def test_every_commit_to_main_names_its_parent(push, versions):
    for folder in versions:
        push(folder)
    repo = push.hub.repo(REPO)
    assert repo.parents == [commit.sha for commit in repo.branches["main"][:-1]] and len(repo.parents) == 2


def test_somebody_else_s_commit_at_the_last_moment_is_seen(push, versions):
    """Without the parent's name, main would for a moment hold the dataset and a foreign shard among its rows."""
    push(versions[0])

    def add_shard(repo):
        main = repo.branches["main"]
        main.append(Commit("f" * 40, "theirs", {**main[-1].files, "detail/train-00099.parquet": File(b"theirs", True)}))

    done = push(versions[1], meanwhile=add_shard)
    assert done["exit_code"] == 0 and done["removed"] == 1
    before, theirs, after = push.hub.repo(REPO).states()[1:]
    assert theirs.keys() - before.keys() == {"detail/train-00099.parquet"}
    assert after.keys() == read_publication(versions[1], REPO).files.keys()


def asked(hub, path, body):
    """Status and answer of a request to the Hub of the tests."""
    request = urllib.request.Request(f"{hub.endpoint}/api/{path}", body, {"Authorization": f"Bearer {WRITE}"})
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_the_hub_of_the_tests_refuses_as_the_real_one(push, versions):
    push(versions[0])
    status, answer = asked(push.hub, "repos/create", json.dumps({"name": "vigc-shapes", "type": "dataset"}).encode())
    assert (status, answer["url"]) == (409, f"{push.hub.endpoint}/datasets/{REPO}")
    commits = push.hub.repo(REPO).branches["main"]
    found = {}
    for parent in (commits[0].sha, "0" * 40, "", commits[-1].sha):
        header = {"key": "header", "value": {"summary": "x", "description": "", "parentCommit": parent}}
        found[parent] = asked(push.hub, f"datasets/{REPO}/commit/main", json.dumps(header).encode())[0]
    assert list(found.values()) == [412, 412, 412, 200]
