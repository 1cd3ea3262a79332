"""The README's table of settings is the code's."""

import re
from pathlib import Path

from watcher.settings.model import Settings
from watcher.settings.report import format_default

README = Path(__file__).parents[3] / "README.md"
DERIVED = {"COMPLETED_DIR": "required"}


def settings_table() -> list[str]:
    """The table that the README must have, a line a row; ``python -m`` this module prints it."""
    rows = []
    for field, info in Settings.model_fields.items():
        name = field.upper()
        default = DERIVED.get(name) or (f"`{shown}`" if (shown := format_default(field)) else "")
        cells = (f"`{name}`", default, info.description or "")
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return ["| name | default | meaning |", "| --- | --- | --- |", *rows]


def test_every_setting_has_a_meaning_and_says_what_is_allowed() -> None:
    for name, info in Settings.model_fields.items():
        assert info.description, name
        assert info.description.endswith("."), name
        assert isinstance(info.json_schema_extra, dict), name
        assert info.json_schema_extra["allowed"], name


def test_the_readme_documents_name_default_and_meaning_of_every_setting() -> None:
    section = re.search(r"^## Settings$(.*?)(?=^## |\Z)", README.read_text(), re.MULTILINE | re.DOTALL)
    assert section, "README.md has no heading '## Settings'"
    documented = [line for line in section[1].splitlines() if line.startswith("|")]
    assert documented == settings_table()


if __name__ == "__main__":
    print("\n".join(settings_table()))
