"""Millions of inputs: memory does not grow with rows, and planning takes seconds."""

import json
import resource
import subprocess
import sys

import pytest
from conftest import ROOT

PLAN = """
import json, resource, sys, time
from pathlib import Path
from vigc.generation.generate import open_collection
from vigc.generation.plan import Selection, complete_plan, make_plan
place = Path(sys.argv[1])
start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
selection = Selection(open_collection(place / "list.json", "objects365", place))
plan = make_plan("generate", {"types": ["detail"]}, settings={}, source="x", license="y", job={})
plan = complete_plan(place / "out", plan, selection, write=True)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([plan["inputs"]["taken"], time.monotonic() - start, before / 1e6, after / 1e6]))
"""

ROWS = """
import gc, json, resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from PIL import Image
from scripted import ScriptedModel, ScriptedProcessor
from vigc.generation import generate_dataset
place, count = Path(sys.argv[1]), int(sys.argv[2])
def resident():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
class Watched(ScriptedModel):
    rows, marks = 0, []
    def generate(self, *given, **more):
        output = super().generate(*given, **more)
        Watched.rows += len(output.questions)
        if Watched.rows // (count // 20) > len(self.marks):
            self.marks.append((Watched.rows, resident()))
        return output
pictures = place / "pictures"
pictures.mkdir()
for index in range(count // 10):
    Image.new("RGB", (2, 2), (index % 256, index // 256 % 256, index // 65536)).save(pictures / f"{index:06d}.bmp")
job = dict(types=["conversation", "detail"], questions=5, batch_size=64, shard_size=128)
summary = generate_dataset(pictures, place / "out", model=Watched(malformed=0), processor=ScriptedProcessor(), **job)
marks = Watched.marks[len(Watched.marks) // 3:]
slope = (marks[-1][1] - marks[0][1]) / (marks[-1][0] - marks[0][0])
print(json.dumps([summary.rows + summary.dropped, slope]))
"""


@pytest.mark.parametrize("count", [30_000, pytest.param(1_800_000, marks=pytest.mark.slow)])
def test_planning_is_quick_and_small(tmp_path, count):
    (tmp_path / "out").mkdir()
    with (tmp_path / "list.json").open("w") as file:
        images = (
            json.dumps({"id": index, "file_name": f"images/v1/patch{index % 50}/objects365_v1_{index:08d}.jpg"})
            for index in range(count)
        )
        boxes = (
            json.dumps({"id": index, "image_id": index, "category_id": index % 9, "bbox": [1.5, 2, 3, 4]})
            for index in range(count)
        )
        file.write('{"images": [')
        file.writelines(f"{',' if index else ''}{text}" for index, text in enumerate(images))
        file.write('], "annotations": [')
        file.writelines(f"{',' if index else ''}{text}" for index, text in enumerate(boxes))
        file.write("]}")
    result = subprocess.run([sys.executable, "-c", PLAN, str(tmp_path)], capture_output=True, text=True, check=True)
    taken, seconds, _, gigabytes = json.loads(result.stdout)
    print(f"{taken:,} inputs planned in {seconds:.1f} s, {gigabytes:.2f} GB")
    assert taken == count and seconds < 60 and gigabytes < 2


@pytest.mark.parametrize("count", [pytest.param(100_000, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_rows(tmp_path, count):
    command = [sys.executable, "-c", ROWS, str(tmp_path), str(count), str(ROOT / "tests")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    rows, slope = json.loads(result.stdout)
    print(f"{rows:,} rows, {slope:.0f} bytes of memory per row")
    assert rows == count and slope < 1024
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 2.5e6
