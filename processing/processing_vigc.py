"""The processor of a VIGC model: pictures and texts in, tensors out, and written pairs back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import BatchFeature, InstructBlipProcessor
from transformers.utils.hub import cached_file

from .image_rows_vigc import image_rows
from .instructions_vigc import ANSWER_MARK, QuestionAnswer, instruction_type, parse_pair
from .text_rows_vigc import check_given, text_rows

# An image and a user turn become the question as VIC knows it; an assistant turn becomes what is to be learnt. A text
# in the middle of a chat is joined with a space, as the released loop joins the prompt and the answer so far.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if not loop.first %}{{ ' ' }}{% endif %}"
    "{% if message.content is string %}{{ message.content | trim }}"
    "{% else %}{{ message.content | selectattr('type', 'equalto', 'text') | map(attribute='text') | join(' ') | trim }}"
    "{% endif %}"
    "{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{% endif %}"
)

IMAGE = "<image>"

# For callers that work on token level.
_TOKEN_KWARGS = ("padding_side", "add_special_tokens", "truncation", "max_length")
# What callers of every processor pass along, and what changes nothing here.
_NOT_OURS = ("videos", "audio", "padding", "pad_to_multiple_of", "return_token_type_ids", "return_mm_token_type_ids")
# What tells `from_pretrained` where files are.
_WHERE = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


@dataclass(frozen=True)
class _Rows:
    """What is asked of the rows of a batch, and what they should learn; lists of one length."""

    texts: list[str]
    mode: str
    tasks: list[str] | None = None
    questions: list[str] | None = None
    targets: list[str] | None = None


class VigcProcessor(InstructBlipProcessor):
    """InstructBLIP's processor with VIGC's two jobs, its lengths and its training pairs.

    ```python
    processor(images=images, task="detail", return_tensors="pt")                 # VIG: write a pair of that type
    processor(images=images, text=questions, return_tensors="pt")                # VIC: answer these questions
    processor(images=images, text=prompts, target=texts, return_tensors="pt")    # training pairs, with `labels`
    ```

    Args:
        image_processor: Any image processor that yields `pixel_values`; ours is the PIL one of BLIP.
        tokenizer: The language model's tokenizer; `<image>` is added to it if it lacks it.
        qformer_tokenizer: The Q-Former's own (BERT) tokenizer.
        num_query_tokens: How many `<image>` places precede the text; the model's `num_query_tokens`.
        chat_template: Jinja template of a chat; one image and a user turn give the question as VIC knows it.
        max_qformer_length: Q-Former text is cut on the left to this many ids, [CLS] and [SEP] included (released: 128).
        max_text_length: In training, the input text is cut on the left to this many ids, BOS included (released: 128).
            In generation it is never cut, as in the release.
        max_target_length: The target is cut on the right to this many ids, a BOS counted that is dropped afterwards,
            so at most one fewer labels (released: 256). A cut target loses its end-of-sequence label.

    Raises:
        ValueError: The Q-Former's tokenizer is not one.
    """

    qformer_tokenizer: Any

    def __init__(
        self,
        image_processor: Any,
        tokenizer: Any,
        qformer_tokenizer: Any,
        num_query_tokens: int | None = None,
        chat_template: str | None = None,
        max_qformer_length: int = 128,
        max_text_length: int = 128,
        max_target_length: int = 256,
        **kwargs: Any,
    ) -> None:
        if qformer_tokenizer.cls_token is None:
            # transformers falls back to the language model's, with a warning that is easily missed.
            raise ValueError(
                "The Q-Former's tokenizer has no [CLS]: qformer_tokenizer/ was not found beside the processor. Without "
                "the Hub, load from the folder that huggingface_hub.snapshot_download(NAME) returns, not by name."
            )
        super().__init__(image_processor, tokenizer, qformer_tokenizer, num_query_tokens, **kwargs)
        qformer_tokenizer.truncation_side = "left"
        self.chat_template = chat_template or CHAT_TEMPLATE
        self.max_qformer_length = max_qformer_length
        self.max_text_length = max_text_length
        self.max_target_length = max_target_length

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> VigcProcessor:
        """As every processor. `num_query_tokens`, which older ones of InstructBLIP lack, is then the model's."""
        processor = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        if processor.num_query_tokens is None:
            where = {name: kwargs[name] for name in _WHERE if name in kwargs}
            where["_raise_exceptions_for_missing_entries"] = False
            if config := cached_file(pretrained_model_name_or_path, "config.json", **where):
                settings = json.loads(Path(config).read_text(encoding="utf-8"))
                processor.num_query_tokens = settings.get("num_query_tokens")
        return processor

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        task: str | Sequence[str] | None = None,
        target: str | Sequence[str] | None = None,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Prepares one batch.

        Args:
            images: A picture or a list of B pictures. Rows without one have None, or an empty list among lists of one:
                they get no `<image>` places, and `pixel_values` has the pictures of the others.
            text: B texts (or one): questions for VIC, or, with `target`, what the model is asked in training.
            task: A type of instruction, for all or one per row. Without `text` it asks VIG for a pair of that type;
                with `text` it says which type the questions are of.
            target: B texts (or one) to learn; may be empty, which trains the end of sequence alone.
            return_tensors: `"pt"` for tensors, padded to the longest row: on the left, or on the right with `target`.
                `None` gives lists, not padded.
            kwargs: `padding_side`, `add_special_tokens`, `truncation` with `max_length`, for callers that work on
                token level (TRL); what else the image processor knows, such as `do_resize`.

        Returns:
            `pixel_values` float (B, 3, H, W), `input_ids` and `attention_mask` int64 (B, T) where the first
            `num_query_tokens` ids of a row with a picture are `<image>`, `qformer_input_ids` and
            `qformer_attention_mask` int64 (B, Q), with `target` also `labels` int64 (B, T), -100 on all that is not
            target. Without `target`, beside the tensors: `mode` ("vig" or "vic"), `task` (list of B, if given) and
            `questions` (list of B, for "vic"), which `model.generate(**inputs)` takes.

        Raises:
            ValueError: Nothing to work on, an unknown task, an empty question, or counts that do not agree.
        """
        pictures, shown = (None, None) if images is None else image_rows(images)
        rows = self._rows(shown, text, task, target)
        token_kwargs = {name: kwargs.pop(name) for name in _TOKEN_KWARGS if name in kwargs}
        for name in _NOT_OURS:
            kwargs.pop(name, None)
        encoding: dict[str, Any] = {}
        if pictures is not None:
            encoding.update(self.image_processor(pictures, return_tensors=return_tensors, **kwargs))
        if rows is None:
            return BatchFeature(encoding)
        places = shown or [False] * len(rows.texts)
        if rows.targets is not None:
            encoding.update(self._encode_pairs(rows.texts, rows.targets, places, return_tensors))
            return BatchFeature(encoding)
        if pictures is not None:
            token_kwargs["add_special_tokens"] = True  # all are prompts, those without a picture too
        encoding.update(self._encode_texts(rows.texts, places, return_tensors, **token_kwargs))
        if pictures is not None:
            entries = {"mode": rows.mode, "task": rows.tasks, "questions": rows.questions}
            encoding.update({name: entry for name, entry in entries.items() if entry is not None})
        return BatchFeature(encoding)

    def encode_prompts(self, prompts: Sequence[str]) -> BatchFeature:
        """The texts as `generate` feeds them: the LLM's ids uncut behind the `<image>` places, padded on the left.

        Returns `input_ids`, `attention_mask` (B, T), `qformer_input_ids`, `qformer_attention_mask` (B, Q), all int64.
        """
        return BatchFeature(self._encode_texts(list(prompts), [True] * len(prompts), return_tensors="pt"))

    def encode_pairs(self, prompts: Sequence[str], targets: Sequence[str]) -> BatchFeature:
        """Prompts with what follows them, cut to the lengths of training and padded on the right, to score the targets.

        Returns what [`encode_prompts`] does, and `labels`, int64 (B, T), -100 on all that is not target.
        """
        return BatchFeature(
            self._encode_pairs(list(prompts), list(targets), [True] * len(prompts), return_tensors="pt")
        )

    def vic_prompt(self, question: str, task: str | None = None, style: str = "question") -> str:
        """What VIC is asked about `question`.

        `style="question"` is the type's own template (the bare question where no type is named); `"instruction"` is
        the released loop's `"{instruction} Question: {question} Answer:"`, which needs the type, and which with an
        empty question is the bare instruction.
        """
        if style == "question":
            return question if task is None else instruction_type(task).vic_prompt(question)
        if task is None:
            raise ValueError('iqf_prompt="instruction" needs the type of each question: pass task= to the processor.')
        instruction = instruction_type(task).prompt
        return f"{instruction} Question: {question} Answer:" if question else instruction

    def instruction(self, task: str) -> str:
        """What VIG is asked for a pair of type `task`."""
        return instruction_type(task).prompt

    @property
    def answer_mark(self) -> str:
        """What stands between the question and the answer of a pair."""
        return ANSWER_MARK

    def parse_pair(self, text: str) -> QuestionAnswer:
        """See [`~vigc.processing.parse_pair`]."""
        return parse_pair(text)

    def decode_texts(self, sequences: Any) -> list[str]:
        """Texts of a batch of ids, without special tokens and surrounding white space."""
        texts = self.tokenizer.batch_decode(sequences, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return [text.strip() for text in texts]

    def post_process(self, outputs: Any) -> list[QuestionAnswer]:
        """Reads pairs from what VIG wrote: ids (B, T) as `generate` returns them, or a list of texts.

        Each [`QuestionAnswer`] holds `question` and `answer`, or the `reason` why the text is not a pair.
        """
        is_text = isinstance(outputs, (list, tuple)) and all(isinstance(item, str) for item in outputs)
        return [parse_pair(text) for text in (outputs if is_text else self.decode_texts(outputs))]

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
        """As in every processor; but where answers are part of the chat, the Q-Former reads the questions alone."""
        output = super().apply_chat_template(conversation, *args, **kwargs)
        if not isinstance(output, BatchFeature):
            return output
        chats = conversation if isinstance(conversation[0], (list, tuple)) else [conversation]
        if any(message["role"] == "assistant" for chat in chats for message in chat):
            asked = [[message for message in chat if message["role"] != "assistant"] for chat in chats]
            texts = [super(VigcProcessor, self).apply_chat_template(chat, tokenize=False) for chat in asked]
            output.update(self._encode_qformer(texts, "pt" if torch.is_tensor(output["input_ids"]) else None))
            for name in ("mode", "questions"):
                output.pop(name, None)
        return output

    @property
    def model_input_names(self) -> list[str]:
        """What a batch may hold, the entries beside the tensors included."""
        return [*super().model_input_names, "mode", "task", "questions"]

    def _rows(self, shown: list[bool] | None, text: Any, task: Any, target: Any) -> _Rows | None:
        """What is asked of each row (`shown`: whether it has a picture), or None if there is no text to speak of."""
        check_given(shown, text, task, target)
        if text is None and task is None:
            return None
        texts, tasks, targets = text_rows(shown, text, task, target)
        if texts is None:
            return _Rows([self.instruction(name) for name in tasks or []], "vig", tasks, targets=targets)
        if targets is not None or not any(shown or ()):
            return _Rows(texts, "vic", tasks, targets=targets)
        questions = [self._question(index, item) for index, item in enumerate(texts)]
        kinds: list[str | None] = list(tasks) if tasks else [None] * len(texts)
        prompts = [self.vic_prompt(question, kind) for question, kind in zip(questions, kinds, strict=True)]
        return _Rows(prompts, "vic", tasks, questions)

    def _question(self, index: int, text: str) -> str:
        # A chat's text begins with the BOS that every prompt gets anyway.
        question = text.removeprefix(self.tokenizer.bos_token or "").strip()
        if not question:
            raise ValueError(
                f"Question {index} is empty ({text!r}): give text= a question, or task= to have one written."
            )
        return question

    def _encode_texts(
        self,
        texts: list[str],
        places: list[bool],
        return_tensors: str | None,
        padding_side: str = "left",
        add_special_tokens: bool = True,
        truncation: bool | str | None = None,
        max_length: int | None = None,
    ) -> dict[str, Any]:
        bos = self.tokenizer.bos_token or "\0"
        # A prompt always begins with BOS, also for callers who thought that the chat template had written it. What
        # has none is the answer part of a chat: its joining space belongs to the prompt, not to the target.
        begins = [
            add_special_tokens or place or text.startswith(bos) for place, text in zip(places, texts, strict=True)
        ]
        plain = [text.removeprefix(bos).strip() if text.startswith(bos) else text for text in texts]
        plain = [text if begin else text.removeprefix(" ") for begin, text in zip(begins, plain, strict=True)]
        encoded = {
            kind: iter(
                self._token_ids([text for begin, text in zip(begins, plain, strict=True) if begin == kind], kind)
            )
            for kind in set(begins)
        }
        ids = [self._prefix(place) + next(encoded[begin]) for place, begin in zip(places, begins, strict=True)]
        if truncation and max_length:
            ids = [row[:max_length] for row in ids]
        encoding = self._encode_qformer(texts, return_tensors)
        return {**encoding, **_padded({"input_ids": ids}, self._pad_id, padding_side, return_tensors)}

    def _encode_pairs(
        self, texts: list[str], targets: list[str], places: list[bool], return_tensors: str | None
    ) -> dict[str, Any]:
        """Sequences [image places][BOS text][target, EOS], padded on the right (`concat_text_input_output`)."""
        inputs = [
            self._prefix(place) + _cut_left(row, self.max_text_length)
            for place, row in zip(places, self._token_ids(texts), strict=True)
        ]
        eos = self.tokenizer.eos_token
        outputs = self._token_ids([target + eos for target in targets], add_special_tokens=False)
        outputs = [row[: self.max_target_length - 1] for row in outputs]
        ids = [source + target for source, target in zip(inputs, outputs, strict=True)]
        labels = [[-100] * len(source) + target for source, target in zip(inputs, outputs, strict=True)]
        rows = {"input_ids": ids, "labels": labels}
        return {**self._encode_qformer(texts, return_tensors), **_padded(rows, self._pad_id, "right", return_tensors)}

    def _encode_qformer(self, texts: list[str], return_tensors: str | None) -> dict[str, Any]:
        bos = self.tokenizer.bos_token or ""
        plain = [_without_places(text.removeprefix(bos)) for text in texts]
        ids = self.qformer_tokenizer(
            plain,
            truncation=True,
            max_length=self.max_qformer_length,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        rows = _padded({"input_ids": ids}, self.qformer_tokenizer.pad_token_id, "right", return_tensors)
        return {f"qformer_{name}": values for name, values in rows.items()}

    def _token_ids(self, texts: list[str], add_special_tokens: bool = True) -> list[list[int]]:
        return self.tokenizer(
            [_without_places(text) for text in texts],
            add_special_tokens=add_special_tokens,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]

    def _prefix(self, with_image: bool) -> list[int]:
        if not with_image:
            return []
        if self.num_query_tokens is None:
            raise ValueError("This processor does not know num_query_tokens: set it to the model's config value.")
        return [self.tokenizer.convert_tokens_to_ids(str(self.image_token))] * self.num_query_tokens

    @property
    def _pad_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if pad is None else pad


def _without_places(text: str) -> str:
    """A text without `<image>`, LLaVA's mark of the picture's place: here the picture always comes first."""
    return text if IMAGE not in text else " ".join(part.strip() for part in text.split(IMAGE)).strip()


def _cut_left(ids: list[int], length: int) -> list[int]:
    """Keeps the first id (BOS or [CLS]) and the last ones, up to `length` in all."""
    return ids if len(ids) <= length else ids[:1] + ids[len(ids) - length + 1 :]


def _padded(rows: dict[str, list[list[int]]], pad_id: int, side: str, return_tensors: str | None) -> dict[str, Any]:
    """The rows with their `attention_mask`, as lists, or padded to the longest as tensors (labels with -100)."""
    masks = [[1] * len(row) for row in rows["input_ids"]]
    columns = {**rows, "attention_mask": masks}
    if return_tensors is None:
        return columns
    if return_tensors != "pt":
        raise ValueError(f"return_tensors={return_tensors!r} is not supported: use 'pt' or None.")
    fill = {"input_ids": pad_id, "attention_mask": 0, "labels": -100}
    return {
        name: torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(row, dtype=torch.long) for row in values], True, fill[name], padding_side=side
        )
        for name, values in columns.items()
    }
