"""The store of work without shards: nothing that `add` returned from is lost, whatever happens behind it."""

import errno
import json
import os
import threading

import pytest

from vigc.errors import BusyError, JudgeError, LinkError
from vigc.jobs.store import LineStore


def store(path, **more):
    own = {
        "key": lambda record: record["id"],
        "to_json": dict,
        "from_json": lambda record: {"id": record["id"], **record},
    }
    return LineStore(path, **{**own, "what": "review", "error": JudgeError, "start": b'{"id": ', **more})


def records(*ids):
    return [{"id": id_, "text": "é" * id_} for id_ in ids]


def test_what_was_added_is_there_again(tmp_path):
    path = tmp_path / "deep" / "lines.jsonl"
    with store(path) as first:
        first.add(records(1, 2))
        first.add(records(2, 3))  # one is known, and is not written again
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == [1, 2, 3]
    with store(path) as again:
        assert list(again.known) == [1, 2, 3] and again.known[3]["text"] == "ééé"
    with store(None) as memory:
        memory.add(records(1))
        assert list(memory.known) == [1]


def test_a_line_that_was_cut_anywhere_is_removed_and_no_other(tmp_path):
    path = tmp_path / "lines.jsonl"
    with store(path) as first:
        first.add(records(1, 2))
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for cut in range(last, len(whole)):
        path.write_bytes(whole[:cut])
        with store(path) as again:
            assert list(again.known) == [1]
            again.add(records(2))
        assert path.read_bytes() == whole, cut


def test_zeros_that_an_outage_left_behind_the_last_line_are_removed(tmp_path):
    path = tmp_path / "lines.jsonl"
    for left in (b"\0" * 9, b'{"i\0\0', b'{"id": 2, "te\0\0\0'):
        path.write_bytes(b'{"id": 1}\n' + left)
        with store(path) as again:
            assert list(again.known) == [1]
        assert path.read_bytes() == b'{"id": 1}\n', left


def test_a_line_that_is_there_twice_is_read_once(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"id": 1}\n{"id": 2}\n{"id": 1}\n')
    with store(path) as again:
        again.add(records(2, 3))
        assert list(again.known) == [1, 2, 3]
    assert path.read_text().count("\n") == 4, "what is there stays"


def test_of_several_objects_of_one_key_the_first_is_kept(tmp_path):
    path = tmp_path / "lines.jsonl"
    with store(path) as lines:
        lines.add([{"id": 1, "text": "first"}, {"id": 1, "text": "second"}])
        lines.add([{"id": 1, "text": "third"}])
        assert lines.known[1]["text"] == "first"
    assert [json.loads(line)["text"] for line in path.read_text().splitlines()] == ["first"]
    assert [file.name for file in tmp_path.iterdir()] == ["lines.jsonl"], "its lock does not stay"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"id": 1}\n{"id": \n{"id": 2}\n', "line 2 is not a valid review: correct the line"),
        ('{"id": 1}\n[1]\n', "line 2 is not a valid review"),
        ('{"id": 1}\nnotes of a person', "line 2 is not a valid review"),
        ('{"id": 1}\n{"id": 1, "text": ""}\n', "line 2 has the review 1 a second time, with other content: remove one"),
    ],
)
def test_a_file_that_holds_something_else_is_refused_and_kept(tmp_path, text, message):
    path = tmp_path / "lines.jsonl"
    path.write_text(text)
    with pytest.raises(JudgeError, match=message), store(path):
        pass
    assert path.read_text() == text
    with pytest.raises(JudgeError), store(path):  # and its lock is free
        pass


def test_one_process_has_it_and_no_link_leads_elsewhere(tmp_path):
    path = tmp_path / "lines.jsonl"
    with store(path), pytest.raises(BusyError, match="another process is writing"), store(path):
        pass
    lock = tmp_path / ".other.jsonl.lock"
    lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LinkError), store(tmp_path / "other.jsonl"):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_a_full_disk_leaves_whole_lines_and_ends_the_writing(tmp_path, monkeypatch):
    path = tmp_path / "lines.jsonl"
    with store(path) as lines:
        lines.add(records(1))
        before, write = path.read_bytes(), os.write

        def torn(file, data):
            if len(data) < 8:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(file, data[: len(data) // 2])

        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
            patch.setattr(os, "write", torn)
            lines.add(records(2))
        assert path.read_bytes() == before and list(lines.known) == [1]
        with pytest.raises(OSError, match="No space"):
            lines.add(records(3))
    assert path.read_bytes() == before


def test_threads_add_at_once(tmp_path):
    path = tmp_path / "lines.jsonl"
    with store(path) as lines:
        threads = [threading.Thread(target=lines.add, args=(records(number),)) for number in range(1, 21)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with store(path) as again:
        assert sorted(again.known) == list(range(1, 21))
