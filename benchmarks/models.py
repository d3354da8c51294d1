"""Models of any size with seeded weights that write texts of realistic lengths, and pictures for them.

Nothing is scripted beside the weights, so that a forward pass costs what it costs with trained ones. The residual
stream is split: three quarters of it hold the current word, the rest what attention and the MLPs make of the context.
The language model's head links each word to those that may follow it in its sentence by the first part; which of them
does, and which sentence comes next, it picks by the second: by the picture, the question and the text so far.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import LlamaConfig, PreTrainedTokenizerFast
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from vigc.modeling_vigc import VigcConfig, VigcForConditionalGeneration
from vigc.processing import INSTRUCTION_TYPES, VigcProcessor

SPECIAL = ("<unk>", "<s>", "</s>", "[PAD]", "<image>", "[CLS]", "[SEP]")
QUESTION, ANSWER = "Question:", "Answer:"
# Chance that an answer goes on after its first, second, ... sentence: five sentences on average, as LLaVA's detailed
# descriptions and complex reasoning have them.
GOES_ON = (1.0, 0.97, 0.9, 0.7, 0.5, 0.3, 0.0)
# Share of words that hold a full stop and end nothing.
DOTTED = 0.004
# Share of places within sentences that have a choice of words, of how many, and how much the context favours one of
# them: "small" is left with 0.4 nats per word that it writes, fewer than the loss of about 0.8 in which fine-tuning on
# LLaVA's data ends (LLaVA's issue 579). Were words surer than any real model's, beams would seldom come to agree.
OPEN, CHOICE, FAVOUR = 0.5, 3, 2.0


@dataclass(frozen=True)
class Size:
    """Widths and depths; the vocabulary holds `words` words."""

    image: int
    patch: int
    vit: tuple[int, int, int, int]  # width, feed-forward width, layers, heads
    qformer: tuple[int, int, int, int]
    llm: tuple[int, int, int, int]
    words: int
    queries: int = 32


SIZES = {
    "tiny": Size(28, 14, (64, 128, 2, 4), (64, 128, 2, 4), (96, 192, 2, 4), 3_000, queries=8),
    "small": Size(224, 16, (384, 1536, 12, 6), (512, 2048, 9, 8), (640, 1728, 10, 10), 32_000),
    "7b": Size(224, 14, (1408, 6144, 39, 16), (768, 3072, 12, 12), (4096, 11008, 32, 32), 32_000),
}


class Sentences:
    """The sentences a model can write: each word of the vocabulary belongs to one, at one place.

    Args:
        count: Words in all.
        seed: Decides how long they are and how answers go on.
    """

    def __init__(self, count: int, seed: int) -> None:
        draw = random.Random(seed)
        self.words: list[str] = []
        self.next: dict[int, list[int]] = {}  # word -> the words of which one is behind it
        self.groups: list[list[int]] = [[] for _ in range(len(GOES_ON) + 1)]  # first words: questions, 1st sentences
        self.leads: dict[int, int] = {}  # last word -> group of what follows; -1 ends the text, -2 leads to ANSWER
        while len(self.words) < count - 150:
            group = 0 if draw.random() < 0.15 else draw.randint(1, len(GOES_ON))
            length = max(4, min(45, round(math.exp(draw.gauss(math.log(11 if group == 0 else 19), 0.4)))))
            self.groups[group].append(len(self.words))
            before: list[int] = []
            for place in range(length):
                inner = 0 < place < length - 1
                here = [self._word(draw, inner) for _ in range(CHOICE if inner and draw.random() < OPEN else 1)]
                self.next |= dict.fromkeys(before, here)
                before = here
            self.words[-1] += "?" if group == 0 else "."
            last = len(self.words) - 1
            self.leads[last] = -2 if group == 0 else (group + 1 if draw.random() < GOES_ON[group - 1] else -1)

    def _word(self, draw: random.Random, inner: bool) -> int:
        number = len(self.words)
        self.words.append(f"{number}.5" if inner and draw.random() < DOTTED else f"w{number}")
        return number


def build(
    size: str, seed: int = 0, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> tuple[VigcForConditionalGeneration, VigcProcessor]:
    """A model of `SIZES` and its processor."""
    sizes, sentences = SIZES[size], Sentences(SIZES[size].words, seed)
    asked = sorted({word for kind in INSTRUCTION_TYPES.values() for word in kind.prompt.split()} - {QUESTION, ANSWER})
    words = [*SPECIAL, QUESTION, ANSWER, *asked, *sentences.words]
    processor = _processor(sizes, words)
    torch.manual_seed(seed)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = VigcForConditionalGeneration(_config(sizes, len(words)))
    finally:
        torch.set_default_dtype(default)
    _teach(model, sentences, words)
    model.generation_config.max_new_tokens = 249
    return model.eval(), processor


def pictures(count: int, size: str, seed: int = 0) -> list[Image.Image]:
    """Pictures of coarse random patches, all different."""
    draw = np.random.default_rng(seed)
    side = SIZES[size].image
    coarse = draw.integers(0, 256, (count, 3, 3, 3), dtype=np.uint8)
    return [Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST) for pixels in coarse]


def _processor(sizes: Size, words: list[str]) -> VigcProcessor:
    side = {"height": sizes.image, "width": sizes.image}
    return VigcProcessor(
        BlipImageProcessorPil(size=side, image_mean=[0.5] * 3, image_std=[0.25] * 3),
        _tokenizer(words, "<s>", None),
        _tokenizer(words, "[CLS]", "[SEP]"),
        num_query_tokens=sizes.queries,
    )


def _tokenizer(words: list[str], begin: str, end: str | None) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in SPECIAL])
    ends = f"{begin} $A" + (f" {end}" if end else "")
    named = [(name, words.index(name)) for name in (begin, end) if name]
    tokenizer.post_processor = processors.TemplateProcessing(single=ends, special_tokens=named)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="[PAD]",
        padding_side="left",
        cls_token="[CLS]",
        sep_token="[SEP]",
        clean_up_tokenization_spaces=False,
        additional_special_tokens=["<image>"],
    )


def _config(sizes: Size, vocabulary: int) -> VigcConfig:
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    vit, qformer, llm = (dict(zip(names, widths, strict=True)) for widths in (sizes.vit, sizes.qformer, sizes.llm))
    return VigcConfig(
        vision_config={**vit, "image_size": sizes.image, "patch_size": sizes.patch, "initializer_range": 0.02},
        qformer_config={
            **qformer,
            "vocab_size": vocabulary,
            "encoder_hidden_size": vit["hidden_size"],
            "cross_attention_frequency": 2,
            "max_position_embeddings": 512,
        },
        text_config=LlamaConfig(
            **llm,
            vocab_size=vocabulary,
            max_position_embeddings=2048,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=3,
        ).to_dict(),
        num_query_tokens=sizes.queries,
        image_token_index=SPECIAL.index("<image>"),
    )


@torch.no_grad()
def _teach(model: VigcForConditionalGeneration, sentences: Sentences, words: list[str]) -> None:
    """Sets weights so that sentences come out whole, and pictures and texts decide which."""
    llm = model.language_model
    width = llm.config.hidden_size
    split = width * 3 // 4
    place = {word: index for index, word in enumerate(words)}
    ids = [place[word] for word in sentences.words]
    device = llm.lm_head.weight.device
    draw = torch.Generator(device).manual_seed(1)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, device=device)

    embeddings = torch.zeros(len(words), width, device=device)
    embeddings[:, :split] = noise(len(words), split)
    head = torch.zeros(len(words), width, device=device)

    def link(word: int, direction: torch.Tensor, strength: float) -> None:
        head[word, :split] += strength * direction / direction.norm() / math.sqrt(width)

    leads = noise(len(sentences.groups) + 2, split)  # a direction for each group; the last two for the leads -2 and -1
    for last, group in sentences.leads.items():
        embeddings[ids[last], :split] = 0.3 * leads[group]
    embeddings[place[QUESTION], :split], embeddings[place[ANSWER], :split] = 0.3 * leads[0], 0.3 * leads[1]
    for word, following in sentences.next.items():
        for one in following:
            link(ids[one], embeddings[ids[word], :split], 16 * width / split)
            if len(following) > 1:
                head[ids[one], split:] = FAVOUR * noise(width - split) / math.sqrt(width - split)
    link(place[QUESTION], embeddings[place["it."], :split], 20 * width / split)
    link(place[ANSWER], leads[-2], 60)
    link(place["</s>"], leads[-1], 60)
    for number, group in enumerate(sentences.groups):
        for first in group:
            link(ids[first], leads[number], 50)
            head[ids[first], split:] = 4.0 * noise(width - split) / math.sqrt(width - split)
    llm.get_input_embeddings().weight.copy_(embeddings)
    llm.lm_head.weight.copy_(head * math.sqrt(width) / math.sqrt(split) * 0.9)
    _read_context(llm, split)
    model.vision_model.embeddings.patch_embedding.weight.mul_(5)
    for name, weight in model.qformer.named_parameters():  # pictures differ by more than rounding
        if "crossattention.output.dense.weight" in name:
            weight.mul_(400)


def _read_context(llm: torch.nn.Module, split: int) -> None:
    """Scales attention and MLPs to a given share of the stream at any width, and keeps them out of the words' part."""
    config = llm.config
    width, depth = config.hidden_size, math.sqrt(config.num_hidden_layers)
    inner = config.initializer_range * math.sqrt(width)  # what projections make of a normalised input
    attended = 0.2 * inner  # a mean over many places
    gated = inner**2 / 2
    for layer in llm.model.layers:
        out, down = layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight
        out.mul_(0.22 / (depth * attended * math.sqrt(width) * config.initializer_range))
        down.mul_(0.1 / (depth * gated * math.sqrt(config.intermediate_size) * config.initializer_range))
        out[:split], down[:split] = 0, 0
