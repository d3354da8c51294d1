"""`vigc push` against a Hub that fails in every way: nothing missing, nothing doubled, main never half."""

import io
import json
import random
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import READ, REPO, Fault
from PIL import Image

from vigc.errors import PushError
from vigc.hub.publication import check_contents, read_publication
from vigc.processing import GENERATED_FEATURES


def published(folder, repo=REPO):
    """What main should be, by path."""
    files = read_publication(folder, repo).files
    return {name: file.path.read_bytes() if file.data is None else file.data for name, file in files.items()}


def check(push, *allowed):
    """Main was always one of the allowed states, is the last one, and nothing is left behind."""
    repo = push.hub.repo(REPO)
    states = repo.states()
    assert states[-1] == allowed[-1]
    strangers = [index for index, state in enumerate(states) if state not in ({}, *allowed)]
    assert not strangers, f"main was half a dataset in its states {strangers} of {len(states)}"
    assert len(states) <= 1 + len(allowed) and repo.doubled == [] and list(repo.branches) == ["main"]


# What a push does


def test_everything_arrives_and_stays_private(push, versions):
    done = push(versions[0])
    expected = published(versions[0])
    assert done["exit_code"] == 0 and done["uploaded"] == done["files"] == len(expected)
    assert push.hub.repo(REPO).private and done["private"]
    check(push, expected)
    assert 'load_dataset("ada/vigc-shapes", split="train")' in expected["README.md"].decode()
    for name, data in expected.items():
        assert name == "README.md" or data == (versions[0] / name).read_bytes()
    assert not any(name.startswith(("_vigc/locks", "_vigc/hashes")) for name in expected)


def test_again_uploads_nothing_and_more_only_what_is_new(push, versions):
    push(versions[0])
    again = push(versions[0])
    assert again["uploaded"] == 0 and push.hub.uploaded == [] and len(push.hub.log) < 8
    assert not any("/commit/" in path for _, path in push.hub.log)
    more = push(versions[1])
    before, after = published(versions[0]), published(versions[1])
    assert more["uploaded"] == sum(before.get(name) != data for name, data in after.items()) < len(after)
    parquet = {name for name in after if name.endswith(".parquet")} - before.keys()
    assert len(parquet) == len(push.hub.uploaded) == 2  # the new shard of each type
    check(push, before, after)
    fewer = push(versions[0])  # a dataset that shrank leaves no rows of the larger one behind
    assert fewer["removed"] >= len(parquet) and push.hub.repo(REPO).states()[-1] == before


def test_a_name_alone_is_ones_own(push, versions):
    assert push(versions[0], repo="vigc-shapes")["repo"] == REPO


def test_files_of_others_on_main_are_left_alone(push, versions):
    push(versions[0])
    repo = push.hub.repo(REPO)
    commit = repo.branches["main"][-1]
    logo = commit.files["README.md"]
    commit.files["logo.svg"] = logo
    push(versions[1])
    assert repo.states()[-1]["logo.svg"] == logo.data


def test_a_public_repository_is_not_written_to_by_accident(push, versions):
    assert push(versions[0], public=True)["private"] is False
    refused = push(versions[1])
    assert refused["exit_code"] == 2 and "--public" in refused["error"]
    assert push(versions[1], public=True)["exit_code"] == 0


def test_the_command(push, versions):
    done = push(versions[0], how="command")
    files = len(published(versions[0]))
    assert done["exit_code"] == 0 and f"{files} files uploaded; {files} files on main" in done["stdout"]
    assert f"Dataset: {push.hub.endpoint}/datasets/{REPO} (private), commit " in done["stdout"]
    assert "nothing to do" in push(versions[0], how="command")["stdout"]
    refused = push(versions[1], how="command", deny_from=2)
    assert refused["exit_code"] == 2 and "vigc push: the Hub refused" in refused["stderr"]
    assert f"To resume: vigc push {versions[1]} {REPO}\n" in refused["stderr"]


# A Hub that fails


def script(seed):
    """Between one and six faults among the first forty requests."""
    rng = random.Random(seed)
    faults = {}
    for number in rng.sample(range(1, 40), rng.randint(1, 6)):
        kind = rng.choice(["status", "status", "reset", "lost", "after", "after", "slow", "html"])
        status = rng.choice([429, 500, 502, 503, 504])
        faults[number] = Fault(kind, status, retry_after=rng.choice([None, 7]))
    return faults


@pytest.mark.parametrize("seed", [*range(8), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(8, 50))])
def test_faults_by_script(push, versions, seed):
    before, after = map(published, versions)
    if seed % 2:
        assert push(versions[0])["exit_code"] == 0
    result = push(versions[1], faults=script(seed))
    if result["exit_code"]:  # the same command goes on
        assert result["exit_code"] == 75, result["error"]
        assert push(versions[1])["exit_code"] == 0
    check(push, *([before, after] if seed % 2 else [after]))


def count_requests(push, folder):
    push(folder)
    return len(push.hub.log)


EVERY = pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])


@EVERY
@pytest.mark.parametrize("kind", ["kill", "kill-after"])
@pytest.mark.parametrize("start", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_request_the_same_command_completes(push, versions, kind, start, every):
    before, after = map(published, versions)
    number, killed = 1, 0
    while True:
        push.hub.repos.clear()
        push.hub.objects.clear()
        if start:
            push(versions[0])
        result = push(versions[1], kill=(kind, number))
        if ("datasets", REPO) in push.hub.repos:
            half = [state for state in push.hub.repo(REPO).states() if state not in ({}, before, after)]
            assert not half, f"main was half a dataset after request {number}"
        if "killed" not in result:
            break
        assert result["killed"] == 9 and push(versions[1])["exit_code"] == 0
        check(push, *([before, after] if start else [after]))
        killed += 1
        number += every
    assert number > 24 and killed >= 24 // every


@EVERY
@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_ends_it_at_once(push, versions, status, every):
    requests = count_requests(push, versions[0])
    assert requests > 24
    for number in range(1, requests + 1, every):
        push.hub.repos.clear()
        push.hub.objects.clear()
        result = push(versions[0], deny_from=number, deny=status)
        assert result["exit_code"] == 2 and "refused" in result["error"], result
        assert len(push.hub.log) <= number + 2 and result["slept"] == []


def test_it_waits_as_long_as_it_is_asked_to(push, versions):
    requests = count_requests(push, versions[0])
    for number in range(1, requests + 1, 6):
        push.hub.repos.clear()
        push.hub.objects.clear()
        result = push(versions[0], faults={number: Fault("status", 429, retry_after=33)})
        assert result["exit_code"] == 0 and [wait for wait in result["slept"] if wait >= 33]
    push.hub.repos.clear()
    result = push(versions[0], faults={number: Fault("status", 503) for number in range(1, 400)})
    assert result["exit_code"] == 75 and max(result["slept"]) <= 60 and sum(result["slept"]) > 10
    result = push(versions[0], faults={1: Fault("status", 429, retry_after=7200)})
    assert result["exit_code"] == 75 and "7200 s" in result["error"] and result["slept"] == []


def test_a_commit_of_somebody_else_in_between_is_kept(push, versions):
    push(versions[0])
    requests = count_requests(push, versions[1])
    push.hub.repos.clear()
    push(versions[0])
    repo = push.hub.repo(REPO)
    conflict = Fault("status", 412)
    result = push(versions[1], faults={requests - 3: conflict, requests - 4: conflict})
    assert result["exit_code"] == 0 and repo.states()[-1] == published(versions[1])


# What is refused before anything is uploaded


def test_the_token_is_never_said(push, versions):
    refused = push(versions[0], token=READ)  # this server repeats a token that may not write
    assert refused["exit_code"] == 2 and "may not write" in refused["error"]
    assert READ not in json.dumps(refused) and "***" in refused["error"]


def picture(**saved):
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(buffer, saved.pop("format", "JPEG"), **saved)
    return buffer.getvalue()


def exif(place=False):
    found = Image.Exif()
    found[0x0110] = "a camera"
    if place:
        found.get_ifd(0x8825)[1] = "N"
    return found


def dataset(folder, rows, features=GENERATED_FEATURES, card="---\nlicense: cc0-1.0\n---\n# x\n"):
    (folder / "detail").mkdir(parents=True)
    table = pa.Table.from_pylist(rows, schema=features.arrow_schema)
    pq.write_table(table, folder / "detail" / "train-00000.parquet")
    (folder / "README.md").write_text(card, encoding="utf-8")
    return folder


def refusal(folder, **given):
    publication = read_publication(folder, REPO)
    with pytest.raises(PushError) as caught:
        check_contents(publication, publication.files, **{"allow_unknown_licence": False, **given})
    return str(caught.value)


@pytest.mark.parametrize(
    ("saved", "found"),
    [
        ({"exif": exif()}, "EXIF"),
        ({"exif": exif(place=True)}, "GPS"),
        ({"format": "PNG", "exif": exif()}, "EXIF"),
        ({"format": "WEBP", "exif": exif()}, "EXIF"),
        ({"format": "JPEG", "xmp": b"<x:xmpmeta/>"}, "XMP"),
    ],
)
def test_pictures_with_a_place_or_time_are_refused(tmp_path, saved, found):
    rows = [{"image": {"bytes": data}, "license": "cc0-1.0"} for data in (picture(), picture(**saved))]
    error = refusal(dataset(tmp_path / "one", rows), allow_unknown_licence=True)
    assert "detail/train-00000.parquet, row 1, column image" in error and f"has {found} metadata" in error


def test_pictures_in_lists_and_beside_the_rows_are_read_too(tmp_path):
    from vigc.formats.trl import SFT_FEATURES

    rows = [{"images": [{"bytes": picture()}, {"bytes": picture(exif=exif())}], "license": "cc0-1.0"}]
    assert "column images" in refusal(dataset(tmp_path / "one", rows, SFT_FEATURES))
    folder = dataset(tmp_path / "two", [{"image": {"bytes": picture()}, "license": "cc0-1.0"}])
    (folder / "images").mkdir()
    (folder / "images" / "a.jpg").write_bytes(picture(exif=exif()))
    assert "images/a.jpg" in refusal(folder)


def test_pictures_that_are_only_named_are_refused(tmp_path):
    rows = [{"image": {"bytes": None, "path": "pictures/1.png"}, "license": "cc0-1.0"}]
    assert "row 0, column image is only a local path" in refusal(dataset(tmp_path / "one", rows))


@pytest.mark.parametrize("licence", [None, "", "unknown"])
def test_rows_of_unknown_licence_are_refused_unless_told(push, tmp_path, licence):
    row = {"image": {"bytes": picture()}, "license": "cc0-1.0"}
    folder = dataset(tmp_path / "shapes", [row, {**row, "license": licence}])
    refused = push(folder)
    assert refused["exit_code"] == 2 and "row 1" in refused["error"] and "--allow-unknown" in refused["error"]
    assert push.hub.repos == {}  # not even made
    assert push(folder, allow_unknown_licence=True)["exit_code"] == 0
    card = dataset(tmp_path / "bare", [row], card="---\nlicense: unknown\n---\n# x\n")
    assert "README.md has none" in refusal(card)


def test_folders_that_cannot_be_published(push, tmp_path, versions):
    assert "neither a model" in push(tmp_path)["error"]
    assert "not a folder" in push(tmp_path / "absent")["error"]
    unfinished = shutil.copytree(versions[0], tmp_path / "unfinished")
    (unfinished / "_vigc" / "finished.json").unlink()
    assert "not finished" in push(unfinished)["error"]
    linked = shutil.copytree(versions[0], tmp_path / "linked")
    (linked / "detail" / "more.jsonl").symlink_to(Path(sys.executable))
    assert "link out of the folder" in push(linked)["error"]
    bare = shutil.copytree(versions[0], tmp_path / "bare")
    (bare / "README.md").unlink()
    assert "no README.md" in push(bare)["error"]
    assert push.hub.log == [] and push.hub.repos == {}


def test_a_name_that_the_hub_cannot_have(push, versions):
    assert "does not allow this name" in push(versions[0], repo="a b/c")["error"]
