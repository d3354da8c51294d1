"""A model trained on rows: a few steps with the embedded model.

    python examples/train_from_rows.py

Writes `example-trained/`, a complete model folder with its card. `vigc generate` and `vigc correct` write rows with the
same columns: give such a folder in place of the scenes. `vigc train RECIPE` does the same from a YAML file.
"""

from pathlib import Path

from vigc import VigcForConditionalGeneration, VigcProcessor, VigcTrainer, VigcTrainingArguments, model_folder
from vigc.formats.hf_datasets import load_rows
from vigc.scenes import write_scenes
from vigc.trainer import VigcMixture

ROWS, TRAINED = Path("example-training-rows"), Path("example-trained")


def main() -> None:
    """Trains the Q-Former and the projection for two steps."""
    if not ROWS.exists():
        write_scenes(ROWS, rows=12, seed=1, layout="dataset")
    rows = load_rows(str(ROWS), split="train")

    model = VigcForConditionalGeneration.from_pretrained(model_folder("vigc-tiny"))
    processor = VigcProcessor.from_pretrained(model_folder("vigc-tiny"))
    args = VigcTrainingArguments(
        str(TRAINED),
        max_steps=2,
        warmup_steps=0,
        per_device_train_batch_size=4,
        logging_steps=1,
        eval_strategy="no",
        load_best_model_at_end=False,
        report_to="none",
    )
    size = model.config.vision_config.image_size
    mixture = VigcMixture([rows], seed=args.seed, image_size=(size, size))
    trainer = VigcTrainer(model, args, mixture, processor=processor)
    result = trainer.train()
    print(f"loss {result.training_loss:.3f} after {result.global_step} steps, model in {trainer.save_final()}")


if __name__ == "__main__":
    main()
