"""Where shards are made: in this process, or on the devices of a Ray cluster. What is made is the same."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, Protocol, TypeAlias

from vigc.errors import GenerationError, TransientError

from .plan import Plan
from .protocols import InputT, MakeShard, Report, Task
from .resume import run_shard
from .shard_output import ShardOutput

# Shards with their inputs.
Shards: TypeAlias = Iterable[tuple[int, list[InputT]]]

# How often a shard is made again after its process died. If it dies once more, the shard is the cause.
_RETRIES = 2


def _silent(inputs: int, rows: int) -> None:
    """Discards the progress within a shard."""


class ShardWorker(Generic[InputT]):
    """A model in one process, and the shards that are made with it.

    Args:
        job: What is to be done.
        plan: Its plan; the list of inputs is not needed yet.
        device: Where the model runs, as `find_device` takes it.
        place: The working folder, which relative paths of the job start from.
    """

    def __init__(self, job: Task[InputT], plan: Plan, device: str, place: str | None = None) -> None:
        self.job, self.plan, self.device = job, plan, device
        self._make: MakeShard[InputT] | None = None
        if place is not None:
            os.chdir(place)

    def load(self) -> MakeShard[InputT]:
        """Loads the model, unless it is loaded.

        Raises:
            GenerationError: It cannot be loaded, or is not the one that was planned with.
        """
        if self._make is None:
            self._make = self.job.load(self.device, self.plan)
        return self._make

    def ready(self) -> None:
        """Loads the model; returns nothing that would have to travel."""
        self.load()

    def run(self, folder: Path, plan: Plan, shard: int, sources: list[InputT], report: Report = _silent) -> None:
        """Makes and commits a shard."""
        run_shard(folder, plan, shard, sources, self.load(), report, schema=self.job.row_schema)

    def sample(self, sources: list[InputT]) -> tuple[ShardOutput, float]:
        """What comes of some inputs, committed nowhere, and the seconds that it took."""
        make, started = self.load(), time.monotonic()
        output = make(sources, _silent)
        return output, time.monotonic() - started


class Executor(Protocol[InputT]):
    """Where shards are made. What is made is the same everywhere."""

    @property
    def workers(self) -> int:
        """How many processes make shards side by side."""

    def device(self) -> str | None:
        """The kind of device, "cpu" or "cuda"; None: the one that the job names, in this process."""

    def start(self, plan: Plan) -> object:
        """Loads the model, so that one that cannot be loaded is noticed before anything is written."""

    def run(self, folder: Path, plan: Plan, shards: Shards[InputT], report: Report) -> Iterator[int]:
        """Makes and commits shards; yields the number of each that is done. `report` is told how far the next is."""

    def sample(self, plan: Plan, sources: list[InputT]) -> tuple[ShardOutput, float]:
        """What comes of some inputs, committed nowhere, and the seconds that it took."""

    def close(self) -> None:
        """Releases what it holds."""


class LocalExecutor(Generic[InputT]):
    """One shard after the other, in this process.

    Args:
        job: What is to be done.
    """

    workers = 1

    def __init__(self, job: Task[InputT]) -> None:
        self.job = job
        self._worker: ShardWorker[InputT] | None = None

    def device(self) -> str | None:
        """None: the device that the job names, in this process."""
        return None

    def start(self, plan: Plan) -> ShardWorker[InputT]:
        """Loads the model, unless it is loaded."""
        if self._worker is None:
            self._worker = ShardWorker(self.job, plan, self.job.device)
            self._worker.load()
        return self._worker

    def run(self, folder: Path, plan: Plan, shards: Shards[InputT], report: Report) -> Iterator[int]:
        """Makes shards; yields the number of each that is done."""
        for shard, sources in shards:
            self.start(plan).run(folder, plan, shard, sources, report)
            yield shard

    def sample(self, plan: Plan, sources: list[InputT]) -> tuple[ShardOutput, float]:
        """What comes of some inputs, committed nowhere, and the seconds that it took."""
        return self.start(plan).sample(sources)

    def close(self) -> None:
        """Nothing is held."""


class RayExecutor(Generic[InputT]):
    """Shards on all devices of a Ray cluster, a process with its own model to each.

    The cluster is the one that the environment names (RAY_ADDRESS), the one that runs on this machine, or one that is
    started for the job. Every machine needs vigc, and the same paths to inputs, model and output. Ray starts a process
    that died again, and makes its shard again.

    Args:
        job: What is to be done.

    Raises:
        GenerationError: Ray is not installed, or the job cannot be taken to other processes.
    """

    def __init__(self, job: Task[InputT]) -> None:
        try:
            import ray
        except ImportError as error:
            raise GenerationError(
                "--engine ray needs Ray, which is not installed: pip install 'vigc[ray]', or take --engine local."
            ) from error
        job.check_portable()
        if job.device not in ("auto", "cpu", "cuda"):
            raise GenerationError(f"device {job.device!r}: Ray chooses among devices; give auto, cpu or cuda.")
        self.job, self._ray = job, ray
        self._connected = False
        self._actors: list[Any] = []

    def _cluster(self) -> dict[str, float]:
        """What the cluster has, connecting to it first."""
        ray = self._ray
        if not ray.is_initialized():
            main = threading.current_thread() is threading.main_thread()
            before = signal.getsignal(signal.SIGTERM)
            try:
                ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
            except (ConnectionError, RuntimeError) as error:
                raise TransientError(f"The Ray cluster cannot be reached ({error}): see RAY_ADDRESS.") from error
            finally:
                if main:  # Ray puts its own in place, which would end a job without a word
                    signal.signal(signal.SIGTERM, before)
            self._connected = True
        return ray.cluster_resources()

    def device(self) -> str:
        """The kind of the cluster's devices: a GPU if the cluster has one, unless `--device` says otherwise."""
        resources = self._cluster()
        if self.job.device == "cuda" and not resources.get("GPU"):
            raise GenerationError("device 'cuda': the Ray cluster has no GPU; take --device cpu.")
        return "cuda" if self.job.device != "cpu" and resources.get("GPU") else "cpu"

    @property
    def workers(self) -> int:
        """How many processes: one for each GPU or CPU of the cluster, unless `--workers` says otherwise."""
        slots = self._cluster().get("GPU" if self.device() == "cuda" else "CPU", 1)
        return self.job.workers or max(1, int(slots))

    def start(self, plan: Plan) -> None:
        """Starts all processes, and waits until one of them has its model."""
        self._start(plan, self.workers)

    def _start(self, plan: Plan, count: int) -> None:
        if self._actors:
            return
        kind = self.device()
        actor = self._ray.remote(
            # Ray starts a dead process again, and its shard with it.
            max_restarts=-1,
            max_task_retries=_RETRIES,
            num_cpus=1,
            num_gpus=1 if kind == "cuda" else 0,
        )(ShardWorker)
        self._actors = [actor.remote(self.job, plan, kind, os.getcwd()) for _ in range(count)]
        self._wait([worker.ready.remote() for worker in self._actors])

    def run(self, folder: Path, plan: Plan, shards: Shards[InputT], report: Report) -> Iterator[int]:
        """Hands shards to processes as they become free; yields the number of each that is done.

        Progress is whole shards, of which there are as many at a time as processes.
        """
        self.start(plan)
        report(0, 0)
        waiting, shared = iter(shards), self._ray.put(plan)
        # A process that still loads its model, or waits for its place in the cluster, is not free.
        busy: dict[Any, tuple[Any, int | None]] = {worker.ready.remote(): (worker, None) for worker in self._actors}
        at_work = 0
        while busy:
            reference = self._wait(list(busy))
            worker, done = busy.pop(reference)
            if done is not None:
                at_work -= 1
                yield done
            if (following := next(waiting, None)) is not None:
                shard, sources = following
                busy[worker.run.remote(folder, shared, shard, sources)] = (worker, shard)
                at_work += 1
            elif not at_work:
                return

    def sample(self, plan: Plan, sources: list[InputT]) -> tuple[ShardOutput, float]:
        """What comes of some inputs, in a process of its own."""
        self._start(plan, 1)
        reference = self._actors[0].sample.remote(sources)
        self._wait([reference])
        return self._ray.get(reference)

    def _wait(self, references: list[Any]) -> Any:
        """The first of some calls to end; raises what went wrong in it."""
        errors = self._ray.exceptions
        (reference,), _ = self._ray.wait(references, num_returns=1, fetch_local=False)
        try:
            self._ray.get(reference)
        except errors.RayTaskError as error:
            raise error.cause from None
        except errors.RayActorError as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise TransientError(f"A Ray process died {_RETRIES + 1} times over the same work: {reason}") from error
        return reference

    def close(self) -> None:
        """Ends the processes, and the connection if it was made here."""
        for worker in self._actors:
            self._ray.kill(worker)
        if self._connected:
            self._ray.shutdown()


# By the name that `--engine` gives: a new one is a class with the members of `Executor`, and a line here.
EXECUTORS: dict[str, Callable[[Task[Any]], Executor[Any]]] = {"local": LocalExecutor, "ray": RayExecutor}


@contextmanager
def executor_of(job: Task[InputT]) -> Iterator[Executor[InputT]]:
    """The executor that a job asks for, until its end."""
    executor = EXECUTORS[job.engine](job)
    try:
        yield executor
    finally:
        executor.close()
