"""Loads the two tokenizers of a converted model: a fast one for the language model, and the Q-Former's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors
from tokenizers.models import BPE
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.tokenization_utils_base import generate_merges

from vigc.errors import VigcError
from vigc.hub.revisions import commit_of
from vigc.processing.model_folder import loading_model

_SPACE = "▁"
_CONTROL = ("<unk>", "<s>", "</s>")
PAD, IMAGE, DEC = "[PAD]", "<image>", "[DEC]"


def load_language_model_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Vicuna's SentencePiece model as a fast tokenizer that yields the same ids as the released code.

    The release loads the slow tokenizer with `bos = eos = unk = "</s>"` and appends `[PAD]` (`Blip2VicunaInstruct`):
    prompts begin with id 2, a text with a leading space has an extra "▁", and white space around special tokens is
    removed. `<image>`, which transformers' InstructBLIP needs, is appended last.

    Raises:
        FileNotFoundError: The folder has no `tokenizer.model`.
        ImportError: The `sentencepiece` package is missing (`pip install vigc[convert]`).
    """
    path = folder / "tokenizer.model"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no tokenizer.model: --language-model takes a Vicuna folder with it.")
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError as error:
        raise ImportError("Reading tokenizer.model needs sentencepiece: pip install 'vigc[convert]'.") from error
    pieces = SentencePieceProcessor(model_file=str(path))
    vocab = {pieces.id_to_piece(index): index for index in range(pieces.get_piece_size())}
    scores = {piece: pieces.get_score(index) for piece, index in vocab.items() if not _is_special(pieces, index)}
    # Merges in SentencePiece's order: by the score of the merged piece.
    model = BPE(vocab, generate_merges(vocab, scores), unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = [AddedToken(name, lstrip=True, rstrip=True, normalized=False, special=True) for name in (*_CONTROL, PAD)]
    tokenizer.add_special_tokens([*special, AddedToken(IMAGE, normalized=False, special=True)])
    eos = tokenizer.token_to_id("</s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> $A", pair="</s> $A </s> $B", special_tokens=[("</s>", eos)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="</s>",
        eos_token="</s>",
        unk_token="</s>",
        pad_token=PAD,
        additional_special_tokens=[IMAGE],
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def load_qformer_tokenizer(name_or_folder: str | Path) -> PreTrainedTokenizerBase:
    """The Q-Former's BERT tokenizer with `[DEC]` as the beginning of sequence, as in the released code."""
    with loading_model(str(name_or_folder), VigcError):
        commit = commit_of(str(name_or_folder))
        tokenizer = AutoTokenizer.from_pretrained(name_or_folder, revision=commit, trust_remote_code=False)
    tokenizer.add_special_tokens({"bos_token": DEC})
    tokenizer.truncation_side = "left"
    return tokenizer


def _is_special(pieces: Any, index: int) -> bool:
    return pieces.is_control(index) or pieces.is_unknown(index) or pieces.is_byte(index)
