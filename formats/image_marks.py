"""LLaVA's image mark `<image>` in texts: removed when a text is read, put back once per image when it is written."""

from __future__ import annotations

from collections.abc import Sequence

IMAGE_MARK = "<image>"

# Kept in `extra` for each text that was read: what stood before and after it, or the original text with its marks.
Frame = list[str] | str


def unmarked(raw: str) -> str:
    """A text without image marks and surrounding white space; may be empty."""
    return " ".join(part.strip() for part in raw.split(IMAGE_MARK)).strip()


def without_marks(text: str) -> str:
    """A text without image marks. A text that has none is returned unchanged."""
    return unmarked(text) if IMAGE_MARK in text else text


def around(raw: str, text: str, *, odd: bool = False) -> Frame:
    """The frame of a text.

    Args:
        raw: The original text.
        text: The original text without marks.
        odd: A mark in `raw` is redundant for its image, and so is removed when the text is edited.

    Returns:
        [before, after], the parts of `raw` around `text`; or `raw`, unless it has at most one mark, at its start or
        end.
    """
    marks = raw.count(IMAGE_MARK)
    if marks > 1 or (marks and (odd or not (_begins(raw) or _ends(raw)))):
        return raw
    start = raw.find(text, raw.find(IMAGE_MARK) + len(IMAGE_MARK) if marks and _begins(raw) else 0)
    return raw if start < 0 else [raw[:start], raw[start + len(text) :]]


def filled(frame: Frame, text: str) -> str:
    """The original text, if `text` has not changed; else `text`, with one mark if the frame has any."""
    if isinstance(frame, list):
        return f"{frame[0]}{without_marks(text)}{frame[1]}"
    if _is_unchanged(frame, text):
        return frame
    text = without_marks(text)
    if IMAGE_MARK not in frame:
        return text
    # A mark inside the text has no known place in an edited text, so it goes to the start, as in most files.
    return f"{text}\n{IMAGE_MARK}" if _ends(frame) and not _begins(frame) else marked(text)


def marked(text: str) -> str:
    """A text after an image mark."""
    return f"{IMAGE_MARK}\n{text}"


def filled_turns(turns: Sequence[tuple[Frame, str]], *, image: bool) -> list[str]:
    """The texts of a conversation about one image, with their frames filled.

    Unchanged texts keep all their marks. Of the edited texts at most one gets a mark: the first that had one, and only
    if no unchanged text has a mark.

    Args:
        turns: (frame, text) of each turn.
        image: Whether there is an image. Without one, no edited text is marked.
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
