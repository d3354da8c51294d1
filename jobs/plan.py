"""The plan of a job: its inputs, cut into shards, and everything that decides what its folder holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

from .canonical import fingerprint

# Of the JSON of a plan. A folder of another version is not resumed: it is refused with the difference.
VERSION = 2


class Configuration(dict[str, Any]):
    """All that decides what is generated for one input: names, numbers and lists, as JSON holds them.

    It is a mapping, since each kind of job has settings of its own, and its canonical JSON is hashed: row ids and seeds
    hang on that hash. What every job has is read by a name.
    """

    @property
    def types(self) -> list[str]:
        """The task types, which name the folders of the rows."""
        return self["types"]

    @property
    def model(self) -> str:
        """The name of the model."""
        return self["model"]

    @property
    def dtype(self) -> str | None:
        """What the model's weights are loaded in; None where a server does not say."""
        return self["dtype"]

    @property
    def questions(self) -> int:
        """How many questions of each task type are asked about an input; 1 where the job has no such setting."""
        return self.get("questions", 1)


class Uncompared(TypedDict):
    """Files of a folder that inputs are compared with which cannot be read, so that nothing was compared with them.

    Args:
        count: How many.
        first: The names of some.
    """

    count: int
    first: list[str]


@dataclass(frozen=True, slots=True)
class PlannedInputs:
    """What a plan records of the inputs.

    Args:
        listed: How many were found.
        taken: How many are left after filters, copies and the limit.
        copies: How many are exact copies of another one, which stands for them.
        compared: Names of the lists and folders that inputs were compared with by filters.
        excluded: How many were excluded, by the rule of a filter.
        uncompared: By folder: the files that nothing was compared with.
        shards: How many shards there are.
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
        """As the plan's file holds it."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        if not self.uncompared:
            del values["uncompared"]
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> PlannedInputs:
        """What [`to_json`] made.

        Raises:
            TypeError: It is no object.
        """
        return cls(**{name: values[name] for name in cls.__dataclass_fields__ if name in values})


@dataclass(frozen=True, slots=True)
class Plan:
    """What a job is about. All ranks of a job, and every later run of it, have the same.

    Args:
        kind: The command that it is of: "generate" or "correct".
        configuration: All that decides what is generated for one input.
        settings: The settings of the model that were given.
        source: Where the inputs come from.
        license: Of inputs that state none.
        job: What else decides what the folder holds: sizes of batches and shards, how images are stored, ...
        notice: What readers must know first, if there is such a thing.
        inputs: The inputs; of a plan that is not complete yet there are none.
        version: Of the JSON.
        config_hash: Hash of the configuration, part of every row; computed unless given.
        fingerprint: Hash of all else; a folder of another one is refused.
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
        """As its file holds it."""
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
        """What [`to_json`] made. Whether it is undamaged is told by [`is_whole`].

        Raises:
            KeyError, TypeError, ValueError, AttributeError: It is no such object.
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
    """Whether the JSON of a plan, of any version, is as it was written, by the fingerprint in it."""
    return values.get("fingerprint") == fingerprint({name: values[name] for name in values if name != "fingerprint"})
