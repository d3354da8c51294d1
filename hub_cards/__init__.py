"""Model and dataset cards: contents, provenance and limits."""

from .cards import DatasetFacts, TypeFigures, compares_drafts, write_dataset_card
from .custom_generate_card import write_custom_generate_card
from .export_card import ExportFacts, write_export_card
from .mix_card import write_mix_card
from .model_cards import write_model_card, write_trained_model_card
from .samples import SAMPLES

__all__ = [
    "SAMPLES",
    "DatasetFacts",
    "ExportFacts",
    "TypeFigures",
    "compares_drafts",
    "write_custom_generate_card",
    "write_dataset_card",
    "write_export_card",
    "write_mix_card",
    "write_model_card",
    "write_trained_model_card",
]
