"""Templates are compiled once for a process and its forks: every job fills the same two, and compiling takes longer."""

import jinja2

# What the code of a template depends on, besides its source and the names of its filters.
OPTIONS = ("autoescape", "trim_blocks", "lstrip_blocks", "keep_trailing_newline", "extensions", "sandboxed", "is_async")


def keep_compiled() -> None:
    """Keeps what `jinja2.Environment.compile` makes, as jinja2's own caches of bytecode do, which need to be asked."""
    compiled, original = {}, jinja2.Environment.compile

    def compile_once(self, source, name=None, filename=None, raw=False, defer_init=False):
        options = [str(getattr(self, option)) for option in OPTIONS]
        key = (str(source), name, filename, raw, defer_init, type(self), *options, *self.filters, *self.tests)
        if key not in compiled:
            compiled[key] = original(self, source, name, filename, raw, defer_init)
        return compiled[key]

    jinja2.Environment.compile = compile_once
