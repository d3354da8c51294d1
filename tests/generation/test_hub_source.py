"""A dataset that is read in place on the Hub, which goes away meanwhile: the same command ends the job another day."""

import json
import subprocess
import sys

import pytest
from conftest import SUPPORT


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    command = [sys.executable, SUPPORT / "hub_reading.py", tmp_path_factory.mktemp("hub")]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_hub_that_goes_away_in_the_middle_costs_nothing(read):
    (code, said), _, results, _ = read
    assert code == 0, said
    for kind, code, said, shards, again, same in results:
        assert code == (2 if kind == "refused" else 75), (kind, code, said)
        assert "The Hub refuses" in said if kind == "refused" else "run the same command again later" in said, said
        assert "Traceback" not in said and 0 < shards < 6, (kind, shards)
        assert again == 0 and same, kind


def test_datasets_of_the_hub_name_no_files_of_this_machine(read):
    (code, said, aside), (names_code, names_said, names_aside) = read[3][:2]
    assert code == 3 and len(aside) == 1 and "or corrupt" in aside[0], (said, aside)
    assert names_code == 2 and "None of 4 images can be read" in names_said and not names_aside
    assert names_said.count("names a file outside the dataset's folder, which is not followed") == 3


def test_settings_of_repositories_name_no_files_but_their_own(read):
    outside = read[3][2:]
    assert len(outside) == 6
    for code, said, aside in outside:
        assert code == 2 and not aside and "README.md names the data file" in said, said
        assert "a URL, which is not followed" in said or "which is outside the dataset" in said, said
