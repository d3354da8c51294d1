"""What all tests share: an offline, single-threaded process, the golden numbers, and the model converted from them."""

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# Before anything imports torch or transformers. Each process (xdist workers too) gets its own empty Hugging Face home:
# remote code is unpacked there, and neither a user's cache nor another worker may decide a test.
HF_HOME = tempfile.mkdtemp(prefix="vigc-tests-")
atexit.register(shutil.rmtree, HF_HOME, ignore_errors=True)
os.environ.update(
    HF_HOME=HF_HOME,
    HF_HUB_CACHE=f"{HF_HOME}/hub",
    HF_MODULES_CACHE=f"{HF_HOME}/modules",
    HF_DATASETS_CACHE=f"{HF_HOME}/datasets",
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    # The golden numbers were made with one thread; it is also what two workers on two cores can use.
    OMP_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
)

import pytest  # noqa: E402
from filelock import FileLock  # noqa: E402
from templates import keep_compiled  # noqa: E402

keep_compiled()

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests" / "fixtures"
SUPPORT = ROOT / "tests" / "support"
FAULTS = ROOT / "tests" / "faults"


def pytest_collection_modifyitems(items):
    """Full counts may take hours on a loaded machine; a test that hangs has a limit all the same."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(4 * 3600))


def run_without_vigc(script: Path, *arguments, home: Path) -> dict:
    """Runs a script in a process that cannot see vigc, with an empty Hugging Face home; its last line is JSON."""
    # Without `site`, no .pth file is read, so that an editable vigc stays out of sight.
    places = os.pathsep.join(path for path in sys.path if path.endswith("site-packages"))
    environment = {**os.environ, "PYTHONPATH": places, "HF_HOME": str(home)}
    for name in ("HF_MODULES_CACHE", "HF_HUB_CACHE"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-S", script, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=home.parent,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def parity_dir() -> Path:
    """The golden numbers of the authors' code; VIGC_PARITY_DIR names another folder of the same form."""
    return Path(os.environ.get("VIGC_PARITY_DIR", FIXTURES / "parity" / "seed0")).resolve()


def sizes_of(meta: dict) -> dict:
    """The `--config` of `vigc convert`, from the sizes that a folder of golden numbers states in `meta.json`."""
    sizes = meta["config"]
    vit, qformer = sizes["vit"], sizes["qformer"]
    return {
        "num_query_tokens": sizes["num_query_token"],
        "vision_output_layer_norm_eps": sizes["ln_vision_eps"],
        "vision_config": {
            "image_size": vit["img_size"],
            "patch_size": vit["patch_size"],
            "hidden_size": vit["embed_dim"],
            "intermediate_size": sizes["vit_mlp_hidden"],
            "num_hidden_layers": vit["depth"],
            "num_attention_heads": vit["num_heads"],
            "layer_norm_eps": sizes["vit_layer_norm_eps"],
            "qkv_bias": sizes["qkv_bias"],
        },
        "qformer_config": {
            "vocab_size": qformer["vocab_size"],
            "hidden_size": qformer["hidden_size"],
            "intermediate_size": qformer["intermediate_size"],
            "num_hidden_layers": qformer["num_hidden_layers"],
            "num_attention_heads": qformer["num_attention_heads"],
            "max_position_embeddings": qformer["max_position_embeddings"],
            "layer_norm_eps": qformer["layer_norm_eps"],
            "cross_attention_frequency": qformer["cross_attention_freq"],
            "encoder_hidden_size": qformer["encoder_width"],
        },
    }


@pytest.fixture(scope="session")
def parity_config(parity_dir, tmp_path_factory) -> Path:
    """A `--config` file for the checkpoint of `parity_dir`."""
    meta = json.loads((parity_dir / "meta.json").read_text(encoding="utf-8"))
    path = tmp_path_factory.mktemp("parity-config") / "vigc_config.json"
    path.write_text(json.dumps(sizes_of(meta), indent=2), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def vigc_folder(parity_dir, parity_config, tmp_path_factory) -> Path:
    """The checkpoint of `parity_dir` as `vigc convert` leaves it: converted once, by whichever worker comes first."""
    from vigc.convert.checkpoint import convert_checkpoint

    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, done = shared / "vigc-parity", shared / "vigc-parity.done"
    with FileLock(shared / "vigc-parity.lock"):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            convert_checkpoint(
                checkpoints=[parity_dir / "official_checkpoint.safetensors", parity_dir / "llm_pad_row.safetensors"],
                language_model=parity_dir / "llm",
                qformer_tokenizer=parity_dir / "qformer_tokenizer",
                config=parity_config,
                output=folder,
            )
            done.touch()
    return folder


@pytest.fixture(scope="session")
def model(vigc_folder):
    """The converted model, fp32, for tests that leave it as it is; those that change one load their own."""
    import torch

    from vigc.modeling_vigc import VigcForConditionalGeneration

    return VigcForConditionalGeneration.from_pretrained(vigc_folder, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def processor(vigc_folder):
    """The processor that belongs to `model`."""
    from vigc.processing import VigcProcessor

    return VigcProcessor.from_pretrained(vigc_folder)


@pytest.fixture(scope="session")
def pusher(tmp_path_factory):
    """A process that pushes to a Hub of its own, see hub_server.py."""
    from hub_server import Pusher

    found = Pusher(tmp_path_factory.mktemp("pusher"))
    yield found
    found.close()


@pytest.fixture
def push(pusher):
    """The same with nothing on its Hub."""
    pusher.hub.repos.clear()
    pusher.hub.objects.clear()
    return pusher


@pytest.fixture(scope="session")
def versions(tmp_path_factory):
    """A dataset of 8 pictures as `vigc generate` leaves it, and the same with 4 more."""
    from PIL import Image
    from scripted import ScriptedModel, ScriptedProcessor

    from vigc.generation import generate_dataset

    base = tmp_path_factory.mktemp("versions")
    (base / "pictures").mkdir()
    for index in range(12):
        Image.new("RGB", (24, 16), (20 * index, 90, 250 - 20 * index)).save(base / "pictures" / f"{index:02d}.png")
    found = []
    for limit in (8, 12):
        folder = base / str(limit) / "shapes"
        job = {"types": ["conversation", "detail"], "shard_size": 4, "limit": limit, "license": "cc0-1.0"}
        generate_dataset(base / "pictures", folder, model=ScriptedModel(), processor=ScriptedProcessor(), **job)
        found.append(folder)
    return found
