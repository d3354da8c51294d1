"""Maps weight names of released VIGC files to those of a transformers model folder, and back."""

from __future__ import annotations

import re

# Pairs (released, ours) of name prefixes, tried in order; "{n}" is a layer number.
_RENAMES: tuple[tuple[str, str], ...] = (
    ("query_tokens", "query_tokens"),
    ("visual_encoder.cls_token", "vision_model.embeddings.class_embedding"),
    ("visual_encoder.pos_embed", "vision_model.embeddings.position_embedding"),
    ("visual_encoder.patch_embed.proj.", "vision_model.embeddings.patch_embedding."),
    ("visual_encoder.blocks.{n}.norm1.", "vision_model.encoder.layers.{n}.layer_norm1."),
    ("visual_encoder.blocks.{n}.norm2.", "vision_model.encoder.layers.{n}.layer_norm2."),
    ("visual_encoder.blocks.{n}.attn.proj.", "vision_model.encoder.layers.{n}.self_attn.projection."),
    ("visual_encoder.blocks.{n}.attn.", "vision_model.encoder.layers.{n}.self_attn."),
    ("visual_encoder.blocks.{n}.mlp.", "vision_model.encoder.layers.{n}.mlp."),
    ("ln_vision.", "vision_model.post_layernorm."),
    ("Qformer.bert.embeddings.LayerNorm.", "qformer.embeddings.layernorm."),
    ("Qformer.bert.embeddings.", "qformer.embeddings."),
    ("Qformer.bert.encoder.layer.{n}.attention.self.", "qformer.encoder.layer.{n}.attention.attention."),
    ("Qformer.bert.encoder.layer.{n}.crossattention.self.", "qformer.encoder.layer.{n}.crossattention.attention."),
    ("Qformer.bert.encoder.layer.{n}.", "qformer.encoder.layer.{n}."),
    ("llm_proj.", "language_projection."),
    ("llm_model.base_model.model.", "language_model."),
    ("llm_model.", "language_model."),
)
_BACKWARD = tuple((ours, released) for released, ours in _RENAMES if not released.startswith("llm_model."))

# MiniGPT-4's files have another name for the projection.
_ALIASES = {"llama_proj.": "llm_proj."}
# EVA's file has the ViT without a prefix.
_BARE_VIT = re.compile(r"^(cls_token$|pos_embed$|patch_embed\.|blocks\.\d+\.|norm\.|fc_norm\.|head\.)")

_IGNORED: tuple[tuple[str, str], ...] = (
    (r"rotary_emb\.inv_freq$", "a buffer that the model computes from its configuration"),
    (r"^Qformer\.bert\.embeddings\.position_ids$", "a buffer that counts 0, 1, 2, ..."),
    (r"^Qformer\.cls\.", "the head of BLIP-2's pretraining, not used by VIGC"),
    (r"^(itm_head|vision_proj|text_proj|temp)(\.|$)", "a head of BLIP-2's first stage, not used by VIGC"),
    (r"^t5_proj\.", "BLIP-2's projection to FlanT5; VIGC has one to its own language model"),
    (r"^visual_encoder\.(norm|fc_norm|head)\.", "EVA's last norm and classifier; VIGC reads the ViT before them"),
)

_WHERE = (
    ("vision_model.post_layernorm.", "the Q-Former's base file (BLIP-2 or InstructBLIP, `ln_vision.*`)"),
    ("vision_model.", "EVA ViT-g's file (`eva_vit_g.pth`; fine-tuned VIGC files do not have the frozen ViT)"),
    ("qformer.", "the Q-Former's base file (`blip2_pretrained_flant5xxl.pth` or `instruct_blip_vicuna7b_trimmed.pth`)"),
    ("query_tokens", "the Q-Former's base file (BLIP-2 or InstructBLIP, `query_tokens`)"),
    ("language_projection.", "a MiniGPT-4, InstructBLIP or VIGC file (`llama_proj.*` or `llm_proj.*`)"),
    ("language_model.", "the Vicuna folder given as --language-model"),
)


def released_name(key: str) -> str:
    """The key in the naming of the released VIGC code, for keys of any of the files."""
    for alias, name in _ALIASES.items():
        if key.startswith(alias):
            return name + key[len(alias) :]
    return f"visual_encoder.{key}" if _BARE_VIT.match(key) else key


def ignored_reason(key: str, vit_layers: int) -> str | None:
    """The reason why a key of a released file is not used, or None if it may be used."""
    key = released_name(key)
    for pattern, reason in _IGNORED:
        if re.search(pattern, key):
            return reason
    block = re.match(r"^visual_encoder\.blocks\.(\d+)\.", key)
    if block and int(block[1]) >= vit_layers:
        return f"a ViT block after the {vit_layers} that VIGC uses"
    return None


def to_transformers(key: str) -> str | None:
    """Our name for a released key, or None if it is unknown. The ViT's `q_bias` and `v_bias` become `qkv.bias`."""
    return _rename(released_name(key), _RENAMES)


def to_released(name: str) -> str | None:
    """The released key for our name, or None for the language model, which released files do not have."""
    return _rename(name, _BACKWARD)


def where_to_find(name: str) -> str:
    """The file that should have the weight."""
    return next((place for prefix, place in _WHERE if name.startswith(prefix)), "a released checkpoint")


def _rename(key: str, pairs: tuple[tuple[str, str], ...]) -> str | None:
    for source, target in pairs:
        match = re.match("^" + re.escape(source).replace(r"\{n\}", r"(\d+)"), key)
        if match:
            return target.replace("{n}", match[1] if match.groups() else "") + key[match.end() :]
    return None
