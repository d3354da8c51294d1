"""The types of instruction VIGC writes, their prompts, and how a written pair is read back.

A type is data. To add one, add an entry to `INSTRUCTION_TYPES`; nothing else has to know.
"""

from __future__ import annotations

from dataclasses import dataclass

QUESTION_MARK = "Question:"
ANSWER_MARK = "Answer:"


@dataclass(frozen=True)
class InstructionType:
    """One type of instruction.

    Args:
        name: The name users write (`--types detail`, `processor(task="detail")`).
        prompt: What VIG is asked at inference. For the released types these exact strings are what the checkpoints
            were trained to know (`vigc/tasks/llava_150k_gen.py` and `vqg_test.py` of the release).
        paraphrases: What VIG is asked in training, one drawn per sample, so that it does not hang on one wording.
        answer_templates: What VIC is asked, with `{question}` in it; the first is used at inference, all in training.
            The long-answer types ask the bare question, as in the released training data.
    """

    name: str
    prompt: str
    paraphrases: tuple[str, ...]
    answer_templates: tuple[str, ...] = ("{question}",)

    def vic_prompt(self, question: str) -> str:
        """What VIC is asked about `question` at inference."""
        return self.answer_templates[0].format(question=question)


SHORT_ANSWER_TEMPLATES = (
    "Question: {question} Short answer:",
    "{question} A short answer to the question is",
    "{question} Answer in a word or two:",
    "Q: {question} A:",
    "Look at the picture and answer briefly. {question}",
    "{question} Reply with a single word or a short phrase.",
    "Given the picture, what is the answer to this question? {question}",
    "Use what the picture shows, and what you know, to answer: {question}",
    "{question} Keep the answer as short as you can.",
    "The question is: {question} The answer is:",
)

_KNOWLEDGE_PROMPT = (
    "Based on the content of the given image, generate a question that requires common sense to answer and then "
    "briefly answer it."
)
_KNOWLEDGE_PARAPHRASES = (
    "Think of a question about this picture that takes everyday knowledge, and answer it in a few words.",
    "Ask something the picture alone does not tell, then reply with a short answer.",
    "Write a question that joins what is seen with common sense; answer it briefly.",
    "Come up with a knowledge question for this image and give its short answer.",
    "What could one ask here that needs general knowledge? Ask it and answer in a word or two.",
    "Pose a common-sense question on the image, followed by a brief answer.",
    "Using the scene shown, ask a question whose answer calls for outside knowledge, then answer it shortly.",
    "Form a question that someone could answer only by knowing how the world works, and answer it concisely.",
    "Give one question about the image that demands reasoning from common knowledge, with a short reply.",
    "Invent a question of general knowledge that this image brings up and state its answer in brief.",
)

_TYPES = (
    InstructionType(
        name="conversation",
        prompt="Generate a question based on the content of the given image and then answer it.",
        paraphrases=(
            "Ask something about what this picture shows, then give the answer.",
            "Write one question on the contents of the image together with its answer.",
            "Look at the image, pose a question about it, and reply to your own question.",
            "What might someone ask about this picture? Ask it and answer it.",
            "Come up with a question that the image can answer, and answer it.",
            "From what is visible here, make up a question and respond to it.",
            "Think of a question about the objects or the scene, then provide the answer.",
            "Start a short exchange about this image: one question, one answer.",
            "Given this picture, produce a question about it followed by the right answer.",
            "Put a question about the image into words and then answer it from what you see.",
        ),
    ),
    InstructionType(
        name="detail",
        prompt="Generate a question to describe the image content in detail and then answer it.",
        paraphrases=(
            "Ask for a thorough description of this picture, then write that description.",
            "Request a full account of the image and provide it.",
            "Write a question that calls for all the details of the picture, and answer it at length.",
            "Pose a question asking what the image contains in depth, then describe it closely.",
            "Ask someone to walk through the whole scene, and then do so yourself.",
            "Think of a way to ask for a detailed description of this image and reply with one.",
            "Form a question about everything that can be seen here and answer it completely.",
            "Make up a request for a careful description of the photo, followed by the description.",
            "Ask what the picture looks like in detail and give a long, exact answer.",
            "Produce a question that asks to describe the image fully; then describe it.",
        ),
    ),
    InstructionType(
        name="complex",
        prompt="Based on the given image, generate an in-depth reasoning question and then answer it.",
        paraphrases=(
            "Ask a question about this picture that takes several steps of thought, then work out the answer.",
            "Write a question on the image that needs reasoning beyond what is seen, and answer it.",
            "Think of a why or how question this scene raises and explain the answer.",
            "Pose a challenging question about the image and reason your way to a reply.",
            "Come up with a question that asks for an inference from the picture, then make that inference.",
            "What deeper question does this image invite? Ask it and argue the answer.",
            "Form a question about causes, intentions or consequences in the scene and answer it with reasons.",
            "Make up a demanding question about what is shown, followed by a reasoned answer.",
            "Using the image as evidence, ask something that must be deduced, then deduce it.",
            "Produce a question whose answer needs thinking about the picture as a whole, and give that answer.",
        ),
    ),
    InstructionType("okvqa", _KNOWLEDGE_PROMPT, _KNOWLEDGE_PARAPHRASES, SHORT_ANSWER_TEMPLATES),
    InstructionType("aokvqa", _KNOWLEDGE_PROMPT, _KNOWLEDGE_PARAPHRASES, SHORT_ANSWER_TEMPLATES),
    InstructionType(
        name="vqav2",
        prompt="Based on the content of the given image, generate a question and then briefly answer it.",
        paraphrases=(
            "Ask a simple question about the picture and answer it in a word or two.",
            "Write a question that a glance at the image settles, with its short answer.",
            "Pose a question on what is visible, followed by a brief reply.",
            "Make up a question about the image that has a short answer, and give it.",
            "Think of something to ask about this scene and answer in as few words as possible.",
            "Come up with a visual question and its concise answer.",
            "From the picture, form a short question and a shorter answer.",
            "Ask about one thing that can be seen here and name the answer.",
            "Give one question about the image and reply to it briefly.",
            "Produce a question whose answer can be read off the picture, then state that answer.",
        ),
        answer_templates=SHORT_ANSWER_TEMPLATES,
    ),
)

INSTRUCTION_TYPES: dict[str, InstructionType] = {kind.name: kind for kind in _TYPES}


def instruction_type(name: str) -> InstructionType:
    """The type called `name`; a `ValueError` lists the known ones if there is none."""
    try:
        return INSTRUCTION_TYPES[name]
    except (KeyError, TypeError):
        raise ValueError(f"Unknown task {name!r}: use one of {', '.join(INSTRUCTION_TYPES)}.") from None


def pair_text(question: str, answer: str) -> str:
    """The text VIG learns to write for a pair. The leading space is part of the released format."""
    return f" {QUESTION_MARK} {question} {ANSWER_MARK} {answer}"


@dataclass(frozen=True)
class QuestionAnswer:
    """What a written text holds: a `question` with its `answer`, or the `reason` why it is not a pair."""

    question: str | None = None
    answer: str | None = None
    reason: str | None = None

    @property
    def valid(self) -> bool:
        """Whether it is a pair."""
        return self.reason is None


def parse_pair(text: str) -> QuestionAnswer:
    """Reads "Question: ... Answer: ..." by the released rule (`_update` in `vigc/tasks/llava_150k_gen.py`).

    What stands behind the *last* "Question:" must hold "Answer:" exactly once. An empty question or answer is a pair.
    """
    for mark in (QUESTION_MARK, ANSWER_MARK):
        if mark not in text:
            return QuestionAnswer(reason=f"the text has no {mark!r}")
    parts = text.split(QUESTION_MARK)[-1].split(ANSWER_MARK)
    if len(parts) != 2:
        return QuestionAnswer(
            reason=f"{ANSWER_MARK!r} follows the last {QUESTION_MARK!r} {len(parts) - 1} times, not once"
        )
    question, answer = (part.strip() for part in parts)
    return QuestionAnswer(question, answer)
