"""Loading and saving of models: with code and card, and compatible with checkpoints of older transformers."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, cast

from transformers.utils.hub import cached_file


class Stored:
    """Overrides of loading and saving for VIGC models."""

    config: Any

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Like `PreTrainedModel.from_pretrained`. Models saved before November 2024 also get an `<image>` embedding.

        At that time InstructBLIP's tokenizers and configurations had no `<image>`.
        """
        loaded = cast(Any, super()).from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if model.config.image_token_index is None and model.config.use_decoder_only_language_model:
            # The processor adds `<image>` to the tokenizer after all existing tokens.
            place = model.get_input_embeddings().num_embeddings
            model.resize_token_embeddings(place + 1, mean_resizing=False)
            model.config.image_token_index = place
        return loaded

    def set_auto_map(self) -> None:
        """Adds `AutoModel` to the auto map of a saved folder; registration only supports one auto class."""
        auto_map = getattr(self.config, "auto_map", None) or {}
        self.config.auto_map = {**auto_map, "AutoModel": "modeling_vigc.VigcForConditionalGeneration"}

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Like `PreTrainedModel.save_pretrained`, but with code for machines without vigc."""
        self.set_auto_map()
        cast(Any, super()).save_pretrained(save_directory, *args, **kwargs)

    def _upload_modified_files(self, working_dir: str | os.PathLike, repo_id: str, *args: Any, **kwargs: Any) -> Any:
        """Uploads the card of the folder or repository that the model was loaded from, if it has one.

        Otherwise `push_to_hub` would write an empty card. `vigc push` publishes the same card.
        """
        if (text := _card_of(str(self.config._name_or_path), str(repo_id))) is not None:
            Path(working_dir, "README.md").write_text(text, encoding="utf-8")
        return cast(Any, super())._upload_modified_files(working_dir, repo_id, *args, **kwargs)


def _card_of(source: str, repo_id: str) -> str | None:
    """The card of a model folder or repository, with `repo_id` in its code examples; None if there is none."""
    try:
        card = cached_file(source, "README.md") if source else None
    except OSError:
        return None
    if card is None:
        return None
    text = Path(card).read_text(encoding="utf-8")
    title = re.search(r"^# (.+)$", text, re.MULTILINE)
    for name in {source, Path(source).name, re.sub(r"\\(.)", r"\1", title[1]) if title else source}:
        text = text.replace(f'("{name}"', f'("{repo_id}"')
    return text
