"""VIC over a dataset of others: its questions are answered again, and both answers are kept."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vigc.modeling_vigc import IqfSettings
from vigc.processing import INSTRUCTION_TYPES
from vigc.processing.rows import row_id, to_messages

from .attempts import NOT_FINITE, Draft, Fitting
from .errors import GenerationError
from .finish import Summary
from .folder import CORRECTED
from .loading import Item, Loader
from .models import WritingModel
from .plan import Selection
from .run import run_job
from .scoring import visual_dependencies
from .settings import JobSettings, row_constants
from .shards import MakeShard, ShardOutput
from .sources import Collection, Source
from .worker import AGAIN, row_seed

_FILES = (".json", ".jsonl", ".ndjson")  # of LLaVA's form


def correct_dataset(dataset: str | os.PathLike[str], output: str | os.PathLike[str], **fields: Any) -> Summary:
    """Answers the questions of a dataset again with VIC: a copy with the old answer as `draft`, the new as `answer`.

    Fields and layout of what was read are kept in `extra`, so that an export gives the same layout back. Entries
    without picture are passed on as they are. All else is as in `generate_dataset`: the same folder, the same resuming.

    Args:
        dataset: A LLaVA file (.json, .jsonl), or a dataset in TRL's or FineVision's columns: a parquet file, a folder
            or a name on the Hub.
        output: The folder to write.
        fields: All that is set of [`CorrectJob`] and [`JobSettings`]; only `model` has no default.

    Returns:
        Counts over the whole folder, what was set aside and why, and sample rows.

    Raises:
        GenerationError: Input, settings or folders that cannot be worked with; its `exit_code` says of which kind.
    """
    return run_job(CorrectJob(dataset=dataset, **fields), output)


@dataclass(frozen=True, kw_only=True)
class CorrectJob(JobSettings):
    """Answers to given questions are written again. What is not listed here is said of [`JobSettings`].

    Args:
        dataset: What is corrected.
        type: The type of instruction that the questions are of; decides how VIC is asked. By default just the question.
    """

    kind = "correct"
    corrects = True

    dataset: str | os.PathLike[str]
    type: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.type is not None and self.type not in INSTRUCTION_TYPES:
            raise GenerationError(
                f"Type {self.type!r} is not known: use one of {', '.join(INSTRUCTION_TYPES)}, or none."
            )

    @property
    def hub_dataset(self) -> str | None:
        """What is corrected, if it is on the Hub."""
        path = Path(self.dataset)
        return None if path.suffix.lower() in _FILES or path.exists() else str(path)

    def collection(self) -> Collection:
        """Opens the dataset."""
        from .sources_text import DatasetConversations, LlavaConversations

        path = Path(self.dataset)
        if path.suffix.lower() in _FILES:
            return LlavaConversations(path, path.parent if self.image_root is None else Path(self.image_root))
        return DatasetConversations(str(path), subset=self.subset, split=self.split, revision=self.data_revision)

    def selection(self) -> Selection:
        """All entries."""
        return Selection(self.collection(), limit=self.limit, shard_size=self.shard_size)

    def configuration(self) -> dict[str, Any]:
        """The one type."""
        return {"types": [self.type or CORRECTED]}

    def maker(self, loaded: WritingModel, plan: dict[str, Any]) -> MakeShard:
        """Corrects the entries of a shard."""
        corrector = Corrector(
            loaded.model,
            loaded.processor,
            configuration=plan["configuration"],
            settings=plan["settings"],
            constants=row_constants(plan),
        )
        return corrector.maker(
            Loader(self.collection(), corrector.prepare, self.batch_size, embed=self.store == "embed")
        )


class Corrector:
    """Answers the questions of entries again.

    Args:
        model: A VIGC model.
        processor: Belongs to it.
        configuration: All that decides what is written: `types` (one), `seed`, `retries`, `score`, `iqf`, `decoding`.
        settings: Decoding and `iqf_*` settings that are not the model's own.
        constants: Columns that are the same in every row, unless the entry states its own.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        configuration: dict[str, Any],
        settings: dict[str, Any],
        constants: dict[str, str],
    ) -> None:
        self.model, self.processor = model, processor
        self.kind = configuration["types"][0]
        self.task = self.kind if self.kind in INSTRUCTION_TYPES else None
        self.seed, self.retries, self.score = configuration["seed"], configuration["retries"], configuration["score"]
        self.samples = bool(configuration["decoding"].get("do_sample"))
        self.rule = IqfSettings(**configuration["iqf"]).rule
        self.settings, self.constants = settings, constants
        self.fitting = Fitting()

    def prepare(self, image: Any) -> torch.Tensor:
        """A picture's pixels, float (1, 3, H, W)."""
        return self.processor(images=[image], return_tensors="pt")["pixel_values"]

    def maker(self, loader: Loader) -> MakeShard:
        """Makes the output of a shard from its entries."""

        def make(sources: list[Source], say: Callable[[str], Any]) -> ShardOutput:
            output, halved = ShardOutput(), self.fitting.halved
            for batch in loader.batches(sources, output.skipped):
                self.write(batch, output)
                say(f"{output.images + output.bare} of {len(sources)} entries")
            output.halved = self.fitting.halved - halved
            return output

        return make

    def write(self, batch: Sequence[Item], output: ShardOutput) -> None:
        """Adds the rows of a batch to the output, and records of answers that are none."""
        seen = [item for item in batch if item.pixels is not None]
        drafts: dict[int, list[Draft]] = {}
        for part in self.fitting.run(len(seen), lambda rows: self._correct(seen[rows])):
            drafts |= part
        for item in batch:
            pairs = item.source.pairs or []
            if item.pixels is None:
                output.bare += 1
                output.rows += [self._row(item, pair, None) for pair in pairs]
                continue
            output.images += 1
            for pair, draft in zip(pairs, drafts[id(item)], strict=True):
                fault = draft.fault()
                if fault is None:
                    output.rows.append(self._row(item, pair, draft))
                else:
                    output.rejects.append(self._reject(item, pair, draft, fault))
            item.pixels = None

    def _correct(self, items: Sequence[Item]) -> dict[int, list[Draft]]:
        """The new answers of each entry."""
        pixels = torch.cat([item.pixels for item in items if item.pixels is not None])
        pixels = pixels.to(self.model.device, self.model.dtype)
        pairs = [(place, pair) for place, item in enumerate(items) for pair in item.source.pairs or []]
        ids = [self._id(items[place], pair) for place, pair in pairs]
        with torch.inference_mode():
            where = torch.tensor([place for place, _ in pairs], device=pixels.device)
            # The ViT once for each picture, whatever the number of questions.
            embeds = self.model.get_image_embeds(pixels)[where]
            drafts = self._answer([pair for _, pair in pairs], ids, embeds, 0)
            for attempt in range(1, self.retries + 1):
                again = [place for place, draft in enumerate(drafts) if draft.fault() not in (None, NOT_FINITE)]
                if not again:
                    break
                chosen = torch.tensor(again, device=pixels.device)
                others = self._answer(
                    [pairs[place][1] for place in again], [ids[place] for place in again], embeds[chosen], attempt
                )
                for place, draft in zip(again, others, strict=True):
                    if draft.fault() is None:
                        drafts[place] = draft
            if self.score:
                self._score(drafts, embeds)
        found: dict[int, list[Draft]] = {id(item): [] for item in items}
        for (place, _), draft in zip(pairs, drafts, strict=True):
            found[id(items[place])].append(draft)
        return found

    def _answer(
        self, pairs: Sequence[dict[str, Any]], ids: Sequence[str], embeds: torch.Tensor, attempt: int
    ) -> list[Draft]:
        settings = self.settings if self.samples or not attempt else {**self.settings, **AGAIN}
        output = self.model.generate(
            image_embeds=embeds,
            processor=self.processor,
            mode="vic",
            task=None if self.task is None else [self.task] * len(pairs),
            questions=[pair["question"] for pair in pairs],
            row_seeds=[row_seed(self.seed, f"{id_}/{attempt}" if attempt else id_) for id_ in ids],
            return_dict_in_generate=True,
            **settings,
        )
        drafts = []
        for row, pair in enumerate(pairs):
            answer = output.answers[row]
            trace = self._compared(output.trace[row], pair["answer"])
            drafts.append(
                Draft(
                    pair["question"],
                    pair["answer"],
                    answer,
                    None,
                    answer or "",
                    trace,
                    None,
                    output.answer_logprobs[row],
                    output.answers_given_question[row] if output.answers_given_question else None,
                    attempt=attempt,
                )
            )
        return drafts

    def _compared(self, trace: list[dict[str, Any]], given: str) -> list[dict[str, Any]]:
        """The trace, with whether each step's text differs from the given answer's at its place."""
        units, place, compared = self.rule.split_all(given), 0, []
        for number, step in enumerate(trace, 1):
            kept = self.rule.split_all(step["sentence"])
            # The last step stands for all the rest, so that what was left out counts as a change.
            end = len(units) if number == len(trace) else place + len(kept)
            compared.append({**step, "changed": kept != units[place:end]})
            place += len(kept)
        return compared

    def _score(self, drafts: Sequence[Draft], embeds: torch.Tensor) -> None:
        good = [place for place, draft in enumerate(drafts) if draft.fault() is None]
        if good:
            scores = visual_dependencies(
                self.model,
                self.processor,
                embeds[torch.tensor(good, device=embeds.device)],
                [str(drafts[place].question) for place in good],
                [str(drafts[place].answer) for place in good],
                [self.task] * len(good),
            )
            for place, score in zip(good, scores, strict=True):
                drafts[place].dependency = score

    def _id(self, item: Item, pair: dict[str, Any]) -> str:
        # Several conversations may be about one picture.
        kind = f"{self.kind}/{pair.get('conversation_id')}"
        digest = item.digest or hashlib.sha256(b"").hexdigest()
        return row_id(digest, kind, self.constants["config_hash"], pair.get("turn") or 0)

    def _row(self, item: Item, pair: dict[str, Any], draft: Draft | None) -> dict[str, Any]:
        answer = pair["answer"] if draft is None else str(draft.answer)
        own = {name: pair[name] for name in ("source", "license") if pair.get(name)}
        return {
            "id": self._id(item, pair),
            "image": item.image,
            "image_id": item.source.image_id,
            "type": self.kind,
            "question_index": pair.get("turn") or 0,
            "instruction": None,
            "question": pair["question"],
            "draft": pair["answer"],
            "answer": answer,
            "messages": to_messages(pair["question"], answer),
            "trace": draft.trace if draft else [],
            "scores": {
                "draft_logprob": None,
                "answer_logprob": draft.answer_logprob if draft else None,
                "visual_dependency": draft.dependency if draft else None,
            },
            "answers": None,
            "weights": None,
            "objects": None,
            "conversation_id": pair.get("conversation_id"),
            "turn": pair.get("turn") or 0,
            "extra": pair.get("extra"),
            **self.constants,
            **own,
        }

    def _reject(self, item: Item, pair: dict[str, Any], draft: Draft, reason: str) -> dict[str, Any]:
        return {
            "kind": "text",
            "id": self._id(item, pair),
            "path": item.source.name,
            "image_id": item.source.image_id,
            "sha256": item.digest,
            "type": self.kind,
            "instruction": pair["question"],
            "text": draft.text,
            "draft": pair["answer"],
            "conversation_id": pair.get("conversation_id"),
            "turn": pair.get("turn") or 0,
            "reason": reason,
            "attempts": 1 if reason == NOT_FINITE else self.retries + 1,
        }
