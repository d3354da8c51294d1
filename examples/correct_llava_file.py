"""The answers of a LLaVA file, corrected by VIC, and exported as a LLaVA file again.

    python examples/correct_llava_file.py

Writes `example-corrected/` (a dataset with the old answer as `draft` and the new one as `answer`) and
`example-llava/conversations.json`, which keeps every field, turn and id of the input.
"""

import json
from pathlib import Path

from vigc.exports import export_dataset
from vigc.generation import correct_dataset
from vigc.scenes import write_scenes

SCENES, CORRECTED, LLAVA = Path("example-llava-scenes"), Path("example-corrected"), Path("example-llava")


def main() -> None:
    """Plants wrong answers in a LLaVA file, corrects them, and prints before and after."""
    if not SCENES.exists():
        write_scenes(SCENES, rows=6, seed=1)
    entries = json.loads((SCENES / "conversation.json").read_text(encoding="utf-8"))
    for entry in entries:
        entry["conversations"][1]["value"] = "It is black."
    given = SCENES / "wrong_answers.json"
    given.write_text(json.dumps(entries), encoding="utf-8")

    correct_dataset(given, CORRECTED, model="vigc-tiny", image_root=SCENES / "images", license="cc0-1.0")
    if not LLAVA.exists():  # an export needs a new or empty folder
        export_dataset(CORRECTED, LLAVA, format="llava")

    corrected = json.loads((LLAVA / "conversations.json").read_text(encoding="utf-8"))
    for before, after in zip(entries, corrected, strict=True):
        question, old, new = before["conversations"][0], before["conversations"][1], after["conversations"][1]
        print(f"{after['id']}: {question['value']!r}\n  was {old['value']!r}\n  now {new['value']!r}")


if __name__ == "__main__":
    main()
