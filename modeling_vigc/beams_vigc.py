"""Beam search for one request, like transformers'. It can end as soon as the first segment is decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from .decoding_vigc import Decoding, Text
from .requests_vigc import Completion, StopRule

_NEVER = -1e9


@dataclass(slots=True)
class _Hypothesis:
    """A hypothesis of a beam search.

    Args:
        text: Its ids and their log-probabilities.
        parent: The beam that it continues.
        hits: Whether it is complete, by an end of sequence or by its length.
    """

    text: Text
    parent: int = 0
    hits: bool = False


@dataclass(slots=True)
class _Finished:
    """Complete hypotheses with their scores, best first; None for free places."""

    scores: torch.Tensor
    texts: list[_Hypothesis | None] = field(default_factory=list)


class BeamSearch:
    """The state of a beam search.

    Arithmetic and result are those of `GenerationMixin._beam_search` for one row of its batch. One exception: if only
    the first segment is wanted, the search ends when all running beams and the best complete hypothesis begin with the
    same segment, because any hypothesis that could still win continues one of them.

    Args:
        decoding: The settings; `decoding.beams` hypotheses are kept.
        until: The rule of the first segment.
        whole: Whether more than the first segment is wanted.
        n: Number of completions; all but the best become `alternatives`.
        prompt: See [`Text`].
    """

    def __init__(
        self, decoding: Decoding, until: StopRule | None, whole: bool, n: int = 1, prompt: Sequence[int] = ()
    ) -> None:
        self.decoding, self.until, self.n = decoding, None if whole else until, n
        self.prompt = list(prompt)
        beams = decoding.beams
        self.keep = max(2, 1 + len(decoding.stop_ids)) * beams
        self.running = [_Hypothesis(Text(until, whole)) for _ in range(beams)]
        self.scores = torch.full((beams,), _NEVER)
        self.scores[0] = 0.0
        self.finished = _Finished(torch.full((beams,), _NEVER), [None] * beams)
        self.improvable = True
        self.outcome: Completion | None = None

    def advance(self, logits: torch.Tensor) -> list[int]:
        """Adds a token to each running beam.

        Args:
            logits: float32 (beams, vocabulary).

        Returns:
            For each beam, the previous beam that it continues. `outcome` is set when the search is over.
        """
        scores, found = self._candidates(logits)
        length = len(found[0].text.ids)
        self._finish(scores, found, length)
        hit = torch.tensor([item.hits for item in found])
        self.scores, chosen = torch.topk(scores + hit.to(torch.float32) * _NEVER, len(self.running))
        self.running = [found[index] for index in chosen.tolist()]
        for item in self.running:
            self.decoding.note_unit(item.text)
        self.improvable &= self._may_improve(length)
        full = all(self.finished.texts) and self.decoding.config.early_stopping is True
        if not self.improvable or full or bool(hit.all()):
            self.outcome = self._best()
        elif self.until is not None and self._agreed(self.until):
            self.outcome = self._completion(self.running[0].text, "unit")
        return [item.parent for item in self.running]

    @property
    def leader(self) -> Text:
        """The best incomplete hypothesis."""
        return self.running[0].text

    @property
    def tokens(self) -> list[int]:
        """The last token of each running beam."""
        return [item.text.ids[-1] for item in self.running]

    def _candidates(self, logits: torch.Tensor) -> tuple[torch.Tensor, list[_Hypothesis]]:
        """The best continuations with their summed scores, float32 (kept,), best first."""
        logprobs = self.decoding.without_image(logits).log_softmax(-1)
        seen = [self.prompt + item.text.ids for item in self.running]
        ids: Any = torch.tensor(seen, dtype=torch.long, device=logits.device)
        scores = self.decoding.processors(len(self.prompt))(ids.reshape(len(self.running), -1), logprobs)
        summed = (scores + self.scores.to(scores.device)[:, None]).flatten()
        values, places = torch.topk(summed, self.keep)
        parents, tokens = places // logits.shape[-1], places % logits.shape[-1]
        own = logprobs[parents, tokens].tolist()
        found = [self._continued(*step) for step in zip(parents.tolist(), tokens.tolist(), own, strict=True)]
        return values.cpu(), found

    def _continued(self, parent: int, token: int, logprob: float) -> _Hypothesis:
        old = self.running[parent]
        text = replace(old.text, ids=[*old.text.ids, token], logprobs=[*old.text.logprobs, logprob])
        hits = token in self.decoding.stop_ids or len(text.ids) >= self.decoding.max_new_tokens
        return _Hypothesis(text, parent, hits)

    def _finish(self, scores: torch.Tensor, found: list[_Hypothesis], length: int) -> None:
        """Adds complete hypotheses to the list of the best."""
        config, beams = self.decoding.config, len(self.running)
        complete = [item.hits and place < beams for place, item in enumerate(found)]
        closed = (all(self.finished.texts) and config.early_stopping is True) or not self.improvable
        new = scores / length**config.length_penalty
        new = new + torch.tensor([0.0 if ready else _NEVER for ready in complete])
        if closed:
            new = new + _NEVER
        merged, chosen = torch.topk(torch.cat([self.finished.scores, new]), beams)
        texts = self.finished.texts + [item if ready else None for item, ready in zip(found, complete, strict=True)]
        self.finished = _Finished(merged, [texts[index] for index in chosen.tolist()])

    def _may_improve(self, length: int) -> bool:
        """Whether the best running beam could still beat a complete hypothesis, by transformers' estimate."""
        config = self.decoding.config
        if config.early_stopping == "never" and config.length_penalty > 0:
            length = self.decoding.max_new_tokens
        best = self.scores[0] / length**config.length_penalty
        worst = self.finished.scores.min() if all(self.finished.texts) else torch.tensor(_NEVER)
        return bool(best > worst)

    def _agreed(self, rule: StopRule) -> bool:
        units = {item.text.unit for item in self.running}
        if len(units) > 1 or None in units:
            return False
        best = self.finished.texts[0]
        if best is None:
            return True
        text = self._completion(best.text, "").text
        end = rule.end(text, complete=True)
        return end is not None and text[:end].strip() in units

    def _best(self) -> Completion:
        pairs = zip(self.finished.texts, self.finished.scores.tolist(), strict=True)
        found = [self._complete(item.text, score) for item, score in pairs if item is not None]
        if not found:  # no continuation was possible
            return self._completion(self.running[0].text, "length")
        found[0].alternatives = tuple(found[1 : self.n])
        return found[0]

    def _complete(self, text: Text, score: float) -> Completion:
        completion = self._completion(text, "eos" if text.ids[-1] in self.decoding.stop_ids else "length")
        completion.score = score
        return completion

    def _completion(self, text: Text, reason: str) -> Completion:
        count = len(text.ids) - (text.ids[-1] in self.decoding.stop_ids)
        ids = text.ids[:count]
        return Completion(self.decoding.decode(ids).strip(), reason, ids, text.logprobs[:count])
