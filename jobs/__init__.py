"""The resumable job: its store, locks and output folder."""

from .ledger import FileMark, ShardRecord
from .shard_output import ShardOutput

__all__ = ["FileMark", "ShardOutput", "ShardRecord"]
