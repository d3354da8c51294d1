"""Converts licences as stated by sources to the Hub's metadata."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypedDict

# The Hub's identifiers that are usual for images, texts and models. Any other licence is `other` with a name.
_IDENTIFIERS = {
    "apache-2.0", "mit", "openrail", "creativeml-openrail-m", "bsd-2-clause", "bsd-3-clause", "unlicense", "gpl-3.0",
    "odc-by", "odbl", "pddl", "cdla-permissive-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0", "c-uda", "gfdl",
    "etalab-2.0", "llama2", "llama3", "gemma", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0",
    "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "other", "unknown"
}  # fmt: skip
_CREATIVE_COMMONS = re.compile(r"creativecommons\.org/(?:licenses|publicdomain)/([a-z-]+)/(\d\.\d)")


class LicenceMetadata(TypedDict, total=False):
    """The licence fields of a card's metadata."""

    license: str
    license_name: str


def licence_of(stated: str, counted: Mapping[str, int]) -> str:
    """The licence of a dataset: that of all rows, or "unknown" if that of any row is unknown, or "other" for a mixture.

    Args:
        stated: The licence if `counted` is empty.
        counted: Number of rows by licence.
    """
    if len(counted) > 1:
        return "unknown" if "unknown" in counted else "other"
    return next(iter(counted), stated)


def licence_metadata(licence: str) -> LicenceMetadata:
    """`license` for a card's metadata, and `license_name` if the Hub has no identifier for it."""
    identifier = licence.strip().lower()
    if named := _CREATIVE_COMMONS.search(identifier):
        identifier = f"{'cc0' if named[1] == 'zero' else 'cc-' + named[1]}-{named[2]}"
    if identifier in _IDENTIFIERS:
        return {"license": identifier}
    name = re.sub(r"[^a-z0-9.-]+", "-", identifier).strip("-")
    return {"license": "other", "license_name": name[:80] or "other"}
