"""What a job is told: the settings that writing and correcting share, checked when they are given."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from vigc.errors import GenerationError
from vigc.generation.filters.selection import Selection
from vigc.generation.rollouts.worker import Worker
from vigc.generation.sources.base import Collection, Source
from vigc.generation.sources.prefetch import Loader
from vigc.generation.sources.urls import check_hosts
from vigc.inference.loading import (
    SPEED_SETTINGS,
    ModelFacts,
    check_settings,
    describe_model,
    effective_settings,
    load_model,
)
from vigc.jobs import Configuration, Plan, ShardOutput
from vigc.jobs.executors import EXECUTORS
from vigc.jobs.protocols import MakeShard, Record, Report
from vigc.processing.devices import find_device

from .finalize import write_ending
from .notices import notice_of


@dataclass(frozen=True, kw_only=True)
class JobSettings(ABC):
    """Settings of any job; `GenerateJob` and `CorrectJob` add their own, and what they do with a shard.

    Args:
        model: A folder, a Hub name, or a model object (then with `processor`).
        processor: By default the model's own.
        dtype: "auto" (what the weights were saved in, but float32 on a CPU), "float32", "bfloat16" or "float16".
        device: "auto" (an accelerator if there is one), "cpu", "cuda:1", ...
        revision: Commit, tag or branch of the model on the Hub.
        trust_remote_code: Whether code that comes with the weights runs in place of vigc's own.
        settings: Decoding and `iqf_*` settings, as `model.generate` takes them, that are not the model's own.
        image_root: With a file that names images: the folder that the names are relative to; by default the file's.
        allow_urls: Hosts that images are fetched from where the input has addresses (http, https) in place of files:
            names, "*.example.org" for all below one, "*" for any public one. Without it addresses are skipped.
        subset: Of a dataset: its configuration.
        split: Of a dataset: its split.
        data_revision: Of a dataset on the Hub: its commit, tag or branch; by default what the job in the folder began
            with, or else the newest.
        license: Licence of images that do not state their own.
        limit: Only the first so many inputs.
        batch_size: Texts written at a time, and inputs read at a time; greedy decoding in float32 writes the same texts
            with any.
        shard_size: Inputs per parquet file, which is also what an interruption costs at most.
        seed: Decides, with a row's id, what is drawn where decoding samples.
        retries: How often a text that is no pair is drawn again before it is rejected.
        score: Whether to compute `visual_dependency`, two more passes over each answer; of given drafts `draft_logprob`
            too, one pass over each.
        store: "embed" puts images into the rows, "path" the paths of their files.
        verify: Whether the files of the folder are compared with the hashes that were recorded when they were written;
            what is damaged is made again. Without it a file is only missed.
        overwrite: Replace another dataset in the folder, or a finished one; an unfinished job of these settings is
            resumed.
        rank: Of several processes that share the job: which this is.
        world_size: How many there are.
        engine: Where shards are made: "local", in this process; "ray", on all devices of a Ray cluster.
        workers: With "ray": how many processes; by default one for each GPU of the cluster, or else for each CPU.

    Raises:
        GenerationError: A setting that is unknown, out of range, or without effect.
    """

    kind: ClassVar[str]
    worker_class: ClassVar[type[Worker]]

    model: Any
    processor: Any = None
    dtype: str = "auto"
    device: str = "auto"
    revision: str | None = None
    trust_remote_code: bool = False
    settings: dict[str, Any] | None = None
    image_root: str | os.PathLike[str] | None = None
    allow_urls: Sequence[str] = ()
    subset: str | None = None
    split: str = "train"
    data_revision: str | None = None
    license: str = "unknown"
    limit: int | None = None
    batch_size: int = 8
    shard_size: int = 256
    seed: int = 0
    retries: int = 2
    score: bool = False
    store: str = "embed"
    verify: bool = False
    overwrite: bool = False
    rank: int = 0
    world_size: int = 1
    engine: str = "local"
    workers: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "shard_size", "limit", "workers"):
            at_least(1, **{name: getattr(self, name)})
        at_least(0, retries=self.retries)
        check_hosts(self.allow_urls)
        if self.store not in ("embed", "path"):
            raise GenerationError(f"store={self.store!r} is not known: use 'embed' or 'path'.")
        if self.store == "path" and self.in_tables:
            raise GenerationError(
                "store='path' is for pictures in files, but a dataset has them in its rows: use 'embed'."
            )
        if self.engine not in EXECUTORS:
            raise GenerationError(f"Engine {self.engine!r} is not known: use one of {', '.join(EXECUTORS)}.")
        if self.workers is not None and self.engine != "ray":
            raise GenerationError(f"workers={self.workers} is for --engine ray; here one process does all.")
        if not 0 <= self.rank < self.world_size:
            raise GenerationError(
                f"rank={self.rank} with world_size={self.world_size}: ranks go from 0 to {self.world_size - 1}."
            )
        if self.verify and self.overwrite:
            raise GenerationError(
                "--verify keeps what the folder holds, and --overwrite replaces it: give one of them."
            )
        check_settings(self.given, self.corrects)

    @property
    def given(self) -> Record:
        """The decoding and `iqf_*` settings that were given."""
        return dict(self.settings or {})

    @property
    @abstractmethod
    def corrects(self) -> bool:
        """Whether answers are corrected."""

    @property
    @abstractmethod
    def in_tables(self) -> bool:
        """Whether images are in the rows of a dataset."""

    @property
    @abstractmethod
    def hub_dataset(self) -> str | None:
        """The dataset that inputs are read from, if it is on the Hub."""

    @property
    @abstractmethod
    def places(self) -> list[str | os.PathLike[str]]:
        """Where the images are: the folder that names are relative to, or else the input itself."""

    @abstractmethod
    def collection(self) -> Collection:
        """Opens the inputs."""

    @abstractmethod
    def selection(self) -> Selection:
        """Which of the inputs are taken."""

    @abstractmethod
    def configuration(self) -> Record:
        """What decides what is written about an image, beside the model, its decoding and the seed."""

    @abstractmethod
    def asked(self, sources: Sequence[Source], output: ShardOutput) -> int:
        """How many samples are asked for: each must be a row, rejected or dropped, or the shard is not committed.

        Args:
            sources: The inputs of a shard.
            output: What came of them; it names the inputs that were skipped.
        """

    def load(self, device: str, plan: Plan) -> MakeShard[Source]:
        """Loads the model; returns what makes shards with it.

        Raises:
            GenerationError: It cannot be loaded, or is not the one that was planned with.
        """
        loaded = load_model(self.model, self.processor, device=device, **self._loading)
        self._check_planned(plan, loaded.facts)
        worker = self.worker_class(loaded, plan, self.given, self.batch_size)
        loader = Loader(self.collection(), worker.prepare, self.batch_size, embed=self.store == "embed")

        def make(sources: Sequence[Source], report: Report) -> ShardOutput:
            output = worker.make(loader, list(sources), report)
            output.asked = self.asked(sources, output)
            return output

        return make

    def _check_planned(self, plan: Plan, facts: ModelFacts) -> None:
        """Makes sure that the model as loaded is what its files said when the job was planned."""
        found = {
            **written_by(facts),
            **effective_settings(facts.generation_config, self.given, self.corrects),
            "device": facts.device.type,
        }
        planned = {**plan.configuration, "device": plan.job["device"]}
        if other := [f"{name} was {planned[name]}, now {now}" for name, now in found.items() if planned[name] != now]:
            raise GenerationError(
                f"The model is not the one that was planned with ({'; '.join(other)}): run the same command again."
            )

    def finalize(self, folder: Path, plan: Plan) -> dict[str, int]:
        """Writes card and report."""
        return write_ending(folder, plan)

    def check_portable(self) -> None:
        """Makes sure that other processes can load the model.

        Raises:
            GenerationError: It is an object of this one.
        """
        if not isinstance(self.model, (str, os.PathLike)):
            raise GenerationError("With engine='ray' every process loads the model: give its folder or Hub name.")

    def describe_model(self, device: str | None) -> ModelFacts:
        """What the plan records of the model, without loading it.

        Args:
            device: The kind of device that it will run on; None: the one that the job names, in this process.
        """
        place = find_device(self.device, GenerationError) if device is None else torch.device(device)
        return describe_model(self.model, self.processor, device=place, **self._loading)

    @property
    def inputs_name(self) -> str:
        """What inputs are called where they are counted."""
        return self.worker_class.inputs

    @property
    def _loading(self) -> Record:
        return {name: getattr(self, name) for name in ("dtype", "revision", "trust_remote_code")}

    def plan(self, model: ModelFacts, selection: Selection) -> Plan:
        """The plan without its inputs."""
        collection = selection.collection
        configuration = Configuration(
            {
                **written_by(model),
                **self.configuration(),
                "correct": self.corrects,
                "seed": self.seed,
                "retries": self.retries,
                "score": self.score,
                **effective_settings(model.generation_config, self.given, self.corrects),
            }
        )
        job: Record = {
            "batch_size": self.batch_size,
            "shard_size": self.shard_size,
            "limit": self.limit,
            "images": self.store,
            "device": model.device.type,
            **collection.facts,
            "dedup": bool(selection.filters.get("dedup")),
            **({"allow_urls": check_hosts(self.allow_urls)} if self.allow_urls else {}),
        }
        root = getattr(collection, "root", None)
        if self.store == "path" and root is not None:  # it is in the rows, then
            job["root"] = os.path.realpath(root)
        settings = {name: value for name, value in self.given.items() if name not in SPEED_SETTINGS}
        if model.dtype != "float32":  # then a word may depend on how many are read at a time, as on sizes of batches
            job |= {name: self.given[name] for name in SPEED_SETTINGS if name in self.given}
        return Plan(
            self.kind,
            configuration,
            settings,
            source=collection.name,
            license=self.license,
            job=job,
            notice=notice_of(model.name, model.trained_on, self.places),
        )


def written_by(model: ModelFacts) -> Record:
    """What names the model in a configuration."""
    said = {"model": model.name, "revision": model.revision, "dtype": model.dtype}
    return {**said, "remote_code": True} if model.remote_code else said


def at_least(low: int, **counts: int | None) -> None:
    """Raises a `GenerationError` for a count that is too small."""
    for name, value in counts.items():
        if value is not None and value < low:
            raise GenerationError(f"{name}={value} is too small: give at least {low}.")
