"""The table of settings, made from the code; ``python -m`` this module writes it into the document."""

from __future__ import annotations

from pathlib import Path

from watcher.settings.model import Settings
from watcher.settings.report import format_default

DOCUMENT = Path(__file__).parents[2] / "docs/settings.md"
BEGIN, END = "<!-- settings: begin -->\n", "<!-- settings: end -->"
DERIVED = {"COMPLETED_DIR": "required"}


def settings_table() -> str:
    """A line a setting, in the order of their declarations."""
    rows = ["| name | default | meaning |", "| --- | --- | --- |"]
    for field, info in Settings.model_fields.items():
        name = field.upper()
        default = DERIVED.get(name) or (f"`{shown}`" if (shown := format_default(field)) else "")
        cells = (f"`{name}`", default, info.description or "")
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def with_table(text: str) -> str:
    """The text of the document with the table between its marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{begin}{settings_table()}{end}{after}"


if __name__ == "__main__":
    DOCUMENT.write_text(with_table(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
