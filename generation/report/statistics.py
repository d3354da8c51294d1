"""Statistics of the report over all rows of a dataset, in bounded memory."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, field

from vigc.jobs.ledger import inputs_of
from vigc.jobs.protocols import Record
from vigc.processing.rows import is_edited

from .charts import bars, histogram, sunburst

COLUMNS = ["id", "image_id", "question", "draft", "answer", "trace", "scores"]

_POSITIONS = 10  # sentences from this one on are counted together
_MOST_PHRASES = 50_000
_LIMIT = 20.0  # scores are drawn up to here
_MOST_REASONS = 1_000
_OTHER_REASONS = "for other reasons, each of them rare"
_WORD = re.compile(r"\w+(?:['’]\w+)*")


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart of the page.

    Args:
        title: Its heading.
        note: A description.
        legend: "draft" if it has lines of drafts and answers, which need a legend.
        svg: The SVG; empty without data.
    """

    title: str
    note: str
    legend: str
    svg: str


@dataclass(slots=True)
class Group:
    """Skipped inputs or rejected samples with one reason.

    Args:
        reason: The reason.
        count: Number of inputs or samples.
        more: Number of those that are not in `records`.
        records: Some of their records.
    """

    reason: str
    count: int = 0
    more: int = 0
    records: list[Record] = field(default_factory=list)


@dataclass
class Figures:
    """Sums over rows; those of several types can be added.

    Args:
        rows: How many there are.
        changed: In how many correction changed a word.
        sentences: Sentences of which it is known whether they were changed, by position.
        sentences_changed: Those that were, by position.
        words: Lengths of "draft" and "answer", counted.
        scores: "draft_logprob", "answer_logprob" and "visual_dependency" in hundredths, counted.
        phrases: The first three words of the questions, counted.
    """

    rows: int = 0
    changed: int = 0
    sentences: Counter[int] = field(default_factory=Counter)
    sentences_changed: Counter[int] = field(default_factory=Counter)
    words: dict[str, Counter[float]] = field(default_factory=lambda: {"draft": Counter(), "answer": Counter()})
    scores: dict[str, Counter[float]] = field(
        default_factory=lambda: {name: Counter() for name in ("draft_logprob", "answer_logprob", "visual_dependency")}
    )
    phrases: Counter[tuple[str, ...]] = field(default_factory=Counter)

    def add(self, row: Record) -> None:
        """Counts a row."""
        self.rows += 1
        self.changed += is_edited(row["draft"], row["answer"])
        for position, step in enumerate(shown_steps(row), start=1):
            if step["changed"] is not None:
                self.sentences[min(position, _POSITIONS)] += 1
                self.sentences_changed[min(position, _POSITIONS)] += bool(step["changed"])
        for name, counted in self.words.items():
            if row[name] is not None:
                counted[len(row[name].split())] += 1
        for name, scored in self.scores.items():
            value = (row["scores"] or {}).get(name)
            if value is not None and math.isfinite(value):
                scored[round(min(max(value, -_LIMIT), _LIMIT), 2)] += 1
        words = tuple(word.casefold()[:24] for word in _WORD.findall(row["question"][:200])[:3])
        if words not in self.phrases and len(self.phrases) >= _MOST_PHRASES:
            words = words[:1] if words[:1] in self.phrases else ()  # memory stays bounded; rare ones lose their end
        self.phrases[words] += 1

    def __add__(self, other: Figures) -> Figures:
        return Figures(
            self.rows + other.rows,
            self.changed + other.changed,
            self.sentences + other.sentences,
            self.sentences_changed + other.sentences_changed,
            {name: counted + other.words[name] for name, counted in self.words.items()},
            {name: counted + other.scores[name] for name, counted in self.scores.items()},
            self.phrases + other.phrases,
        )

    def shown(self) -> Record:
        """Totals and means for the page."""
        return {
            "rows": self.rows,
            "changed": self.changed,
            "sentences": self.sentences.total(),
            "sentences_changed": self.sentences_changed.total(),
            "draft_words": _mean(self.words["draft"]),
            "answer_words": _mean(self.words["answer"]),
            "draft_logprob": _mean(self.scores["draft_logprob"]),
            "answer_logprob": _mean(self.scores["answer_logprob"]),
        }

    def charts(self, corrected: bool) -> list[Chart]:
        """The charts that have data."""
        names = {"draft": "draft", "answer": "answer"} if corrected else {"answer": "answer"}
        lengths = {name: self.words[name] for name in names}
        logprobs = {name: self.scores[f"{name}_logprob"] for name in names}
        rates = [
            (f"{position}+" if position == _POSITIONS else str(position), self.sentences_changed[position], whole)
            for position, whole in sorted(self.sentences.items())
            if corrected
        ]
        legend = "draft" if corrected else ""
        charts = [
            Chart("Answer length", "Words per text", legend, histogram(lengths, step=1, label="words", low=0)),
            Chart("Edits by sentence", "Share of sentences that correction changed", "", bars(rates, label="sentence")),
            Chart(
                "Log-probability",
                "Mean over a text’s tokens: how sure the model was",
                legend,
                histogram(logprobs, step=0.01, label="mean log-probability"),
            ),
            Chart(
                "Visual dependency",
                "Log-probability with the image minus without it; near 0, the answer does not depend on it",
                "",
                histogram(
                    {"answer": self.scores["visual_dependency"]}, step=0.01, label="difference of log-probabilities"
                ),
            ),
        ]
        return [chart for chart in charts if chart.svg]

    def questions_chart(self) -> str:
        """A sunburst of the first words of questions."""
        return sunburst(self.phrases, label="First words of the questions")

    def first_words(self, most: int = 8) -> list[tuple[str, int]]:
        """The most frequent first words, in the order of the sunburst's colours."""
        counted: Counter[str] = Counter()
        for words, count in self.phrases.items():
            if words:
                counted[words[0]] += count
        return sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:most]


def shown_steps(row: Record) -> list[Record]:
    """The steps that stand for a sentence: one that wrote none does where it omitted what the draft had."""
    return [step for step in row["trace"] or [] if step["sentence"] or step["changed"]]


class SetAside:
    """Skipped inputs and rejected samples, grouped by reason; reasons that differ only in numbers are merged.

    Args:
        examples: Number of records to keep per group.
    """

    def __init__(self, examples: int) -> None:
        self.examples, self.count = examples, 0
        self._groups: dict[str, Group] = {}

    def add(self, record: Record) -> None:
        """Counts a record of the quarantine."""
        key = re.sub(r"\d[\d,.]*", "0", record["reason"])
        if key not in self._groups and len(self._groups) >= _MOST_REASONS:  # memory and page stay bounded
            key = _OTHER_REASONS
        named = _OTHER_REASONS if key == _OTHER_REASONS else record["reason"]
        group = self._groups.setdefault(key, Group(named))
        inputs = inputs_of(record)
        self.count += inputs
        group.count += inputs
        if len(group.records) < self.examples:
            group.records.append({**record, "copies": inputs - 1})
        else:
            group.more += inputs

    def groups(self) -> list[Group]:
        """The groups, in order of decreasing count."""
        return sorted(self._groups.values(), key=lambda group: -group.count)


def _mean(counts: Counter[float]) -> float | None:
    total = counts.total()
    return sum(value * count for value, count in counts.items()) / total if total else None
