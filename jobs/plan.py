"""The plan of a job: its inputs, shards and all settings that determine the output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

from .canonical import fingerprint

# Version of the plan's JSON. A folder of another version cannot be resumed; the error names the difference.
VERSION = 2


class Configuration(dict[str, Any]):
    """All settings that determine the generated text of one input, as JSON values.

    A mapping, because the commands have different settings. Row ids and seeds depend on the hash of its canonical JSON.
    The properties are the settings of every job.
    """

    @property
    def types(self) -> list[str]:
        """The task types; each names a folder of rows."""
        return self["types"]

    @property
    def model(self) -> str:
        """The name of the model."""
        return self["model"]

    @property
    def dtype(self) -> str | None:
        """The dtype of the loaded weights; None if a server does not report it."""
        return self["dtype"]

    @property
    def questions(self) -> int:
        """Number of questions per input and task type; 1 if the job has no such setting."""
        return self.get("questions", 1)


class Uncompared(TypedDict):
    """Unreadable files of a folder that a filter compares inputs with. No input was compared with them.

    Args:
        count: Number of files.
        first: The first file names.
    """

    count: int
    first: list[str]


@dataclass(frozen=True, slots=True)
class PlannedInputs:
    """The inputs in a plan.

    Args:
        listed: Number of inputs found.
        taken: Number of inputs after filters, removal of copies and the limit.
        copies: Number of exact copies of other inputs.
        compared: Names of the lists and folders that filters compared inputs with.
        excluded: Number of excluded inputs by rule of a filter.
        uncompared: Unreadable files by folder.
        shards: Number of shards.
        sha256: Hash of the list of inputs.
    """

    listed: int = 0
    taken: int = 0
    copies: int = 0
    compared: list[str] = field(default_factory=list)
    excluded: dict[str, int] = field(default_factory=dict)
    uncompared: dict[str, Uncompared] = field(default_factory=dict)
    shards: int = 0
    sha256: str = ""

    def to_json(self) -> dict[str, Any]:
        """The JSON in the plan's file."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        if not self.uncompared:
            del values["uncompared"]
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> PlannedInputs:
        """Reads the output of [`to_json`].

        Raises:
            TypeError: It is not an object.
        """
        return cls(**{name: values[name] for name in cls.__dataclass_fields__ if name in values})


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a job. It is the same for all ranks and for every resumed run.

    Args:
        kind: The command: "generate" or "correct".
        configuration: All settings that determine the generated text of one input.
        settings: The explicit model settings.
        source: Description of the inputs' source.
        license: Licence of inputs that state none.
        job: Other settings that determine the files: batch and shard sizes, image storage, ...
        notice: A warning for readers of the dataset, if there is one.
        inputs: The inputs; empty until the plan is complete.
        version: Version of the JSON.
        config_hash: Hash of the configuration, stored in every row; computed if None.
        fingerprint: Hash of all other fields; a folder with another fingerprint is refused.
    """

    kind: str
    configuration: Configuration
    settings: Mapping[str, Any]
    source: str
    license: str
    job: Mapping[str, Any]
    notice: str | None = None
    inputs: PlannedInputs = field(default_factory=PlannedInputs)
    version: int = VERSION
    config_hash: str = ""
    fingerprint: str = ""

    def __post_init__(self) -> None:
        if not self.config_hash:
            object.__setattr__(self, "config_hash", fingerprint(self.configuration))

    def completed(self, inputs: PlannedInputs) -> Plan:
        """The plan with its inputs and its fingerprint."""
        plan = replace(self, inputs=inputs)
        values = plan.to_json()
        del values["fingerprint"]
        return replace(plan, fingerprint=fingerprint(values))

    def to_json(self) -> dict[str, Any]:
        """The JSON of the plan's file."""
        return {
            "version": self.version,
            "kind": self.kind,
            "configuration": self.configuration,
            "config_hash": self.config_hash,
            "settings": self.settings,
            "source": self.source,
            "license": self.license,
            "job": self.job,
            **({"notice": self.notice} if self.notice else {}),
            "inputs": self.inputs.to_json(),
            "fingerprint": self.fingerprint,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Plan:
        """Reads the output of [`to_json`]; [`is_whole`] detects damage.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: The JSON is not a plan.
        """
        return cls(
            kind=values.get("kind", "generate"),
            configuration=Configuration(values["configuration"]),
            settings=dict(values.get("settings", {})),
            source=values["source"],
            license=values["license"],
            job=dict(values["job"]),
            notice=values.get("notice"),
            inputs=PlannedInputs.from_json(values.get("inputs", {})),
            version=values.get("version", 0),
            config_hash=values["config_hash"],
            fingerprint=values.get("fingerprint", ""),
        )


def is_whole(values: Mapping[str, Any]) -> bool:
    """Whether the JSON of a plan of any version matches its fingerprint."""
    return values.get("fingerprint") == fingerprint({name: values[name] for name in values if name != "fingerprint"})
