"""Copies the `*_vigc.py` files into the embedded model's folder, so that it loads without vigc.

Run as `python recipes/tiny/embed.py`, or `make format`, after a change of modeling_vigc/*_vigc.py or
processing/*_vigc.py. A test compares the copies.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EMBEDDED = ROOT / "scenes" / "vigc_tiny"


def travelling_code() -> dict[str, bytes]:
    """The code files of a saved model, by file name."""
    packages = (ROOT / "modeling_vigc", ROOT / "processing")
    return {path.name: path.read_bytes() for package in packages for path in sorted(package.glob("*_vigc.py"))}


def main() -> None:
    """Writes copies that differ, and removes copies of deleted files."""
    code = travelling_code()
    for path in EMBEDDED.glob("*.py"):
        if path.name not in code:
            path.unlink()
    for name, content in code.items():
        path = EMBEDDED / name
        if not path.is_file() or path.read_bytes() != content:
            path.write_bytes(content)
            print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
