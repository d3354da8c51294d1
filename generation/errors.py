"""What goes wrong because of what a user gave."""


class GenerationError(ValueError):
    """Input, settings or folders that cannot be worked with. The message says what, the value, and the fix."""
