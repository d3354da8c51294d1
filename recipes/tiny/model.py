"""The architecture of vigc-tiny: sizes, initial weights, word-level tokenizers and the processor."""

from __future__ import annotations

import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import WordLevel
from torch import nn
from transformers import BertTokenizer, GenerationConfig, LlamaConfig, PreTrainedTokenizerFast
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from vigc.modeling_vigc import VigcConfig, VigcForConditionalGeneration
from vigc.processing import VigcProcessor
from vigc.scenes.render import PICTURE_SIZE
from vigc.scenes.vocabulary import PUNCTUATION, first_words, hyphenated, later_words

WIDTH = 128
QUERIES = 9
UNKNOWN, BEGIN, END, PAD, IMAGE = "<unk>", "<s>", "</s>", "[PAD]", "<image>"
_SPACE = "▁"


def build_processor(queries: int = QUERIES) -> VigcProcessor:
    """The processor: images in the renderer's size, words as tokens, one `<image>` token per query."""
    side = {"height": PICTURE_SIZE, "width": PICTURE_SIZE}
    pictures = BlipImageProcessorPil(size=side, image_mean=[0.5] * 3, image_std=[0.25] * 3)
    return VigcProcessor(pictures, _language_tokenizer(), _qformer_tokenizer(), num_query_tokens=queries)


def _language_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with one token per word, including the space before it, and one per punctuation mark."""
    special = [UNKNOWN, BEGIN, END, PAD, IMAGE]
    first, later = ([_SPACE + word for word in words] for words in (first_words(), later_words()))
    # Words that were added later come last, so that the others keep their ids.
    tokens = [*special, *PUNCTUATION, *first, *hyphenated(), _SPACE, *later]
    tokenizer = Tokenizer(WordLevel({token: index for index, token in enumerate(tokens)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(_SPACE, prepend_scheme="first"), pre_tokenizers.Punctuation()]
    )
    tokenizer.decoder = decoders.Metaspace(_SPACE, prepend_scheme="first")
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in special])
    begin = tokenizer.token_to_id(BEGIN)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", pair=f"{BEGIN} $A {BEGIN} $B", special_tokens=[(BEGIN, begin)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNKNOWN,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[IMAGE],
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def _qformer_tokenizer() -> BertTokenizer:
    first, later = ({word.lower() for word in words} for words in (first_words(), later_words()))
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *PUNCTUATION, *sorted(first), *sorted(later - first)]
    return BertTokenizer(vocab={token: index for index, token in enumerate(tokens)}, do_lower_case=True)


def build_model(processor: VigcProcessor, seed: int, width: int = WIDTH) -> VigcForConditionalGeneration:
    """A model with initial weights for the processor; all three parts have the width `width`."""
    torch.manual_seed(seed)
    tokenizer = processor.tokenizer
    config = VigcConfig(
        vision_config={
            "image_size": PICTURE_SIZE,
            "patch_size": 16,
            "hidden_size": width,
            "intermediate_size": 3 * width,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
        },
        qformer_config={
            "vocab_size": len(processor.qformer_tokenizer),
            "hidden_size": width,
            "encoder_hidden_size": width,
            "intermediate_size": 3 * width,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "cross_attention_frequency": 1,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "max_position_embeddings": 128,
            "pad_token_id": processor.qformer_tokenizer.pad_token_id,
        },
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ).to_dict(),
        num_query_tokens=processor.num_query_tokens,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
    )
    model = VigcForConditionalGeneration(config)
    _initialise(model)
    model.generation_config = GenerationConfig(
        num_beams=1,
        do_sample=False,
        max_new_tokens=128,
        iqf_preset="vigc",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def _initialise(model: VigcForConditionalGeneration) -> None:
    """Initial weights for training from scratch.

    The library's are made to be loaded over: it leaves the queries at zero, where symmetry keeps them all alike, and
    the ViT's weights at 1e-10. A Q-Former at the usual 0.02 hardly attends to anything for thousands of steps.
    """
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            fan_in = module.weight[0].numel()
            nn.init.trunc_normal_(module.weight, std=fan_in**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    embeddings = model.vision_model.embeddings
    nn.init.normal_(embeddings.class_embedding, std=0.5)
    nn.init.normal_(embeddings.position_embedding, std=0.5)
    nn.init.normal_(model.query_tokens, std=1.0)
    for table in (model.qformer.embeddings.word_embeddings, model.qformer.embeddings.position_embeddings):
        nn.init.normal_(table.weight, std=0.5)
    nn.init.normal_(model.language_model.get_input_embeddings().weight, std=0.05)
    model.language_model.tie_weights()
