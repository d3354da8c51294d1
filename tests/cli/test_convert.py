"""`vigc convert`: released files to a model folder and back, at the tiny size and, by name, at the full one."""

import json
import pickle
import re
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from vigc.convert.checkpoint import check_weights, convert_checkpoint, count_parameters, to_original
from vigc.convert.config import PRESETS, vigc_config
from vigc.convert.keys import to_transformers
from vigc.convert.weights import Layers, Weight, read_weights
from vigc.modeling_vigc import VigcForConditionalGeneration


@pytest.fixture
def convert(parity_dir, parity_config, tmp_path):
    """Converts the fixture with what a test changes."""

    def run(**changes):
        arguments = {
            "checkpoints": [parity_dir / "official_checkpoint.safetensors", parity_dir / "llm_pad_row.safetensors"],
            "language_model": parity_dir / "llm",
            "output": tmp_path / "model",
            "qformer_tokenizer": parity_dir / "qformer_tokenizer",
            "config": parity_config,
            **changes,
        }
        return convert_checkpoint(**arguments)

    return run


@pytest.fixture
def released(parity_dir):
    return load_file(parity_dir / "official_checkpoint.safetensors")


def state_of(folder):
    return VigcForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).state_dict()


def test_report_names_every_key(convert, parity_dir):
    report = convert()
    keys = set(json.loads((parity_dir / "official_checkpoint.keys.json").read_text()))
    of_file = [entry for entry in [*report.mapped, *report.ignored] if entry[0].stem == "official_checkpoint"]
    assert {key for _, key, _ in of_file} == keys and len(of_file) == len(keys)
    text = str(report)
    assert "rotary_emb.inv_freq: a buffer" in text and "[PAD] row of the embeddings (from a checkpoint)" in text
    assert (report.output / "README.md").is_file()


def test_layers_of_pth_files_equal_one_file(convert, released, model, tmp_path):
    """As released: a bare ViT, a Q-Former base with strangers in it, and a fine-tuned file that wins."""
    vit = {key.removeprefix("visual_encoder."): value for key, value in released.items() if key.startswith("visual")}
    base = {key: torch.zeros_like(value) for key, value in released.items() if key.startswith(("Qformer", "query"))}
    base |= {key: value for key, value in released.items() if key.startswith("ln_vision")}
    base |= {
        "t5_proj.weight": torch.zeros(2, 2),
        "Qformer.cls.predictions.bias": torch.zeros(2),
        "epoch_of": torch.ones(1),
        "Qformer.bert.embeddings.strange": torch.ones(1),
    }
    projection = {key.replace("llm_proj", "llama_proj"): value for key, value in released.items() if "llm_proj" in key}
    tuned = {key: value for key, value in released.items() if key.startswith(("Qformer", "query_tokens"))}
    vit |= {"norm.weight": torch.zeros(64), "blocks.2.norm1.weight": torch.zeros(64), "head.bias": torch.zeros(3)}
    torch.save(vit, tmp_path / "eva.pth")
    torch.save({"model": base}, tmp_path / "base.pth", _use_new_zipfile_serialization=False)
    torch.save({"model": projection, "epoch": 3}, tmp_path / "minigpt4.pth")
    save_file(tuned, tmp_path / "vigc.safetensors")
    names = ("eva.pth", "base.pth", "minigpt4.pth", "vigc.safetensors")
    report = convert(checkpoints=[tmp_path / name for name in names])
    reasons = {key: reason for _, key, reason in report.ignored}
    assert "2 that VIGC uses" in reasons["blocks.2.norm1.weight"] and "FlanT5" in reasons["t5_proj.weight"]
    assert "unknown" in reasons["epoch_of"] and "EVA" in reasons["norm.weight"]
    assert "unknown" in reasons["Qformer.bert.embeddings.strange"], "a known beginning is not enough"
    assert reasons["query_tokens"] == "replaced by the one in vigc.safetensors"
    ours = state_of(report.output)
    for name, value in model.state_dict().items():
        if "embed_tokens" in name or "lm_head" in name:
            assert torch.equal(ours[name][:-2], value[:-2]) and ours[name][-2:].abs().max() == 0
        else:
            assert torch.equal(ours[name], value), name


def test_lora_is_merged(convert, parity_dir, tmp_path):
    stem = "llm_model.base_model.model.model.layers.0.self_attn.q_proj"
    down, up = torch.randn(8, 64), torch.randn(64, 8)
    save_file({f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}, tmp_path / "lora.safetensors")
    report = convert(
        checkpoints=[parity_dir / "official_checkpoint.safetensors", tmp_path / "lora.safetensors"], dtype="float32"
    )
    name = "language_model.model.layers.0.self_attn.q_proj.weight"
    before = load_file(parity_dir / "llm" / "model.safetensors")[name.removeprefix("language_model.")].float()
    torch.testing.assert_close(state_of(report.output)[name], (before + 2 * up @ down).half().float())


def test_half_a_lora_pair_is_refused(convert, parity_dir, tmp_path):
    save_file(
        {"llm_model.base_model.model.model.norm.lora_A.weight": torch.zeros(8, 64)}, tmp_path / "half.safetensors"
    )
    with pytest.raises(ValueError, match=r"lacks the other matrix of its LoRA pair"):
        convert(checkpoints=[parity_dir / "official_checkpoint.safetensors", tmp_path / "half.safetensors"])


@pytest.mark.parametrize(("rows", "fits"), [(600, False), (620, True), (621, True), (622, True), (640, False)])
def test_rows_of_the_language_model(convert, parity_dir, tmp_path, rows, fits):
    """Vicuna's own 32,000 rows, or one more for `[PAD]`, or both added ones; nothing else."""
    shutil.copytree(parity_dir / "llm", tmp_path / "llm")
    weights = load_file(parity_dir / "llm" / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = torch.cat([weights[name], torch.full((22, 64), 0.5, dtype=torch.float16)])[:rows].contiguous()
    save_file(weights, tmp_path / "llm" / "model.safetensors")
    arguments = {"language_model": tmp_path / "llm", "checkpoints": [parity_dir / "official_checkpoint.safetensors"]}
    if not fits:
        with pytest.raises(
            ValueError, match=rf"embed_tokens.weight has shape \({rows}, 64\) in the files but \(622, 64\)"
        ):
            convert(**arguments)
        return
    embeddings = state_of(convert(**arguments).output)["language_model.model.embed_tokens.weight"]
    assert embeddings[620:].max(dim=1).values.tolist() == [0.5 if rows > place else 0 for place in (620, 621)]


def test_a_qformer_tokenizer_of_another_size(convert, parity_dir, tmp_path):
    shutil.copytree(parity_dir / "qformer_tokenizer", tmp_path / "bert")
    with (tmp_path / "bert" / "vocab.txt").open("a") as file:
        file.write("".join(f"more{index}\n" for index in range(5)))
    with pytest.raises(ValueError, match=r"its embeddings have 273 rows"):
        convert(qformer_tokenizer=tmp_path / "bert")


def test_the_folder_says_nothing_of_this_machine_and_holds_no_leftovers(convert, parity_dir):
    output = convert().output
    for path in output.rglob("*.json"):
        assert str(parity_dir) not in path.read_text(), path
    assert [path.name for path in output.parent.iterdir()] == [output.name]


def test_there_and_back(released, vigc_folder, parity_dir, tmp_path):
    for suffix in (".pth", ".safetensors"):
        report = to_original(vigc_folder, tmp_path / f"released{suffix}")
        back = {weight.key: weight.load() for weight in read_weights(report.output)}
        wanted = {key: value for key, value in released.items() if "inv_freq" not in key}
        assert back.keys() == wanted.keys()
        assert all(torch.equal(back[key], value) for key, value in wanted.items())
    with pytest.raises(ValueError, match=r"should end in .pth or .safetensors"):
        to_original(vigc_folder, tmp_path / "released.bin")
    with pytest.raises(ValueError, match=r"has no"):
        to_original(tmp_path / "nowhere", tmp_path / "released.pth")
    with pytest.raises(ValueError, match=r"has no Q-Former"):
        to_original(parity_dir / "llm", tmp_path / "released.pth")


def test_shards_and_dtype(convert, model):
    report = convert(max_shard_size="400KB", dtype="bfloat16")
    assert len(list(report.output.glob("model-*.safetensors"))) > 2
    assert VigcForConditionalGeneration.from_pretrained(report.output).dtype == torch.bfloat16
    for name, value in state_of(report.output).items():
        assert torch.equal(value, model.state_dict()[name].bfloat16().float()), name


def full_size_keys(parity_dir, preset):
    """The released keys of a full-size file: the fixture's, with as many layers as the big model has."""
    layers = {"visual_encoder.blocks": 39, "Qformer.bert.encoder.layer": 12, "llm_model.model.layers": 0}
    layers["llm_model.model.layers"] = PRESETS[preset]["text_config"]["num_hidden_layers"]
    keys = set()
    for key in json.loads((parity_dir / "official_checkpoint.keys.json").read_text()):
        match = re.match(
            r"(visual_encoder\.blocks|Qformer\.bert\.encoder\.layer|llm_model\.model\.layers)\.(\d+)\.(.*)", key
        )
        if not match:
            keys.add(key)
            continue
        stem, layer, rest = match.groups()
        every = range(layers[stem])
        if stem.startswith("Qformer"):
            # Layers 0 and 2 of the fixture have cross-attention, as every second one of the big Q-Former.
            every = range(int(layer) % 2, layers[stem], 2)
        keys |= {f"{stem}.{number}.{rest}" for number in every}
    return keys


@pytest.mark.parametrize(
    ("preset", "counts"),
    [
        ("7b", {"ViT": 985_952_256, "Q-Former": 185_684_736, "projection": 3_149_824, "language model": 6_738_432_000}),
        (
            "13b",
            {"ViT": 985_952_256, "Q-Former": 185_684_736, "projection": 3_937_280, "language model": 13_015_884_800},
        ),
    ],
)
def test_every_released_key_at_full_size(preset, counts, parity_dir):
    config = vigc_config(PRESETS[preset]["text_config"])
    with torch.device("meta"):
        model = VigcForConditionalGeneration(config)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}

    def weight(key, shape):
        return Weight(Path("full.pth"), key, shape, torch.float16, lambda: pytest.fail("nothing is loaded"))

    def shape_of(key):
        name = to_transformers(key) or ""
        if name.endswith(("q_bias", "v_bias")):
            return (shapes[name[: -len("q_bias")] + "qkv.bias"][0] // 3,)
        return shapes.get(name, (1,))

    layers = Layers(config.vision_config.num_hidden_layers)
    layers.add(weight(key, shape_of(key)) for key in full_size_keys(parity_dir, preset))
    for name, shape in shapes.items():
        if name.startswith("language_model."):
            rows = 32000 if shape[0] == 32002 else shape[0]
            layers.add([weight(name, (rows, *shape[1:]))])
    assert check_weights(model, layers, config.text_config.vocab_size) == shapes
    assert not [entry for entry in layers.ignored(shapes) if "unknown" in entry[2]]
    assert count_parameters(model) == counts


def test_missing_weights_are_named_with_their_file(convert, released, tmp_path):
    save_file({key: value for key, value in released.items() if "visual" not in key}, tmp_path / "tuned.safetensors")
    with pytest.raises(ValueError, match=r"weights are missing.*EVA ViT-g's file"):
        convert(checkpoints=[tmp_path / "tuned.safetensors"])
    assert not (tmp_path / "model").exists(), "nothing is written before all is checked"


def test_a_checkpoint_of_another_size(convert, released, tmp_path):
    released["query_tokens"] = torch.zeros(1, 32, 48)
    save_file(released, tmp_path / "other.safetensors")
    with pytest.raises(
        ValueError, match=r"query_tokens has shape \(1, 32, 48\) in the files but \(1, 8, 48\).*--config"
    ):
        convert(checkpoints=[tmp_path / "other.safetensors"])


class Bomb:
    """A pickle that would touch a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_pickle_with_code_is_refused_before_it_runs(convert, tmp_path):
    torch.save({"model": {"query_tokens": Bomb(tmp_path / "ran")}}, tmp_path / "evil.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps({"query_tokens": Bomb(tmp_path / "ran")}))
    for name in ("evil.pth", "bare.pth"):
        with pytest.raises(ValueError, match=r"could run code.*safetensors"):
            convert(checkpoints=[tmp_path / name])
    assert not (tmp_path / "ran").exists()


def test_a_zip_bomb_is_refused(convert, tmp_path):
    torch.save({"query_tokens": torch.zeros(1)}, tmp_path / "small.pth")
    with (
        zipfile.ZipFile(tmp_path / "small.pth") as source,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for item in source.infolist():
            bomb.writestr(item.filename, source.read(item))
        bomb.writestr("archive/data/9", bytes(50_000_000))
    with pytest.raises(ValueError, match=r"would unpack to"):
        convert(checkpoints=[tmp_path / "bomb.pth"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checkpoints": ["nowhere.pth"]}, "nowhere.pth is not a file"),
        ({"language_model": Path("nowhere")}, "nowhere has no config.json"),
        ({"preset": "70b", "config": None}, "'70b' is not known"),
        ({"preset": "7b", "config": None}, "hidden_size=64, but a 7b language model has 4096"),
        ({"preset": "7b"}, "either --preset or --config"),
        ({"dtype": "float8"}, "'float8' is not known"),
        ({"config": Path(__file__)}, "not a readable JSON file"),
    ],
)
def test_what_does_not_fit_is_said(convert, change, message):
    with pytest.raises(ValueError, match=message):
        convert(**change)


def test_an_output_that_holds_something_is_left_alone(convert, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine").touch()
    with pytest.raises(ValueError, match=r"is not empty"):
        convert()
    assert (tmp_path / "model" / "mine").exists()


def test_a_damaged_file(convert, parity_dir, tmp_path):
    for suffix in (".pth", ".safetensors"):
        path = (tmp_path / "cut").with_suffix(suffix)
        path.write_bytes((parity_dir / "official_checkpoint.safetensors").read_bytes()[:5000])
        with pytest.raises(ValueError, match=r"cannot be read"):
            convert(checkpoints=[path])


def test_a_vicuna_folder_that_does_not_fit_its_tokenizer(convert, parity_dir, tmp_path):
    shutil.copytree(parity_dir / "llm", tmp_path / "llm")
    (tmp_path / "llm" / "tokenizer.model").unlink()
    with pytest.raises(FileNotFoundError, match=r"no tokenizer.model"):
        convert(language_model=tmp_path / "llm")


def test_the_saved_tokenizer_needs_no_sentencepiece(vigc_folder, parity_dir):
    tokenizer = AutoTokenizer.from_pretrained(vigc_folder)
    for row in json.loads((parity_dir / "meta.json").read_text())["token_table"]:
        assert tokenizer(row["text"])["input_ids"] == row["llm_generate"]
    assert tokenizer.is_fast and not (vigc_folder / "tokenizer.model").exists()
