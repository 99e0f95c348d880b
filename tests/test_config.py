"""`genrec fit`'s configuration: what is refused before any work, and that what was stored is read again."""

from __future__ import annotations

from pathlib import Path

import pytest

from genrec.cli.parsing import load_config
from genrec.semtok.errors import InputError


@pytest.fixture
def config(tmp_path: Path) -> Path:
    for name in ("items.jsonl", "log.csv"):
        (tmp_path / name).write_text("")
    text = f"{{data: {{items: {tmp_path}/items.jsonl, interactions: {tmp_path}/log.csv}}, run: {tmp_path}/run}}"
    (tmp_path / "config.yaml").write_text(text)
    return tmp_path / "config.yaml"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--aligner.name=recgoat", "--lrurec.width=50"],
            "aligner.recgoat.heads 8 does not divide the backbone's width 50",
        ),
        (["--semtok.sizes=[4,0]"], "--semtok.sizes [4, 0] must be at least 1 each"),
        (["--semtok.sizes=[65536,65536,65536,65536]"], "more than 2^63 code paths"),
        (["--seed=-1"], "--seed -1 must not be negative"),
        (["--seed=4294967296"], "--seed 4294967296 must not be negative or above 4000000000"),
        (["--lm.seed=-1"], "--lm.seed -1 must not be negative"),
        (["--semtok.sizes=[0]"], "--semtok.sizes [0] must be at least 1 each"),
        (["--refit={run}"], "is run itself"),
        (["--refit={run}/../run"], "is run itself"),
        (["--lm.learning_rate=-1"], "--lm.learning_rate -1.0 must be positive"),
        (["--collaborative.learning_rate=.nan"], "--collaborative.learning_rate nan must be positive"),
        (["--collaborative.learning_rate=.inf"], "--collaborative.learning_rate inf must be positive"),
        (["--collaborative.weight_decay=.inf"], "--collaborative.weight_decay inf must not be negative"),
        (["--collaborative.weight_decay=-1"], "--collaborative.weight_decay -1.0 must not be negative"),
        (["--collaborative.valid_cases=0"], "--collaborative.valid_cases 0 must be at least 1"),
        (["--aligner.training.seed=-1"], "--aligner.training.seed -1 must not be negative"),
    ],
)
def test_bad_values_are_refused_before_any_work(config: Path, flags: list[str], message: str) -> None:
    with pytest.raises(InputError) as refused:
        load_config(config, [flag.replace("{run}", str(config.parent / "run")) for flag in flags])
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data.split=given", "--data.splits=.", "--data.cold_share=0.5"], "--data.cold_share 0.5: a given split"),
        (["--ranking.max_items=7"], "--ranking.max_items 7: set lm.max_items instead"),
        (["--ranking.max_items=7", "--lm.max_items=8"], "--ranking.max_items 7"),
    ],
)
def test_flags_without_effect_are_refused(config: Path, flags: list[str], message: str) -> None:
    with pytest.raises(InputError) as refused:
        load_config(config, flags)
    assert message in str(refused.value)


@pytest.mark.parametrize(("section", "named"), [("lm: {epochs: null}", "lm.epochs"), ("seed: null", "seed")])
def test_a_setting_without_a_value_is_refused(config: Path, section: str, named: str) -> None:
    config.write_text(f"{config.read_text().removesuffix('}')}, {section}}}")
    with pytest.raises(InputError, match=f"{named} has no value"):
        load_config(config)


def test_what_was_stored_is_read_again(config: Path, tmp_path: Path) -> None:
    for flags in ([], ["--lm.max_items=50"], ["--ranking.max_items=50", "--lm.max_items=50"]):
        value = load_config(config, flags)
        (tmp_path / "stored.yaml").write_text(value.to_yaml())
        assert load_config(tmp_path / "stored.yaml") == value
