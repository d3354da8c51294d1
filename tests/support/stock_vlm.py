"""Stock models as folders: a tiny LLaVA with random weights, and the embedded model as an InstructBLIP."""

import string

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import (
    CLIPVisionConfig,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    T5Config,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from vigc import VigcForConditionalGeneration, VigcProcessor
from vigc.scenes import VIGC_TINY

SIDE, PATCH = 32, 8
TEMPLATE = (
    "{% for message in messages %}{{ message.role | upper }}: {% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{% else %} {{ part.text }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
WORDS = [
    "yes",
    "no",
    "A",
    "B",
    "C",
    "D",
    "two",
    "red",
    "cat",
    "dog",
    "boat",
    "car",
    "person",
    "There",
    "is",
    "a",
    "the",
]


def build_tokenizer():
    """Some words, and letter by letter what else there is."""
    special = ["<unk>", "<s>", "</s>", "<pad>", "<image>"]
    tokens = [*special, *dict.fromkeys([*WORDS, *string.ascii_letters, *string.digits, *string.punctuation, " "])]
    tokenizer = Tokenizer(WordLevel({token: index for index, token in enumerate(tokens)}, unk_token="<unk>"))
    words = "|".join(sorted(WORDS, key=len, reverse=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(rf"\b(?:{words})\b|."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def save_stock_vlm(folder, seed=0):
    """Writes model and processor."""
    tokenizer = build_tokenizer()
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**sizes, image_size=SIDE, patch_size=PATCH, projection_dim=16),
        text_config=LlamaConfig(
            **sizes, vocab_size=len(tokenizer), max_position_embeddings=2048, pad_token_id=tokenizer.pad_token_id
        ),
        image_token_index=image_token,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config).eval()
    # Random weights of the usual size would say the same to every picture.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    model.generation_config.update(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    pictures = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    LlavaProcessor(
        pictures,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    return folder


def save_stock_instructblip(folder):
    """Writes the embedded model's weights as a checkpoint of transformers' own classes."""
    ours = VigcForConditionalGeneration.from_pretrained(VIGC_TINY, dtype=torch.float32)
    config = {
        name: value
        for name, value in ours.config.to_dict().items()
        if name not in ("model_type", "architectures", "auto_map", "vision_output_layer_norm_eps", "trained_on")
    }
    model = InstructBlipForConditionalGeneration(InstructBlipConfig(**config))
    model.load_state_dict(ours.state_dict())
    model.generation_config = ours.generation_config
    model.save_pretrained(folder)
    parts = VigcProcessor.from_pretrained(VIGC_TINY)
    InstructBlipProcessor(
        parts.image_processor, parts.tokenizer, parts.qformer_tokenizer, parts.num_query_tokens
    ).save_pretrained(folder)
    assert not list(folder.glob("*.py")) and "vigc" not in (folder / "config.json").read_text()
    return folder


def save_stock_encoder_decoder(folder):
    """Writes an InstructBLIP with random weights whose language model is a T5."""
    parts = VigcProcessor.from_pretrained(VIGC_TINY)
    known, tokenizer = VigcForConditionalGeneration.config_class.from_pretrained(VIGC_TINY), parts.tokenizer
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": len(tokenizer)}
    config = InstructBlipConfig(
        vision_config=known.vision_config.to_dict(),
        qformer_config=known.qformer_config.to_dict(),
        text_config=T5Config(**sizes, **ends, decoder_start_token_id=tokenizer.pad_token_id).to_dict(),
        num_query_tokens=known.num_query_tokens,
        image_token_index=known.image_token_index,
    )
    torch.manual_seed(0)
    model = InstructBlipForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    model.save_pretrained(folder)
    parts.save_pretrained(folder)
    return folder
