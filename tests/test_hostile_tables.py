"""Tables and settings that nobody means to write: each is one clear line, or is read as what it says."""

from __future__ import annotations

import datetime
import io
import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from worlds.small_shop import write_shop

from genrec.cli.main import main
from genrec.cli.parsing import load_config
from genrec.data.importers import ImportConfig
from genrec.data.interactions import Interactions
from genrec.data.splits import leave_last_out
from genrec.inference.batch.config import RecommendConfig
from genrec.inference.chat.config import ChatConfig
from genrec.inference.serve.config import ServeConfig
from genrec.inference.store.command import StoreConfig
from genrec.semtok import options as check
from genrec.semtok.catalog import Catalog
from genrec.semtok.errors import InputError
from genrec.semtok.pretrained import open_folder
from genrec.training.encoder.config import ScftConfig
from genrec.training.lm.base import scratch_tokenizer
from genrec.training.lm.config import TRACKERS

ROWS = "item_id,title\na,Ä\nb,B\n"
OBJECT = '{"item_id": "a", "title": "Ä"'


def parquet(**columns: Any) -> bytes:
    out = io.BytesIO()
    pl.DataFrame({"item_id": ["a", "b"], "title": ["A", "B"]} | columns).write_parquet(out)
    return out.getvalue()


REFUSED: dict[str, tuple[bytes, str]] = {
    **{f"{name}.csv": (ROWS.encode(name), "the text is UTF-16") for name in ("utf-16", "utf-16-le", "utf-16-be")},
    **{f"{name}.csv": (ROWS.encode(name), "the text is UTF-32") for name in ("utf-32", "utf-32-le", "utf-32-be")},
    "utf-16.jsonl": (f"{OBJECT}}}\n".encode("utf-16"), "the text is UTF-16"),
    "latin-1.csv": (ROWS.encode("latin-1"), "line 2 is not UTF-8"),
    "lists.jsonl": (f'{OBJECT}, "x": {"[" * 100_000}{"]" * 100_000}}}\n'.encode(), "row 1 is nested too deeply"),
    "objects.jsonl": (f'{OBJECT}, "x": {"{" * 100_000}'.encode(), "row 1 is not JSON|nested too deeply"),
    "half a character.jsonl": (b'{"item_id": "a\\ud800", "title": "A"}\n', "half of a surrogate pair in item_id"),
    "nul.csv": (b"item_id,title\na\0b,A\n", "with NUL or half"),
    "digits.jsonl": (f'{OBJECT}, "x": {"9" * 400}}}\n'.encode(), "cannot be read"),
    "bytes.parquet": (parquet(x=[b"\xff", b"a"]), "which is no text, number"),
    "list of bytes.parquet": (parquet(x=[[b"\xff"], [b"a"]]), "which is no text, number"),
    "struct of bytes.parquet": (parquet(x=[{"a": [b"\xff"]}, {"a": None}]), "which is no text, number"),
    "bytes as ids.parquet": (parquet(item_id=[b"\xff", b"a"]), "ids are text or whole numbers"),
    "durations.parquet": (parquet(x=[datetime.timedelta(1), None]), "which is no text, number"),
    "list of durations.parquet": (parquet(x=[[datetime.timedelta(1)], None]), "use lists of text"),
    "noise.parquet": (bytes(range(256)) * 10, "not a whole Parquet file"),
    "cut.parquet": (parquet()[:-9], "not a whole Parquet file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_table_that_cannot_be_read_is_one_line(name: str, tmp_path: Path) -> None:
    data, message = REFUSED[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message) as refusal:
        Catalog.from_file(tmp_path / name)
    assert str(refusal.value).startswith(str(tmp_path / name))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["x" * 5000 + ".csv", "a\0b.csv", "nothing.csv", "folder.csv"])
def test_what_is_no_file_is_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match="no such file"):
        Catalog.from_file(tmp_path / name)


@pytest.mark.parametrize("folder", ["v[2]", "v*", "v?", "v{a,b}"])
def test_a_path_is_no_pattern(folder: str, tmp_path: Path) -> None:
    """Beside each folder stands one that its name, taken for a pattern, would find."""
    for name, title in ((folder, "ours"), ("v2", "theirs"), ("va", "theirs")):
        (tmp_path / name).mkdir()
        Catalog(("a",), (title,), pl.DataFrame(), pl.Series([False]).to_numpy()).save(tmp_path / name)
        (tmp_path / name / "items.csv").write_text(f"item_id,title\na,{title}\n")
    assert Catalog.load(tmp_path / folder).titles == ("ours",)
    assert Catalog.from_file(tmp_path / folder / "items.csv").titles == ("ours",)


def test_every_reader_of_the_table_library_is_told_that_a_path_is_no_pattern() -> None:
    root = Path(__file__).resolve().parent.parent
    readers = re.compile(r"pl\.(read|scan)_(csv|parquet)\((?P<given>.*)\)")
    seen = 0
    for room in ("semtok", "genrec", "training", "inference"):
        for path in (root / room).rglob("*.py"):
            for found in readers.finditer(path.read_text()):
                seen += 1
                assert "glob=False" in found["given"], f"{path}: {found[0]}"
    assert seen >= 5


def test_a_word_without_end_does_not_stop_the_tokenizers_training() -> None:
    texts = ["red nail polish", "a" * 1_000_000, " " * 1_000_000, "ab" * 500_000]
    tokenizer = scratch_tokenizer(texts, 300)
    assert tokenizer.decode(tokenizer.encode("red nail polish")) == "red nail polish"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_shop(tmp_path)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--lm.width=1000000000", "--lm.width 1000000000 must be at most"),
        ("--lm.layers=1000000000", "--lm.layers 1000000000 must be at most"),
        ("--lm.text_vocabulary=1000000000", "--lm.text_vocabulary 1000000000 must be at most"),
        ("--sasrec.width=1000000000", "--sasrec.width 1000000000 must be at most"),
        ("--semtok.extra_level=1000000000", "--semtok.extra_level 1000000000 must be at most"),
        ("--semtok.sizes=[1000000000]", "must be at most 26 numbers up to"),
        ("--ranking.beams=1000000000", "--ranking.beams 1000000000 must be at most"),
        ("--topk.k=1000000000", "--topk.k 1000000000 must be at most"),
        ("--gru4rec.dropout=" + "9" * 400, "--gru4rec.dropout or "),
        ("--lm.tracker=wandbb", "--lm.tracker 'wandbb': choose one of"),
        ("--run=~nobody at all/runs", "--run ~nobody at all/runs: no such user"),
        ("--data.items=~/items.csv", "/items.csv: no such file"),
    ],
)
def test_a_slip_of_the_hand_is_refused_before_any_work(
    flag: str, message: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", str(config), flag]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told.strip().splitlines()) == 1
    assert not (config.parent / "run").exists()
    assert not Path("~").exists()


def test_a_path_from_home_is_read_as_in_a_shell(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell leaves `--run=~/mine` alone, and never sees what a YAML file says."""
    monkeypatch.setenv("HOME", str(tmp_path))
    config.write_text(config.read_text().replace(f"{tmp_path}/", "~/"))
    read = load_config(config)
    assert (read.run, read.data.items) == (str(tmp_path / "run"), str(tmp_path / "items.jsonl"))
    assert load_config(config, ["--run=~/other"]).run == str(tmp_path / "other")
    mine = tmp_path / "mine"
    told: list[tuple[Any, dict[str, Path | str]]] = [
        (RecommendConfig(run=Path("~/mine"), users="~/mine"), {"run": mine, "users": str(mine)}),
        (ServeConfig(run=Path("~/mine"), store="~/mine"), {"run": mine, "store": str(mine)}),
        (ChatConfig(run=Path("~/mine"), compare=Path("~/mine"), web=True), {"run": mine, "compare": mine}),
        (StoreConfig("load", "~/mine", Path("~/mine")), {"store": str(mine), "batch": mine}),
        (ImportConfig("movielens-1m", Path("~/mine"), folder=Path("~/mine")), {"out": mine, "folder": mine}),
        (ScftConfig("~/mine", "~/mine", encoder="hf:~/mine"), {"items": str(mine), "output": str(mine)}),
    ]
    for options, paths in told:
        assert {name: getattr(options, name) for name in paths} == paths
    assert ServeConfig(run=mine, store="redis://host/0").store == "redis://host/0"
    mine.mkdir()
    with pytest.raises(InputError, match=f"no config.json in {mine}"):
        open_folder("~/mine", "--lm.base ~/mine")


@pytest.mark.parametrize("name", ["topk", "topk/notes.txt"])
def test_lists_of_somebodys_own_are_refused_before_the_training(
    name: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config.parent / "run" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    assert main(["fit", str(config)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "topk" in lines[0]
    assert path.read_text() == "mine"
    assert not (config.parent / "run" / "catalog").exists()


def test_trackers_are_those_of_accelerate(monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    assert set(LOGGER_TYPE_TO_CLASS) == set(TRACKERS)
    monkeypatch.setattr("genrec.training.lm.config.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"--lm\.tracker tensorboard: is not installed; pip install tensorboard"):
        load_config(config, ["--lm.tracker=tensorboard"])


def test_a_key_that_stands_twice_is_named_with_its_lines(config: Path) -> None:
    config.write_text(config.read_text() + "seed: 1\nlm:\n  epochs: 2\n  width: 8\n  epochs: 3\n")
    with pytest.raises(InputError, match="epochs is duplicated, in lines 7 and 9"):
        load_config(config)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "a: &a [*a]\n",
        "\0",
        "run: !!python/object/apply:os.system ['touch marker']\n",
        "{",
        "- 1\n",
        "",
        "a b: 1\n",
        "a: 1\n b: 2\n",
    ],
)
def test_no_configuration_is_one_line(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_text(text)
    assert main(["fit", "my.yaml"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "my.yaml" in line
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("where", ['{"price": ' + "9" * 5000 + "}", "[" * 100_000, "{", "[]", "1", '{"a": NaN'])
def test_conditions_that_are_none_are_one_line(where: str) -> None:
    with pytest.raises(InputError, match=r"^where .*not (JSON|a JSON object)") as refusal:
        RecommendConfig(run=Path("r"), where=where)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 400


def test_more_cold_items_than_there_is_to_learn_from_are_the_flags_fault(config: Path) -> None:
    catalog = Catalog.from_file(config.parent / "items.jsonl")
    log = Interactions.from_file(config.parent / "interactions.csv", catalog)
    with pytest.raises(InputError, match=r"--data\.cold_share 0\.999: leaves no event to learn from"):
        leave_last_out(log, cold_share=0.999)


def test_the_greatest_sizes_go_by_the_last_word_of_a_name() -> None:
    assert [check.most(name) for name in ("width", "dense_width", "layers", "epochs", "k")] == [
        100_000, 100_000, 1_000, check.MOST, 1_000_000
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, "No space left on device", "/run/lm"), "No space left on device: /run/lm"),
        (PermissionError(13, "Permission denied", "/run"), "Permission denied: /run"),
        (OSError(30, "Read-only file system"), "Read-only file system"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "No space left on device"),
        (MemoryError(), "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "not enough memory"),
    ],
)
def test_what_the_machine_refuses_is_one_line(
    error: Exception, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(arguments: object) -> None:
        raise error

    monkeypatch.setattr("genrec.cli.commands.inspect", fails)
    assert main(["inspect", "run"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert told in lines[0]
    monkeypatch.setattr("genrec.cli.commands.inspect", lambda arguments: json.loads(1))  # type: ignore[arg-type]
    with pytest.raises(TypeError):  # a defect stays one
        main(["inspect", "run"])
