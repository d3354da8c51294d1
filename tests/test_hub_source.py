"""A dataset that is read in place on the Hub, which goes away meanwhile: the same command ends the job another day."""

import json
import subprocess
import sys

from conftest import ROOT


def test_a_hub_that_goes_away_in_the_middle_costs_nothing(tmp_path):
    command = [sys.executable, ROOT / "tests" / "hub_reading.py", tmp_path]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    (code, said), _, results = json.loads(done.stdout.splitlines()[-1])
    assert code == 0, said
    for kind, code, said, shards, again, same in results:
        assert code == (2 if kind == "refused" else 75), (kind, code, said)
        assert "The Hub gives" in said if kind == "refused" else "run the same command again later" in said, said
        assert "Traceback" not in said and 0 < shards < 6, (kind, shards)
        assert again == 0 and same, kind
