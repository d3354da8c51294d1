"""What goes wrong in training, for those who have to tell it from mistakes in code."""

from __future__ import annotations
