"""Values that a setting does not know yet, as if its `Literal` named them: for what tests add to a table."""

from dataclasses import replace

from vigc import options


def also(monkeypatch, declared, name, value):
    """Adds a choice to a setting of a dataclass."""
    known = options.settings_of(declared)
    setting = known[name]
    monkeypatch.setitem(options._KNOWN, declared, {**known, name: replace(setting, choices=(*setting.choices, value))})
