"""Worlds that tests share: each is made once a session, so a test that changes one takes a copy."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings
from worlds.small_shop import SMALL, write_shop

from genrec.cli.main import main

settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the small shop, fitted by `genrec fit`; the shop's tables lie beside it, and `my.yaml`. Read only."""
    config = write_shop(tmp_path_factory.mktemp("tiny_run"))
    assert main(["fit", str(config), *SMALL]) == 0
    return config.parent / "run"
