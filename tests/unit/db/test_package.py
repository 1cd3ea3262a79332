"""The package imports no other package of this project and exports what it documents."""

import subprocess
import sys

import db

IMPORTED = "import sys, db; print(*{name.partition('.')[0] for name in sys.modules})"


def test_it_imports_no_other_package_of_this_project() -> None:
    imported = subprocess.run(
        [sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True, timeout=30
    )
    assert not {"watcher", "storage", "watchdog", "boto3", "awscrt"} & set(imported.stdout.split())


def test_what_it_offers_is_there_and_documented() -> None:
    for name in db.__all__:
        assert hasattr(db, name)
        if callable(getattr(db, name)):
            assert getattr(db, name).__doc__
