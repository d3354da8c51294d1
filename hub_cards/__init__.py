"""Cards of models and datasets: what they are, how they were made, what to beware of."""

from .cards import DatasetFacts, TypeFigures, write_dataset_card, write_model_card
from .export_card import write_export_card

__all__ = ["DatasetFacts", "TypeFigures", "write_dataset_card", "write_export_card", "write_model_card"]
