"""What the commands say and refuse: lists of `genrec recommend`, help, and bad input in one line."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import polars as pl
import pytest
from worlds.small_shop import SMALL, contents, write_shop

from genrec import Recommender
from genrec.cli import pipeline
from genrec.cli.main import COMMANDS, main
from genrec.data.sequences import Sequences
from genrec.evaluation.verdict import verdict
from genrec.run import Run
from genrec.semtok.errors import InputError

NEGATIVE = "must not be negative" if find_spec("ray") else "ray is not installed"


@pytest.fixture
def run(tiny_run: Path) -> Path:
    return tiny_run


def test_recommend_filters_search_and_similar(run: Path) -> None:
    recommender = Recommender.from_pretrained(run)
    items = recommender.catalog.item_ids
    lists = recommender.recommend([[items[0], items[1]], []], k=4, where={"price": (None, 50)}, deny=[[items[2]], []])
    prices = recommender.catalog.attributes["price"].to_numpy()
    for row, denied in zip(lists.rows, ({0, 1, 2}, set()), strict=True):
        assert len(row) == 4
        assert not denied & set(row.tolist())
        assert (prices[row] <= 50).all()
    for ranking in ("beam", "rerank", "dense"):
        whole = recommender.recommend_rows(Sequences.from_lists([[0]]), k=60, ranking=ranking, beams=60)
        assert len(whole.rows[0]) == 59
    short = recommender.recommend([[items[0]]], k=100)
    assert len(short.rows[0]) == 59
    assert "100 were asked for" in str(short.reasons[0])
    assert len(recommender.search("coffee", 3)[0]) == 3
    similar = recommender.similar(items[5], 3).pairs()
    assert len(similar) == 3
    assert items[5] not in dict(similar)
    with pytest.raises(InputError, match="nobody"):
        recommender.recommend([["nobody"]])


def test_recommend_finds_the_lists_of_the_fit_done(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(run)
    assert main(["recommend", str(run), "--k=5", "--shard_size=40"]) == 0
    assert contents(run) == before
    assert main(["recommend", str(run), "--k=5", "--shard_size=40", "--ranking=dense"]) == 2
    assert "its ranking was 'fused', now 'dense'" in capsys.readouterr().err
    assert main(["recommend", str(run), "--k=5", "--shard_size=40", "--restart"]) == 0
    assert contents(run) == before


def test_recommend_for_given_histories(run: Path, tmp_path: Path) -> None:
    items = Recommender.from_pretrained(run).catalog.item_ids
    users = tmp_path / "users.jsonl"
    users.write_text(json.dumps({"user_id": "x", "history": [items[1]]}) + "\n")
    options = ["--users", str(users), "--out", str(tmp_path / "out"), "--k", "3", "--ranking", "beam"]
    assert main(["recommend", str(run), *options, "--where", '{"price": [null, 80]}']) == 0
    assert len(pl.read_parquet(tmp_path / "out/part-00000.parquet")["item_ids"][0]) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit"], "CONFIG is missing"),
        (["fit", "none.yaml"], "none.yaml: no such configuration file"),
        (["fit", "{config}", "--lm.heads=3"], "--lm.heads 3"),
        (["fit", "{config}", "--lm.nothing=3"], "lm.nothing"),
        (["fit", "{config}", "--data.items=gone.jsonl"], "gone.jsonl"),
        (["fit", "{config}", "--data.split=given"], "splits FOLDER go together"),
        (["fit", "{config}", "--text.encoder=word2vec"], "word2vec"),
        (["fit", "{config}", "--lm.base=no/such/model", "--run={new}"], "--lm.base no/such/model"),
        (["fit", "{config}", "--run={run}/config.yaml"], "config.yaml: cannot be the folder of a run"),
        (["fit", "{config}", "--run={run}/config.yaml/below"], "below: cannot be the folder of a run"),
        (["nonsense"], "no command"),
        (["inspect", "nowhere"], "nowhere: no such folder"),
        (["inspect", "{run}", "nobody"], "nobody"),
        (["show", "{run}"], "say whose list: genrec show RUN USER"),
        (["show", "{run}", "u00003", "--history=10001"], "say whose list"),
        (["show", "{run}", "nobody"], "1 user is not in the run's log, first 'nobody'"),
        (["show", "{run}", "--history=10001 gone"], "no item 'gone' in the catalogue"),
        (["show", "{run}", "u00003", "--where=3"], "--where 3: not a JSON object"),
        (["recommend", "{run}", "--run=other"], "no option --run"),
        (["recommend", "{run}", "--k=0"], "--k 0"),
        (["recommend", "{run}", "--beams=0"], "--beams 0 must be at least 1"),
        (["recommend", "{run}", "--device=gpu", "--out={new}"], "device 'gpu' is unavailable here"),
        (["recommend", "{config}"], "my.yaml: no such folder"),
        (["recommend", "{run}", "--out={config}/below"], "my.yaml: cannot be written to"),
        (["recommend", "{run}", "--where={"], "--where"),
        (["recommend", "{run}", '--where={"colour": "red"}', "--out={new}"], "colour"),
        (["recommend", "{run}", "--users=gone.csv", "--out={new}"], "gone.csv"),
        (["recommend", "{run}", "--gpus=1"], "gpus and address go with ray"),
        (["recommend", "{run}", "--executor=ray", "--gpus=-1", "--out={new}"], NEGATIVE),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: Sequence[str], message: str
) -> None:
    before = contents(run)
    places = {"config": str(run.parent / "my.yaml"), "run": str(run), "new": str(tmp_path / "new")}
    filled = [a.replace("{config}", places["config"]).replace("{run}", places["run"]).replace("{new}", places["new"])
              for a in arguments]  # fmt: skip
    if filled[0] == "fit" and len(filled) > 2:
        small = SMALL if not any(a.startswith("--lm.heads") for a in filled) else []
        filled = [*filled[:2], *small, *filled[2:]]  # what is bad comes last
        if not any(a.startswith("--run") for a in filled):
            filled.append(f"--run={tmp_path / 'new'}")
    assert main(filled) == 2
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert message in last
    assert contents(run) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"\xff\xfe\x00", "not UTF-8 text"),
        (b"data: 5\n", "data 5: a section of settings belongs here"),
        (b"%s\nlm:\n", "lm has no value"),
        (b"%s\nlm: {tasks: [1]}\n", "lm.tasks [1]: a section of settings belongs here"),
    ],
)
def test_a_configuration_that_is_none_is_named(
    text: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_shop(tmp_path)
    config.write_bytes(text.replace(b"%s", config.read_bytes()))
    assert main(["fit", str(config), f"--run={tmp_path / 'run'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{config}: {message}" in line
    assert not (tmp_path / "run").exists()


def test_fit_ends_with_a_sentence_and_what_to_do_next(
    run: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = verdict(Run(run).metrics())
    for loses in (False, True):
        caplog.clear()
        monkeypatch.setattr(pipeline, "verdict", lambda rows, loses=loses: said._replace(loses=loses))
        assert main(["fit", str(run.parent / "my.yaml"), *SMALL]) == 0
        assert ("a baseline is better than the lists of this run: genrec fused" in caplog.text) is loses
    lines = capsys.readouterr().out.splitlines()
    assert said.sentence in lines
    commands = [shlex.split(line.partition("#")[0])[1:] for line in lines[lines.index("next:") + 1 :]][-3:]
    assert [command[0] for command in commands] == ["show", "chat", "serve"]
    assert main(commands[0]) == 0


def test_show_is_a_users_history_and_list(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(run), "u00003", "--k=3"]) == 0
    said = capsys.readouterr().out
    recommender = Recommender.from_pretrained(run)
    (history,) = recommender.run.histories(["u00003"])
    assert said.startswith(f"{len(history)} items in the history")
    assert recommender.catalog.titles[history[-1]] in said
    assert all(item.title in said for item in recommender.recommend(users=["u00003"], k=3)[0])
    assert main(["show", str(run), "--history", "10001 10006", "--where", '{"price": {"max": 20}}']) == 0
    said = capsys.readouterr().out
    assert "2 items in the history:" in said
    expected = recommender.recommend([["10001", "10006"]], where={"price": {"max": 20}})
    assert all(item.title in said for item in expected[0])


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_helps(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main([command, "--help"])
    except SystemExit as ended:
        status = int(str(ended.code))
    assert status == 0
    said = capsys.readouterr().out
    assert f"genrec {command}" in said
    assert command not in ("recommend", "serve", "chat", "import") or not {"--run", "--format"} & set(said.split())


def test_a_truncated_run_is_refused(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    weights = copy / "lm/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"model\.safetensors.*truncated"):
        Recommender.from_pretrained(copy)
    (copy / "lm/manifest.json").unlink()
    with pytest.raises(InputError, match="unfinished"):
        Recommender.from_pretrained(copy)


@pytest.mark.slow
def test_ray_workers_write_the_same_lists(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    lists = {"local": [], "ray": ["--executor=ray", "--workers=2", "--cpus=0.5", "--gpus=0"]}
    for name, flags in lists.items():
        assert main(["recommend", str(run), f"--out={tmp_path / name}", "--k=5", "--shard_size=40", *flags]) == 0
    assert contents(tmp_path / "local") == contents(tmp_path / "ray")
