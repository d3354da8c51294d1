"""How far some work is: a bar on a terminal, and elsewhere, as in a log, a plain line every 30 seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from tqdm import tqdm

# Seconds between two views of it.
_LINES_EVERY, _BAR_EVERY = 30.0, 0.1


class Progress:
    """Counts what is done, and shows it; a context manager.

    Args:
        what: What is counted, in the plural: "images".
        total: How many there are, those that were done before included; None: not known.
        made: What is made of them, counted beside them: "rows". The rate is then of these.
        before: How many were done before; they count as done, and not in the rate.
        label: Of what work this is the progress, where that is not clear.
        quiet: Whether to show nothing.
        stream: Where it is shown; by default stderr.
        clock: Seconds from any beginning.
    """

    def __init__(
        self,
        what: str,
        total: int | None,
        *,
        made: str | None = None,
        before: int = 0,
        label: str = "",
        quiet: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.what, self.total, self.made, self.before, self.label = what, total, made, before, label
        self._stream, self._clock, self._quiet = sys.stderr if stream is None else stream, clock, quiet
        self._ended, self._begun = (0, 0), (0, 0)
        self._started, self._running = clock(), False
        self._shown: str | None = None
        self._bar: tqdm | None = None
        self._every, self._last = _LINES_EVERY, self._started

    def __enter__(self) -> Progress:
        if not self._quiet and self._stream.isatty():
            shape = "{desc}" if self.total is None else "{percentage:3.0f}%|{bar}| {desc}"
            self._bar = tqdm(
                total=self.total, initial=self.before, file=self._stream, bar_format=shape, dynamic_ncols=True
            )
            self._every = _BAR_EVERY
            self._show()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._show()
            self._bar.close()
        elif self._shown is not None and self._shown != self.text():
            self._show()

    @property
    def done(self) -> int:
        """How many are done, those of before not counted."""
        return self._ended[0] + self._begun[0]

    @property
    def made_now(self) -> int:
        """How many were made of them."""
        return self._ended[1] + self._begun[1]

    def add(self, done: int, made: int = 0) -> None:
        """Counts what is finished; what was told of it by `within` is replaced."""
        self._running = True
        self._ended, self._begun = (self._ended[0] + done, self._ended[1] + made), (0, 0)
        self._tick()

    def skip(self, done: int) -> None:
        """Counts what others do: as done, and not in the rate."""
        self.before += done
        self._tick()

    def within(self, done: int, made: int) -> None:
        """Tells how far the next part is that `add` will count. The first call starts the clock: a model is loaded."""
        if not self._running:
            self._running, self._started = True, self._clock()
        self._begun = done, made
        self._tick()

    def text(self) -> str:
        """In words: "images 120/1,000, rows 402, 3.1 rows/s, about 4 min left"."""
        done, seconds = self.done, self._clock() - self._started
        label = f"{self.label}: " if self.label else ""
        parts = [f"{label}{self.what} {self.before + done:,}{'' if self.total is None else f'/{self.total:,}'}"]
        if self.made is not None:
            parts.append(f"{self.made} {self.made_now:,}")
        if number := done if self.made is None else self.made_now:
            parts.append(f"{_rate(number / max(seconds, 1e-9))} {self.made or self.what}/s")
        left = 0 if self.total is None else self.total - self.before - done
        if left > 0 and done:
            parts.append(f"about {duration(seconds / done * left)} left")
        return ", ".join(parts)

    def _tick(self) -> None:
        now = self._clock()
        if not self._quiet and now - self._last >= self._every:
            self._last = now
            self._show()

    def _show(self) -> None:
        self._shown = self.text()
        if self._bar is None:
            print(self._shown, file=self._stream, flush=True)
            return
        self._bar.n = self.before + self.done
        self._bar.set_description_str(self._shown)  # which draws it


def _rate(number: float) -> str:
    return f"{number:,.1f}" if number >= 1 else f"{number:.2g}"


def duration(seconds: float) -> str:
    """A time in the unit that suits it: "42 s", "4 min", "2 h 5 min", "3 days 4 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    hours, days = minutes // 60, minutes // (24 * 60)
    if hours < 1:
        return f"{minutes} min"
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{days} days {hours % 24} h"
