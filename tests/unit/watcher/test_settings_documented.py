"""docs/settings.md has the settings of the code."""

import re

from tests.support.generated_tables import SETTINGS
from watcher.app.daemon import RELOADABLE
from watcher.settings.model import Settings

README = SETTINGS.parents[1] / "README.md"


def test_every_setting_has_a_meaning_and_says_what_is_allowed() -> None:
    for name, info in Settings.model_fields.items():
        assert info.description, name
        assert info.description.endswith("."), name
        assert isinstance(info.json_schema_extra, dict), name
        assert info.json_schema_extra["allowed"], name


def test_the_document_names_what_needs_no_restart() -> None:
    section = SETTINGS.read_text(encoding="utf-8").partition("\n## Changes without a restart\n")[2]
    assert set(re.findall(r"`([A-Z_]+)`", section)) == {name.upper() for name in RELOADABLE}


def test_the_settings_of_the_readme_exist() -> None:
    section = README.read_text(encoding="utf-8").partition("\n## Settings\n")[2].partition("\n## ")[0]
    named = re.findall(r"`([A-Z_0-9]{3,})`", "".join(re.findall(r"^\| `.*?\|", section, re.MULTILINE)))
    assert len(named) == 12
    assert {name.lower() for name in named} <= set(Settings.model_fields)
