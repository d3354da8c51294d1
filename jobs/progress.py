"""Progress of a job: a bar on a terminal, otherwise a line every 30 seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from tqdm import tqdm

# Seconds between two updates.
_LINES_EVERY, _BAR_EVERY = 30.0, 0.1


class Progress:
    """Counts finished items and shows the progress; a context manager.

    Args:
        what: Name of the items, in the plural: "images".
        total: Number of items, including those of earlier runs; None if unknown.
        made: Name of the outputs, which are counted too: "rows". The rate then counts outputs.
        before: Number of items of earlier runs; they count as done but not in the rate.
        label: A title of the progress, if several are shown.
        quiet: Whether to show nothing.
        stream: The output stream; by default stderr.
        clock: Returns a time in seconds.
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
        """Number of items finished in this run."""
        return self._ended[0] + self._begun[0]

    @property
    def made_now(self) -> int:
        """Number of outputs made in this run."""
        return self._ended[1] + self._begun[1]

    def add(self, done: int, made: int = 0) -> None:
        """Counts finished items; replaces the partial counts of `within`."""
        self._running = True
        self._ended, self._begun = (self._ended[0] + done, self._ended[1] + made), (0, 0)
        self._tick()

    def skip(self, done: int) -> None:
        """Counts items of other processes as done, but not in the rate."""
        self.before += done
        self._tick()

    def within(self, done: int, made: int) -> None:
        """Sets the partial counts of the next `add`. The first call, after the model is loaded, starts the clock."""
        if not self._running:
            self._running, self._started = True, self._clock()
        self._begun = done, made
        self._tick()

    def text(self) -> str:
        """The progress as text: "images 120/1,000, rows 402, 3.1 rows/s, about 4 min left"."""
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
        self._bar.set_description_str(self._shown)  # redraws the bar


def _rate(number: float) -> str:
    return f"{number:,.1f}" if number >= 1 else f"{number:.2g}"


def duration(seconds: float) -> str:
    """A duration as text: "42 s", "4 min", "2 h 5 min", "3 days 4 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    hours, days = minutes // 60, minutes // (24 * 60)
    if hours < 1:
        return f"{minutes} min"
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{days} days {hours % 24} h"
