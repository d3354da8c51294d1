"""LLaVA's image mark in texts: taken out where a text is read, put back once per image where one is written."""

from __future__ import annotations

from collections.abc import Sequence

IMAGE_MARK = "<image>"

# What a text that was read leaves in `extra`: what stood before and behind it, or the text itself with its marks.
Frame = list[str] | str


def unmarked(raw: str) -> str:
    """A text without image marks and without white space around it; nothing where it holds no more."""
    return " ".join(part.strip() for part in raw.split(IMAGE_MARK)).strip()


def without_marks(text: str) -> str:
    """A text without image marks; one that holds none is returned as it is."""
    return unmarked(text) if IMAGE_MARK in text else text


def around(raw: str, text: str, *, odd: bool = False) -> Frame:
    """The frame of a text.

    Args:
        raw: What was read.
        text: Of it the text without marks.
        odd: The mark in `raw` is not the one that its image needs, so that it goes when the text is edited.

    Returns:
        What stood before and behind `text`; `raw` itself where marks stand otherwise than one at an end.
    """
    marks = raw.count(IMAGE_MARK)
    if marks > 1 or (marks and (odd or not (_begins(raw) or _ends(raw)))):
        return raw
    start = raw.find(text, raw.find(IMAGE_MARK) + len(IMAGE_MARK) if marks and _begins(raw) else 0)
    return raw if start < 0 else [raw[:start], raw[start + len(text) :]]


def filled(frame: Frame, text: str) -> str:
    """What was read, if `text` is still the text of its frame; else `text` with one mark where the frame has any."""
    if isinstance(frame, list):
        return f"{frame[0]}{without_marks(text)}{frame[1]}"
    if _is_unchanged(frame, text):
        return frame
    text = without_marks(text)
    if IMAGE_MARK not in frame:
        return text
    # Where a mark from amid a text belongs in another text nobody knows: first, as in most files.
    return f"{text}\n{IMAGE_MARK}" if _ends(frame) and not _begins(frame) else marked(text)


def marked(text: str) -> str:
    """A text with an image mark before it."""
    return f"{IMAGE_MARK}\n{text}"


def filled_turns(turns: Sequence[tuple[Frame, str]], *, image: bool) -> list[str]:
    """The texts of a conversation about one image, each in its frame.

    Texts that were not changed are returned with all their marks. Of the others one holds a mark, and only if it had
    one and no text that was not changed marks the image.

    Args:
        turns: Frame and text of each.
        image: Whether there is an image; without one no changed text is marked.
    """
    values = [filled(frame, text) for frame, text in turns]
    edited = [
        index for index, (frame, text) in enumerate(turns) if isinstance(frame, str) and not _is_unchanged(frame, text)
    ]
    has_mark = any(IMAGE_MARK in value for index, value in enumerate(values) if index not in edited)
    for index in edited:
        if has_mark or not image:
            values[index] = without_marks(values[index])
        has_mark = has_mark or IMAGE_MARK in values[index]
    return values


def _is_unchanged(frame: str, text: str) -> bool:
    return text in (frame, unmarked(frame))


def _begins(raw: str) -> bool:
    return raw.lstrip().startswith(IMAGE_MARK)


def _ends(raw: str) -> bool:
    return raw.rstrip().endswith(IMAGE_MARK)
