"""Reads the configuration files of models in folders and on the Hub, but no weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedConfig

from vigc.errors import GenerationError, TransientError, VigcError, first_line, is_out_of_memory, is_transient
from vigc.hub.errors import is_hub_away
from vigc.hub.revisions import commit_of
from vigc.processing.model_folder import folder_fingerprint, loading_model
from vigc.scenes import model_name

from .generator import ModelFacts


@dataclass(frozen=True)
class Checkpoint:
    """A model in a folder, or on the Hub at one commit.

    Args:
        name: The folder or the Hub name.
        commit: The commit; None for a folder.
        config: The parsed `config.json`.
        device: The device to run on.
        dtype: The dtype to load weights in; "auto" is the saved one, or float32 on a CPU.
        trust_remote_code: Whether code in the model repository may run.
        error: Class of the errors of loading it.
    """

    name: str
    commit: str | None
    config: Mapping[str, Any]
    device: torch.device
    dtype: str = "auto"
    trust_remote_code: bool = False
    error: type[VigcError] = GenerationError

    @property
    def model_type(self) -> str | None:
        """The `model_type` of transformers."""
        return self.config.get("model_type")

    def facts(self, *, remote_code: bool = False, scores: bool = False) -> ModelFacts:
        """The facts for a plan; for the arguments see [`ModelFacts`].

        Raises:
            ValueError: The configuration does not give the dtype of the weights.
        """
        trained_on = self.config.get("trained_on")
        return ModelFacts(
            public_name(self.name),
            recorded_revision(self.name, self.commit),
            self._loaded_dtype(),
            self.device.type,
            _generation_config(self.name, self.commit or "main"),
            remote_code,
            trained_on if isinstance(trained_on, str) else None,
            scores,
        )

    def _loaded_dtype(self) -> str:
        if self.dtype != "auto":
            return self.dtype
        if self.device.type == "cpu":
            return "float32"
        saved = self.config.get("dtype") or self.config.get("torch_dtype")
        if saved is None:
            raise ValueError("its configuration does not give the dtype of the weights: give --dtype")
        return dtype_name(saved)


def read_checkpoint(
    name: str,
    revision: str | None,
    *,
    device: torch.device,
    dtype: str,
    trust_remote_code: bool,
    error: type[VigcError] = GenerationError,
) -> Checkpoint:
    """Reads the checkpoint of a folder or Hub name.

    Args:
        name: The folder or the Hub name.
        revision: Commit, tag or branch on the Hub, resolved to its current commit.
        device: See [`Checkpoint`].
        dtype: See [`Checkpoint`].
        trust_remote_code: See [`Checkpoint`].
        error: See [`Checkpoint`].

    Raises:
        VigcError: `error`: there is no such model.
        TransientError: The Hub cannot be reached.
    """
    with loading_errors(name, error):
        commit = commit_of(name, revision)
        config, _ = PreTrainedConfig.get_config_dict(name, revision=commit)
    return Checkpoint(name, commit, config, device, dtype, trust_remote_code, error)


def dtype_name(dtype: torch.dtype | str) -> str:
    """The name of a dtype, without the prefix "torch."."""
    return str(dtype).removeprefix("torch.")


def public_name(name: str) -> str:
    """The name of a model in a dataset: its Hub name, or the name of its folder."""
    known = model_name(name)
    return Path(name).resolve().name if known == name and Path(name).is_dir() else known


def recorded_revision(name: str, commit: str | None) -> str | None:
    """What identifies the weights: a fingerprint of a folder's files, or the commit on the Hub."""
    return folder_fingerprint(Path(name)) if Path(name).is_dir() else commit


@contextmanager
def loading_errors(name: str, error: type[VigcError] = GenerationError, role: str = "") -> Iterator[None]:
    """Turns loading errors into one-line messages; Hub outages and lack of memory become a `TransientError`.

    Args:
        name: The model's name, as the user gave it.
        error: Class of all other errors.
        role: What the model is loaded as, such as " as a causal language model".
    """
    with loading_model(name, error, role):
        try:
            yield
        except Exception as found:  # with a damaged folder, transformers raises any type
            if (message := _transient(name, found)) is not None:
                raise TransientError(message) from found
            raise


def _transient(name: str, error: Exception) -> str | None:
    """The message about an error after which a retry can succeed; None for other errors."""
    if any(is_out_of_memory(found) for found in _chain(error)):
        return f"The model {name!r} does not fit into memory: free some, or give a smaller --dtype."
    if is_hub_away(error):
        return f"The Hub is unavailable for {name!r} ({first_line(error)}): run the same command again later."
    if any(is_transient(found) for found in _chain(error)):
        return f"The model {name!r} cannot be read now ({first_line(error)}): run the same command again later."
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes, since transformers may wrap the original error."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _generation_config(name: str, revision: str) -> GenerationConfig:
    """The generation config that transformers would load with the model."""
    try:
        return GenerationConfig.from_pretrained(name, revision=revision)
    except OSError:
        return GenerationConfig.from_pretrained(
            name, config_file_name="config.json", _from_model_config=True, revision=revision
        )
