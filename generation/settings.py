"""The settings that all jobs share, checked when the object is made.

Each is declared once for the Python API, the command line and `--config` files (`vigc.options`). The command line
checks settings before heavy imports, so torch is only imported in the methods that use it.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from vigc.errors import GenerationError
from vigc.generation.correctors import CORRECTORS, default_corrector
from vigc.generation.sources.hosts import check_hosts
from vigc.inference.settings import MODEL, SPEED_SETTINGS, DecodingSettings, LoadingSettings, check_settings
from vigc.options import Option, check_paths, check_values, recorded, settings_of, unknown

from .row_schema import GeneratedRows

if TYPE_CHECKING:
    import torch

    from vigc.generation.filters.selection import Selection
    from vigc.generation.rollouts.worker import Worker
    from vigc.generation.sources.base import Collection, Source
    from vigc.inference.generator import FoundModel, ModelFacts, Writer
    from vigc.jobs import Plan, ShardOutput
    from vigc.jobs.protocols import MakeShard, Record, Report

JOB = "The job"
INPUT = "Input"


@dataclass(frozen=True, kw_only=True)
class JobSettings(LoadingSettings, ABC):
    """Settings of all jobs; `GenerateJob` and `CorrectJob` add settings and the worker.

    The declaration of a setting contains its documentation, except for:

    Args:
        model: A folder, a Hub name, or a model object (which requires `processor`).
        processor: By default loaded with the model.
        settings: Decoding and `iqf_*` settings of `model.generate` that differ from those saved with the model.

    Raises:
        GenerationError: A setting is unknown, out of range, or has no effect.
    """

    kind: ClassVar[str]
    row_schema: ClassVar[GeneratedRows] = GeneratedRows()

    model: Annotated[
        Any,
        Option(
            "Folder or Hub name of a VIGC model, or vigc-tiny.",
            MODEL,
            common=True,
            flags=("--model", "-m"),
            default="vigc-tiny, embedded, for rendered scenes only",
        ),
    ]
    processor: Any = None
    batch_size: Annotated[
        int,
        Option(
            "Texts generated, and images loaded, at a time; it does not change greedy decoding in float32.",
            MODEL,
            common=True,
            min=1,
        ),
    ] = 8
    settings: dict[str, Any] | None = None
    corrector: Annotated[
        str | None,
        Option(
            "How drafts are corrected: iqf (sentence by sentence), one_shot (in one request) or none.",
            JOB,
            common=True,
            metavar=f"[{'|'.join(CORRECTORS)}]",
            default="iqf",
        ),
    ] = None
    image_root: Annotated[
        str | os.PathLike[str] | None,
        Option(
            "The folder of the images that an annotation file names; by default the folder of the file.",
            INPUT,
            path="folder",
        ),
    ] = None
    allow_urls: Annotated[
        Sequence[str],
        Option(
            "Download images whose names are URLs from this host ('*.x.org': its subdomains; '*': any public host); "
            "repeatable. Without it URLs are skipped.",
            INPUT,
            metavar="HOST",
        ),
    ] = ()
    subset: Annotated[str | None, Option("The configuration of a dataset.", INPUT)] = None
    split: Annotated[str, Option("The split of a dataset.", INPUT)] = "train"
    data_revision: Annotated[
        str | None,
        Option("Commit, tag or branch of a dataset on the Hub; by default the newest, or the resumed job's.", INPUT),
    ] = None
    limit: Annotated[int | None, Option("Maximum number of images.", JOB, common=True, min=1)] = None
    license: Annotated[str, Option("Licence of images that do not state their own.", JOB, common=True)] = "unknown"
    seed: Annotated[int, Option("Seed of sampling.", JOB)] = 0
    shard_size: Annotated[
        int, Option("Images per parquet file; an interruption loses at most one shard.", JOB, min=1)
    ] = 256
    retries: Annotated[int, Option("How often an invalid sample is generated again.", JOB, min=0)] = 2
    score: Annotated[
        bool,
        Option(
            "Compute visual_dependency, log p(answer | image) - log p(answer | blank image), in two more passes; for "
            "given drafts draft_logprob too.",
            JOB,
        ),
    ] = False
    store: Annotated[
        Literal["embed", "path"],
        Option("embed: store images in the rows. path: store their paths.", JOB, flags=("--images",)),
    ] = "embed"
    verify: Annotated[
        bool,
        Option(
            "Compare the folder's files with their recorded hashes, and write damaged ones again.",
            JOB,
            once=True,
        ),
    ] = False
    overwrite: Annotated[
        bool,
        Option(
            "Replace a finished or another dataset in the folder; an unfinished job with these settings is resumed.",
            JOB,
            common=True,
            once=True,
        ),
    ] = False
    rank: Annotated[int, Option("Rank of this process, from 0.", JOB, min=0, once=True)] = 0
    world_size: Annotated[int, Option("Number of processes that share the job.", JOB, min=1, once=True)] = 1
    engine: Annotated[
        Literal["local", "ray"],
        Option("local: this process; ray: every GPU of a Ray cluster, or else every CPU.", JOB, once=True),
    ] = "local"
    workers: Annotated[int | None, Option("With ray: number of processes.", JOB, min=1, once=True)] = None

    def __post_init__(self) -> None:
        check_values(self, GenerationError)
        check_hosts(self.allow_urls)
        if self.store == "path" and self.in_tables:
            raise GenerationError(
                "store='path' is for images in files, but a dataset has them in its rows: use 'embed'."
            )
        if self.workers is not None and self.engine != "ray":
            raise GenerationError(f"workers={self.workers} needs --engine ray.")
        if not 0 <= self.rank < self.world_size:
            raise GenerationError(
                f"rank={self.rank} with world_size={self.world_size}: ranks go from 0 to {self.world_size - 1}."
            )
        if self.verify and self.overwrite:
            raise GenerationError(
                "--verify keeps the files of the folder, and --overwrite replaces it: give one of them."
            )
        if self.chosen_corrector not in CORRECTORS:
            raise GenerationError(unknown("Corrector", self.chosen_corrector, list(CORRECTORS)))
        check_settings(self.given, self.corrects)
        CORRECTORS[self.chosen_corrector].check(self.chosen_corrector, self.given)

    def check_paths(self) -> None:
        """Checks that the files and folders in the settings exist, before anything is loaded.

        Raises:
            GenerationError: A file or folder does not exist.
        """
        check_paths(self, GenerationError)
        if isinstance(self.model, str) and os.path.isabs(self.model) and not os.path.isdir(self.model):
            raise GenerationError(f"The model {self.model!r} is not a folder: give a model's folder or Hub name.")

    def recorded(self) -> Record:
        """The settings that differ from their defaults, by option name; model settings without option in `settings`.

        A model object is recorded by its name, a folder by its path.
        """
        from vigc.scenes.embedded import model_name

        declared = {**settings_of(type(self)), **settings_of(DecodingSettings)}
        model = self.model
        if isinstance(model, (str, os.PathLike)):
            name = model_name(model)
            model = os.path.abspath(name) if os.path.isdir(name) else name
        else:
            model = str(getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__)
        found = recorded({**vars(self), **self.given, "model": model}, declared)
        others = {name: value for name, value in self.given.items() if name not in declared}
        return {**found, "settings": others} if others else found

    @property
    def given(self) -> Record:
        """The explicit decoding and `iqf_*` settings."""
        return dict(self.settings or {})

    @property
    def chosen_corrector(self) -> str:
        """The name of the corrector."""
        return default_corrector() if self.corrector is None else self.corrector

    @property
    def corrects(self) -> bool:
        """Whether answers are corrected."""
        return self.chosen_corrector != "none"

    @property
    def _effective(self) -> Record:
        """The explicit settings, with those that the corrector fixes."""
        return self.given | (CORRECTORS[self.chosen_corrector].fixed if self.corrects else {})

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
        """The folder that image names are relative to, or else the input itself."""

    @property
    @abstractmethod
    def worker(self) -> type[Worker]:
        """The class of the worker that makes the rows of a shard."""

    @abstractmethod
    def collection(self) -> Collection:
        """Opens the inputs."""

    @abstractmethod
    def selection(self) -> Selection:
        """The inputs after filters."""

    @abstractmethod
    def configuration(self) -> Record:
        """The settings that determine the text of an image, besides model, decoding and seed."""

    @abstractmethod
    def asked(self, sources: Sequence[Source], output: ShardOutput) -> int:
        """Number of requested samples. Each must be a row, rejected or dropped, or the shard is not committed.

        Args:
            sources: The inputs of a shard.
            output: The output of the shard; it names the skipped inputs.
        """

    def load(self, device: str, plan: Plan) -> MakeShard[Source]:
        """Loads the model and returns the function that makes shards.

        Raises:
            GenerationError: The model cannot be loaded, or is not the model of the plan.
        """
        from vigc.generation.sources.prefetch import Loader
        from vigc.processing.devices import find_device

        writer = self._find_model(find_device(device, GenerationError)).load(self.batch_size)
        self._check_planned(plan, writer.facts)
        worker = self.worker(writer, plan, self._effective)
        loader = Loader(self.collection(), writer.prepare, self.batch_size, embed=self.store == "embed")

        def make(sources: Sequence[Source], report: Report) -> ShardOutput:
            output = worker.make(loader, list(sources), report)
            output.asked = self.asked(sources, output)
            return output

        return make

    def _check_planned(self, plan: Plan, facts: ModelFacts) -> None:
        """Checks that the loaded model has the facts in the plan."""
        from vigc.inference.loading import effective_settings

        found = {
            **facts.named,
            **effective_settings(facts.generation_config, self._effective, self.corrects),
            "device": facts.device,
        }
        planned = {**plan.configuration, "device": plan.job["device"]}
        if other := [f"{name} was {planned[name]}, now {now}" for name, now in found.items() if planned[name] != now]:
            raise GenerationError(
                f"The model is not the one that was planned with ({'; '.join(other)}): run the same command again."
            )

    def finalize(self, folder: Path, plan: Plan) -> dict[str, int]:
        """Writes the job file, card and report."""
        from vigc.jobs import ledger
        from vigc.processing.job_file import job_text

        from .finalize import write_ending

        ledger.atomic_write(folder / ledger.JOB, job_text(f"vigc {self.kind}", self.recorded()))
        return write_ending(folder, plan)

    def check_portable(self) -> None:
        """Checks that other processes can load the model.

        Raises:
            GenerationError: The model is an object in this process.
        """
        if not isinstance(self.model, (str, os.PathLike)):
            raise GenerationError("With engine='ray' every process loads the model: give its folder or Hub name.")

    def describe_model(self, device: str | None) -> ModelFacts:
        """The facts of the model for the plan, without loading it.

        Args:
            device: The device type; None for the device of the job, in this process.
        """
        import torch

        from vigc.processing.devices import find_device

        place = find_device(self.device, GenerationError) if device is None else torch.device(device)
        return self._find_model(place).facts

    def _find_model(self, device: torch.device) -> FoundModel[Writer]:
        from vigc.inference.loading import find_model

        return find_model(self.model, self.processor, **{**self.loading, "device": device})

    @property
    def inputs_name(self) -> str:
        """Name of the inputs in the progress."""
        return self.worker.inputs

    def plan(self, model: ModelFacts, selection: Selection) -> Plan:
        """The plan without inputs.

        Raises:
            GenerationError: The job needs scores, and the model cannot score answers.
        """
        from vigc.inference.loading import effective_settings
        from vigc.jobs import Configuration, Plan

        from .notices import notice_of

        if self.score and not model.scores:
            raise GenerationError(f"The model {model.name!r} cannot score given answers: remove --score.")
        collection = selection.collection
        configuration = Configuration(
            {
                **model.named,
                **self.configuration(),
                "correct": self.corrects,
                "seed": self.seed,
                "retries": self.retries,
                "score": self.score,
                **effective_settings(model.generation_config, self._effective, self.corrects),
                **self._named_corrector(),
            }
        )
        job: Record = {
            "batch_size": self.batch_size,
            "shard_size": self.shard_size,
            "limit": self.limit,
            "images": self.store,
            "device": model.device,
            **collection.facts,
            "dedup": bool(selection.filters.get("dedup")),
            **({"allow_urls": check_hosts(self.allow_urls)} if self.allow_urls else {}),
        }
        root = getattr(collection, "root", None)
        if self.store == "path" and root is not None:  # rows then contain paths below it
            job["root"] = os.path.realpath(root)
        settings = {name: value for name, value in self.given.items() if name not in SPEED_SETTINGS}
        if model.dtype != "float32":  # then these settings, like batch sizes, can change the text
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

    def _named_corrector(self) -> Record:
        """The corrector's entry in the configuration; empty if `correct` determines it, as in older jobs."""
        default = default_corrector(correct=self.corrects)
        return {} if self.chosen_corrector == default else {"corrector": self.chosen_corrector}
