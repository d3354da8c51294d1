"""Filters exclude inputs before generation: listed ids, look-alikes, exact copies."""

from .base import Exclusion, Filter, Needs
from .selection import Selection
from .table import FILTERS

__all__ = ["FILTERS", "Exclusion", "Filter", "Needs", "Selection"]
