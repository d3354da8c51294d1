"""Where a step's unit ends: whole texts, and the same texts as they grow token by token."""

import pytest

from vigc.modeling_vigc.sentences_vigc import UnitRule

SAFE, ORIGINAL = UnitRule("sentence", "safe"), UnitRule("sentence", "original")
PARAGRAPH = UnitRule("paragraph", "safe")


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("A cat. A dog.", "A cat."),
        ("It is 2.5 units wide. Then more.", "It is 2.5 units wide."),
        ("Dr. Smith and Mrs. Jones wait. They talk.", "Dr. Smith and Mrs. Jones wait."),
        ("Fruit, e.g. apples, lie there. Good.", "Fruit, e.g. apples, lie there."),
        ("J. R. Smith waits. He reads.", "J. R. Smith waits."),
        ("Is it red? Yes.", "Is it red?"),
        ("Look! A bird.", "Look!"),
        ('He said "stop." Then he left.', 'He said "stop."'),
        ("(It is late.) Go on.", "(It is late.)"),
        ("Wait... what? No.", "Wait..."),
        ("1. Take it. 2. Leave.", "1. Take it."),
        ("It sits on example.com today. Yes.", "It sits on example.com today."),
        ("红色的猫。蓝色的狗。", "红色的猫。"),
        ("The answer is B.", "The answer is B."),
        ("It opens at 5 p.m.", "It opens at 5 p.m."),
        ("He (Mr. X.) left. So did she.", "He (Mr. X.) left."),
        ("no end here", ""),
        ("", ""),
    ],
)
def test_first_safe_sentence(text, first):
    assert SAFE.first(text) == first


@pytest.mark.parametrize(
    ("text", "first"),
    [("It is 2.5 wide.", "It is 2."), ("A cat . A dog.", "A cat."), ("Is it? Yes", ""), (".", ".")],
)
def test_first_original_sentence_ends_at_the_first_full_stop(text, first):
    assert ORIGINAL.first(text) == first


def test_first_paragraph():
    assert PARAGRAPH.first("One. Two.\n\nThree.") == "One. Two."
    assert PARAGRAPH.first("One. Two.") == "One. Two."


@pytest.mark.parametrize("rule", [SAFE, ORIGINAL, PARAGRAPH])
def test_a_text_does_not_differ_from_itself(rule):
    text = "A cat . A dog is 2.5 wide. Dr. No"
    assert rule.split_all(text)[0] == rule.first(text)


@pytest.mark.parametrize("rule", [SAFE, ORIGINAL, PARAGRAPH])
def test_split_all_loses_nothing(rule):
    text = "One is 2.5 wide. Two?\n\nThree e.g. this. And a tail"
    assert "".join("".join(rule.split_all(text)).split()) == "".join(text.split())


@pytest.mark.parametrize(
    "text",
    [
        "It is 2.5 units wide. Then more.",
        "Dr. Smith waits. They talk.",
        'He said "stop." Then he left.',
        "Wait... what? No.",
        "Is it red? Yes.",
        "A cat. A dog.",
    ],
)
def test_a_growing_text_ends_where_the_whole_one_does(text):
    """Character by character: no end is announced too early, and at most one more character has to be seen."""
    first = SAFE.first(text)
    for count in range(1, len(text) + 1):
        end = SAFE.end(text[:count], complete=False)
        if end is not None:
            assert text[:end].strip() == first
            assert count - len(first) <= 1
            return
    pytest.fail("no end was found")


def test_the_marks_that_can_end_a_unit():
    assert SAFE.may_end("▁go!") and SAFE.may_end("<0x0A>") and SAFE.may_end(".") and not SAFE.may_end("▁cat")
    assert PARAGRAPH.may_end("\n") and not PARAGRAPH.may_end(".")
