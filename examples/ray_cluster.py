"""One job on all devices of a Ray cluster: every GPU, or every CPU if there is no GPU.

    python examples/ray_cluster.py

Uses the cluster that RAY_ADDRESS names, else the one that runs on this machine, else starts one. Needs
`pip install 'vigc[ray]'`. On a cluster every machine needs vigc, and the same paths to images, model and output.
"""

import os
from pathlib import Path

from vigc import generate_dataset
from vigc.scenes import write_scenes

SCENES, ROWS = Path("example-ray-scenes"), Path("example-ray-rows")


def main() -> None:
    """Draws scenes and generates rows about them in two processes."""
    if not SCENES.exists():
        write_scenes(SCENES, rows=12, seed=1)

    summary = generate_dataset(
        SCENES / "images",
        ROWS,
        model="vigc-tiny",
        types=["conversation"],
        license="cc0-1.0",
        shard_size=2,  # a shard is the unit of work of a process: here 2 of 4 images
        engine="ray",
        workers=int(os.environ.get("WORKERS", 2)),  # without `workers`: one process for each device
    )
    print(f"{summary.rows} rows about {summary.images} images")


if __name__ == "__main__":
    main()
