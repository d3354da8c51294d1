"""Images to a dataset of instruction rows, with the embedded model and rendered scenes.

    python examples/images_to_rows.py

Writes `example-rows/`: a dataset folder with a card and `report/index.html`. For photographs of your own, give their
folder in place of `example-scenes/images`, and a converted model in place of "vigc-tiny".
"""

from pathlib import Path

from datasets import load_dataset

from vigc import generate_dataset
from vigc.scenes import write_scenes

SCENES, ROWS = Path("example-scenes"), Path("example-rows")


def main() -> None:
    """Draws scenes, generates rows about them, and prints one row."""
    if not SCENES.exists():
        write_scenes(SCENES, rows=6, seed=1)  # a scene has one row of each of three types: 2 images

    summary = generate_dataset(
        SCENES / "images",
        ROWS,
        model="vigc-tiny",
        types=["conversation", "detail"],
        license="cc0-1.0",
        settings={"iqf_steps": 2},  # two VIC calls; the last one completes the answer
    )
    print(f"{summary.rows} rows about {summary.images} images, {summary.changed} answers edited")

    rows = load_dataset(f"./{ROWS}", "conversation", split="train")
    for name in ("question", "draft", "answer"):
        print(f"{name:<10}{rows[0][name]}")


if __name__ == "__main__":
    main()
