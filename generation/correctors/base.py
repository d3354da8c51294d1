"""What a corrector is: a rollout that answers a question about an image again, and what it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from vigc.errors import GenerationError

if TYPE_CHECKING:
    from vigc.modeling_vigc.requests_vigc import Rollout, Sample
    from vigc.modeling_vigc.rollout_vigc import RolloutSettings


class CorrectorRollout(Protocol):
    """Makes the rollout that corrects an answer."""

    def __call__(
        self,
        image: Any,
        question: str,
        draft: str | None,
        settings: RolloutSettings,
        task: str | None = None,
        seed: int = 0,
    ) -> Rollout[Sample]:
        """A rollout that returns the sample with its corrected answer.

        Args:
            image: What `Request.images` takes.
            question: The question.
            draft: Its answer so far; None if there is none, which happens only to correctors that do not need one.
            settings: Prompts, IQF and decoding.
            task: The question's type, if it has one.
            seed: For sampling.
        """


@dataclass(frozen=True)
class Corrector:
    """A way to correct answers, the same in every command.

    Args:
        rollout: Makes the rollout of a question. It may be started several times for one answer, so that it changes
            nothing outside itself.
        needs_draft: Whether it reads the draft before its first request. If not, that request may be generated while
            the draft is still being generated, and drafts can be left out (`iqf_draft`).
        settings: `iqf_*` settings that belong to it; another value for one of them is refused.
    """

    rollout: CorrectorRollout
    needs_draft: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fixed(self) -> dict[str, Any]:
        """The `iqf_*` settings that cannot be chosen."""
        return {**({"iqf_draft": True} if self.needs_draft else {}), **self.settings}

    def check(self, name: str, given: Mapping[str, Any]) -> None:
        """Makes sure that no given setting contradicts the corrector.

        Args:
            name: What it is called.
            given: Decoding and `iqf_*` settings.

        Raises:
            GenerationError: One does.
        """
        for setting, value in self.fixed.items():
            if given.get(setting, value) != value:
                said = f"{setting}={given[setting]} contradicts the corrector {name!r}, which uses {value}"
                raise GenerationError(f"{said}: drop it, or choose another corrector.")
