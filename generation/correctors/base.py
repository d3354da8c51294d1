"""The interface of a corrector: a rollout that answers a question about an image again."""

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
            image: The image, as in `Request.images`.
            question: The question.
            draft: The draft; can be None for correctors that do not need one.
            settings: Prompts, IQF and decoding.
            task: The task type, if there is one.
            seed: The seed of sampling.
        """


@dataclass(frozen=True)
class Corrector:
    """A method of correcting answers, shared by all commands.

    Args:
        rollout: Makes the rollout of a question. It may be started several times per answer and must have no side
            effects.
        needs_draft: Whether it reads the draft before its first request. If not, that request can be generated together
            with the draft, and drafts can be omitted (`iqf_draft`).
        settings: `iqf_*` settings that it fixes; other values are refused.
    """

    rollout: CorrectorRollout
    needs_draft: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fixed(self) -> dict[str, Any]:
        """The `iqf_*` settings that it fixes."""
        return {**({"iqf_draft": True} if self.needs_draft else {}), **self.settings}

    def check(self, name: str, given: Mapping[str, Any]) -> None:
        """Checks that no explicit setting contradicts the corrector.

        Args:
            name: The name of the corrector.
            given: The explicit decoding and `iqf_*` settings.

        Raises:
            GenerationError: A setting contradicts it.
        """
        for setting, value in self.fixed.items():
            if given.get(setting, value) != value:
                said = f"{setting}={given[setting]} contradicts the corrector {name!r}, which uses {value}"
                raise GenerationError(f"{said}: remove it, or choose another corrector.")
