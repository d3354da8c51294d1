"""Which seeds are for training, for development and for final measurements.

Scenes of different seeds are drawn from different random streams, and the same holds for the two sorts of scenes
(crowded or not), so one range of seeds serves every sort: typical, unusual, crowded, and crowded and unusual scenes.

- Training: seeds below 1,000,000. Models are trained on them; examples and the demo use them too.
- Development: 1,000,000 to 1,999,999. Whatever is chosen by looking at results (settings, thresholds, methods) is
  chosen on these, and the published figures of the embedded model and of the study are theirs (`HELD_OUT_SEED`).
- Final: 2,000,000 to 2,999,999. Measured once, after all choices are made (`FINAL_SEED`). Nothing is tuned on them.
"""

from __future__ import annotations

TRAINING_SEEDS = range(0, 1_000_000)
DEVELOPMENT_SEEDS = range(1_000_000, 2_000_000)
FINAL_SEEDS = range(2_000_000, 3_000_000)

HELD_OUT_SEED = 1_000_003
FINAL_SEED = 2_000_003

# The sorts of scenes, as arguments of `sample_scene`.
SCENE_SORTS: dict[str, dict[str, bool]] = {
    "typical": {"unusual": False, "crowded": False},
    "unusual": {"unusual": True, "crowded": False},
    "crowded": {"unusual": False, "crowded": True},
    "crowded, unusual": {"unusual": True, "crowded": True},
}


def split_of(seed: int) -> str:
    """The split of a seed: "training", "development" or "final".

    Raises:
        ValueError: The seed is in none of them.
    """
    splits = {"training": TRAINING_SEEDS, "development": DEVELOPMENT_SEEDS, "final": FINAL_SEEDS}
    for name, seeds in splits.items():
        if seed in seeds:
            return name
    raise ValueError(f"seed={seed!r} is in no split: use 0 to {FINAL_SEEDS.stop - 1:,}.")
