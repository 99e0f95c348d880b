"""`genrec add-items` on a run of 60 items: new items get IDs, none moves, and nothing loses them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from worlds.small_shop import SMALL, contents

from genrec import Recommender
from genrec.cli.main import main
from genrec.evaluation.tables import Row
from genrec.run import Run


@pytest.fixture
def run(tiny_run: Path) -> Path:
    return tiny_run


def test_add_items_moves_no_id_and_recommends_the_new(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    before = pl.read_parquet(copy / "semtok/semantic_ids.parquet")
    file = tmp_path / "new.jsonl"
    file.write_text(json.dumps({"item_id": "new1", "title": "Copper kettle", "price": 20.0}) + "\n")
    with Run(copy).locked():  # another process adds: of two that read one catalogue, one would lose its items
        assert main(["add-items", str(copy), str(file)]) == 2
    assert main(["add-items", str(copy), str(file)]) == 0
    after = pl.read_parquet(copy / "semtok/semantic_ids.parquet")
    assert after.head(len(before)).equals(before)
    recommender = Recommender.from_pretrained(copy)
    row = recommender.catalog.row("new1")
    mask = np.zeros(len(recommender.catalog), dtype=bool)
    mask[row] = True
    found = recommender.recommend([[recommender.catalog.item_ids[0]]], k=1, items_to_recommend=mask)
    assert found.rows[0].tolist() == [row]
    assert main(["add-items", str(copy), str(file)]) == 2


def test_a_fit_that_stopped_at_another_catalogue_takes_no_new_items(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They would go behind the IDs of other items, and fit would then refuse to lose them."""
    copy, fewer, file = tmp_path / "run", tmp_path / "fewer.jsonl", tmp_path / "new.jsonl"
    shutil.copytree(run, copy)
    fewer.write_text("".join((run.parent / "items.jsonl").read_text().splitlines(keepends=True)[:-1]))
    file.write_text(json.dumps({"item_id": "new1", "title": "Copper kettle"}) + "\n")
    assert main(["fit", str(run.parent / "my.yaml"), *SMALL, f"--run={copy}", f"--data.items={fewer}"]) == 2
    capsys.readouterr()
    assert main(["add-items", str(copy), str(file)]) == 2
    assert "was made of another catalog; genrec fit finishes the run" in capsys.readouterr().err
    assert main(["fit", str(run.parent / "my.yaml"), *SMALL, f"--run={copy}"]) == 0
    assert Recommender.from_pretrained(copy).run_id == Recommender.from_pretrained(run).run_id


def _without_beam(run: Path) -> list[Row]:
    """The report's figures, but for those of the beam and of the fused ranking, whose probabilities are over the
    catalogue of today: a prefix has the mass of added items too, and against counts, which know none of them, each
    probability weighs a little less.
    """
    rows = [row for row in Run(run).metrics() if row["split"] == "test"]
    return [row for row in rows if "fused" not in row["model"] and "beam" not in row["model"]]


def test_added_items_outlive_fit_and_evaluate(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is made again but the lists; where something would be, one line and the run as it was."""
    copy, config = tmp_path / "run", str(run.parent / "my.yaml")
    shutil.copytree(run, copy)
    for name in ("new1", "new2"):
        file = tmp_path / f"{name}.jsonl"
        file.write_text(json.dumps({"item_id": name, "title": "Copper kettle"}) + "\n")
        assert main(["add-items", str(copy), str(file)]) == 0
    before = contents(copy)
    assert main(["evaluate", str(copy)]) == 0
    assert contents(copy) == before
    assert main(["fit", config, *SMALL, f"--run={copy}"]) == 0
    after = contents(copy)
    assert {name for name in after if before.get(name) != after[name]} <= {
        name for name in after if name.startswith("topk/")
    }
    assert Recommender.from_pretrained(copy).catalog.item_ids[-2:] == ("new1", "new2")
    figures = _without_beam(copy)
    shutil.rmtree(copy / "report")
    assert main(["evaluate", str(copy)]) == 0  # over the items that were fitted
    assert _without_beam(copy) == figures
    again = contents(copy)
    assert all(name.startswith("report/") for name in again if again[name] != after[name])
    after = again
    shutil.copyfile(copy / "config.yaml", tmp_path / "config.yaml")
    capsys.readouterr()
    for change, stage in (("--semtok.extra_level=4", "semtok"), ("--lm.epochs=1", "lm")):
        assert main(["fit", config, *SMALL, change, f"--run={copy}"]) == 2
        assert f"{stage} is out of date, but made again the run would lose" in capsys.readouterr().err
    assert contents(copy) == after
    assert (copy / "config.yaml").read_text() == (tmp_path / "config.yaml").read_text()
    other = tmp_path / "other"
    assert main(["fit", config, *SMALL, "--topk.k=0", f"--run={other}", f"--reuse={copy}"]) == 0
    assert len(Recommender.from_pretrained(other).catalog) == 60
