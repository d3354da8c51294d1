"""The Hugging Face Hub: revisions, errors of its client, selection of the files to publish, and the push itself."""

from vigc.errors import PushError

from .push import Pushed, push_folder

__all__ = ["PushError", "Pushed", "push_folder"]
