"""Cards of models and datasets: what they are, how they were made, what to beware of."""

from .cards import DatasetFacts, TypeFigures, write_dataset_card, write_model_card
from .export_card import write_export_card
from .mix_card import write_mix_card
from .training_cards import write_trained_model_card

__all__ = [
    "DatasetFacts",
    "TypeFigures",
    "write_dataset_card",
    "write_export_card",
    "write_mix_card",
    "write_model_card",
    "write_trained_model_card",
]
