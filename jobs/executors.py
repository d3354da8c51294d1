"""Executors make shards in this process or on a Ray cluster; the output is the same."""

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

# How often a shard is retried after its process died. If the process dies again, the shard is taken as the cause.
_RETRIES = 2


def _silent(inputs: int, rows: int) -> None:
    """Discards the progress within a shard."""


class ShardWorker(Generic[InputT]):
    """Makes shards with one model in one process.

    Args:
        job: The task.
        plan: Its plan, with or without the inputs.
        device: The model's device, as in `find_device`.
        place: The working directory, for relative paths.
    """

    def __init__(self, job: Task[InputT], plan: Plan, device: str, place: str | None = None) -> None:
        self.job, self.plan, self.device = job, plan, device
        self._make: MakeShard[InputT] | None = None
        if place is not None:
            os.chdir(place)

    def load(self) -> MakeShard[InputT]:
        """Loads the model on the first call.

        Raises:
            GenerationError: The model cannot be loaded, or is not the model of the plan.
        """
        if self._make is None:
            self._make = self.job.load(self.device, self.plan)
        return self._make

    def ready(self) -> None:
        """Loads the model. Returns None, because Ray would have to serialise a result."""
        self.load()

    def run(self, folder: Path, plan: Plan, shard: int, sources: list[InputT], report: Report = _silent) -> None:
        """Makes and commits a shard."""
        run_shard(folder, plan, shard, sources, self.load(), report, schema=self.job.row_schema)

    def sample(self, sources: list[InputT]) -> tuple[ShardOutput, float]:
        """Makes rows of some inputs without writing them; returns the output and the seconds."""
        make, started = self.load(), time.monotonic()
        output = make(sources, _silent)
        return output, time.monotonic() - started


class Executor(Protocol[InputT]):
    """Makes the shards of a job. The output does not depend on the executor."""

    @property
    def workers(self) -> int:
        """Number of processes that make shards in parallel."""

    def device(self) -> str | None:
        """The device type, "cpu" or "cuda"; None for the device of the job, in this process."""

    def start(self, plan: Plan) -> object:
        """Loads the model, so that a loading error is raised before anything is written."""

    def run(self, folder: Path, plan: Plan, shards: Shards[InputT], report: Report) -> Iterator[int]:
        """Makes and commits shards; yields the index of each finished one. Calls `report` during a shard."""

    def sample(self, plan: Plan, sources: list[InputT]) -> tuple[ShardOutput, float]:
        """Makes rows of some inputs without writing them; returns the output and the seconds."""

    def close(self) -> None:
        """Releases processes and connections."""


class LocalExecutor(Generic[InputT]):
    """Makes one shard after the other in this process.

    Args:
        job: The task.
    """

    workers = 1

    def __init__(self, job: Task[InputT]) -> None:
        self.job = job
        self._worker: ShardWorker[InputT] | None = None

    def device(self) -> str | None:
        """None: the device of the job."""
        return None

    def start(self, plan: Plan) -> ShardWorker[InputT]:
        """Loads the model on the first call."""
        if self._worker is None:
            self._worker = ShardWorker(self.job, plan, self.job.device)
            self._worker.load()
        return self._worker

    def run(self, folder: Path, plan: Plan, shards: Shards[InputT], report: Report) -> Iterator[int]:
        """Makes and commits shards; yields the index of each finished one."""
        for shard, sources in shards:
            self.start(plan).run(folder, plan, shard, sources, report)
            yield shard

    def sample(self, plan: Plan, sources: list[InputT]) -> tuple[ShardOutput, float]:
        """Makes rows of some inputs without writing them; returns the output and the seconds."""
        return self.start(plan).sample(sources)

    def close(self) -> None:
        """Does nothing."""


class RayExecutor(Generic[InputT]):
    """Makes shards on all devices of a Ray cluster, with one process and one model per device.

    The cluster is that of RAY_ADDRESS, a running one on this machine, or a new one. Every machine needs vigc and the
    same paths to inputs, model and output. Ray restarts a process that died and retries its shard.

    Args:
        job: The task.

    Raises:
        GenerationError: Ray is not installed, or the job cannot run in other processes.
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
        """The resources of the cluster; connects on the first call."""
        ray = self._ray
        if not ray.is_initialized():
            main = threading.current_thread() is threading.main_thread()
            before = signal.getsignal(signal.SIGTERM)
            try:
                ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
            except (ConnectionError, RuntimeError) as error:
                raise TransientError(f"The Ray cluster cannot be reached ({error}): see RAY_ADDRESS.") from error
            finally:
                if main:  # Ray installs a handler that ends the job silently
                    signal.signal(signal.SIGTERM, before)
            self._connected = True
        return ray.cluster_resources()

    def device(self) -> str:
        """The device type: that of `--device`, else "cuda" if the cluster has a GPU."""
        resources = self._cluster()
        if self.job.device == "cuda" and not resources.get("GPU"):
            raise GenerationError("device 'cuda': the Ray cluster has no GPU; take --device cpu.")
        return "cuda" if self.job.device != "cpu" and resources.get("GPU") else "cpu"

    @property
    def workers(self) -> int:
        """Number of processes: `--workers`, else one for each GPU or CPU of the cluster."""
        slots = self._cluster().get("GPU" if self.device() == "cuda" else "CPU", 1)
        return self.job.workers or max(1, int(slots))

    def start(self, plan: Plan) -> None:
        """Starts all processes and waits until one has loaded its model."""
        self._start(plan, self.workers)

    def _start(self, plan: Plan, count: int) -> None:
        if self._actors:
            return
        kind = self.device()
        actor = self._ray.remote(
            # Ray restarts a dead process and retries its shard.
            max_restarts=-1,
            max_task_retries=_RETRIES,
            num_cpus=1,
            num_gpus=1 if kind == "cuda" else 0,
        )(ShardWorker)
        self._actors = [actor.remote(self.job, plan, kind, os.getcwd()) for _ in range(count)]
        self._wait([worker.ready.remote() for worker in self._actors])

    def run(self, folder: Path, plan: Plan, shards: Shards[InputT], report: Report) -> Iterator[int]:
        """Gives each free process the next shard; yields the index of each finished one.

        Progress is reported in whole shards.
        """
        self.start(plan)
        report(0, 0)
        waiting, shared = iter(shards), self._ray.put(plan)
        # A process is not free while it loads its model or waits for resources of the cluster.
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
        """Makes rows of some inputs in another process, without writing them; returns the output and the seconds."""
        self._start(plan, 1)
        reference = self._actors[0].sample.remote(sources)
        self._wait([reference])
        return self._ray.get(reference)

    def _wait(self, references: list[Any]) -> Any:
        """Waits for the first of some calls to end; raises its error."""
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
        """Ends the processes, and the connection if this object opened it."""
        for worker in self._actors:
            self._ray.kill(worker)
        if self._connected:
            self._ray.shutdown()


# By the name in `--engine`. To add one, write a class with the members of `Executor` and name it here.
EXECUTORS: dict[str, Callable[[Task[Any]], Executor[Any]]] = {"local": LocalExecutor, "ray": RayExecutor}


@contextmanager
def executor_of(job: Task[InputT]) -> Iterator[Executor[InputT]]:
    """Yields the executor of a job and closes it at the end."""
    executor = EXECUTORS[job.engine](job)
    try:
        yield executor
    finally:
        executor.close()
