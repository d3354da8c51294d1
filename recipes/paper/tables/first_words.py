"""Counts the first words of questions of OK-VQA or A-OKVQA, for `vigc generate --first-words`.

python recipes/paper/tables/first_words.py okvqa/OpenEnded_mscoco_train2014_questions.json --output words.json
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path


def first_words(path: Path) -> dict[str, int]:
    """Counts of the first words, the most frequent first.

    Args:
        path: A published file of questions: `{"questions": [{"question": ...}]}` or a list of such entries.
    """
    entries = json.loads(path.read_text(encoding="utf-8"))
    questions = [entry["question"] for entry in (entries["questions"] if isinstance(entries, dict) else entries)]
    counts = Counter(question.split()[0] for question in questions if question.split())
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def main() -> None:
    """Writes the counts as JSON."""
    parser = argparse.ArgumentParser(description="Count the first words of questions.")
    parser.add_argument("questions", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(f"{json.dumps(first_words(given.questions), indent=1)}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
