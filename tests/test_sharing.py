"""A run as others get it: what is in it, what it can do without its log, and its way to a hub and back."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
import yaml
from huggingface_hub import ModelCard
from worlds.fake_hub import FakeHub, fake_hub
from worlds.small_shop import contents

from genrec import InputError, Recommender
from genrec.cli.main import main
from genrec.inference.sharing import is_hub_id
from genrec.run import Run
from genrec.run_folder import OF_THE_LOG

HISTORIES = [["10001", "10006"], ["10012"], []]


@pytest.fixture(scope="module")
def shop(tiny_run: Path) -> Recommender:
    return Recommender.from_pretrained(tiny_run)


@pytest.fixture(scope="module")
def shared(shop: Recommender, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared") / "shop"
    shop.save_pretrained(folder)
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with fake_hub(tmp_path / "cache", monkeypatch) as there:
        yield there


def texts(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Every file's bytes; of a table its text, as Parquet is compressed."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix == ".parquet":
            out = io.BytesIO()
            pl.read_parquet(path).write_ndjson(out)
            yield path, out.getvalue()
        elif path.is_file():
            yield path, path.read_bytes()


def test_it_recommends_the_same_and_is_what_its_manifests_say(shop: Recommender, shared: Path) -> None:
    opened = Recommender.from_pretrained(shared)
    assert opened.run_id == shop.run_id
    assert opened.recommend(HISTORIES).to_polars().equals(shop.recommend(HISTORIES).to_polars())
    assert opened.similar("10001").to_polars().equals(shop.similar("10001").to_polars())
    assert opened.search("coffee").to_polars().equals(shop.search("coffee").to_polars())
    mine, theirs = contents(shared), contents(shop.run.path)
    assert {name: theirs[name] for name in mine if name != "README.md"} == {
        name: made for name, made in mine.items() if name != "README.md"
    }


def test_no_user_is_in_it(shop: Recommender, shared: Path) -> None:
    """Neither an id of a user, nor a folder of the log, nor a place of this machine."""
    users = pl.read_parquet(shop.run.users)["user_id"]
    for path, data in texts(shared):
        assert not [user for user in users if user.encode() in data], path
        assert str(shop.run.path.parent).encode() not in data or path.name == "manifest.json", path
    assert not [name for name in OF_THE_LOG if (shared / name).exists()]
    assert {path.name for path in shared.iterdir()} <= {
        "README.md", "config.yaml", "catalog", "vectors", "semtok", "lm", ".lock",
    }  # fmt: skip
    with_log = shared.parent / "with_log"
    shop.save_pretrained(with_log, with_log=True)
    whole = Recommender.from_pretrained(with_log)
    user = users[0]
    assert whole.recommend(users=[user]).to_polars().equals(shop.recommend(users=[user]).to_polars())
    assert len(whole.evaluate().rows) == len(shop.evaluate().rows)
    assert "histories are in this repository" in (with_log / "README.md").read_text()


def test_what_needs_the_log_says_so(shared: Path, tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened = Recommender.from_pretrained(shared)
    new = pl.DataFrame({"item_id": ["new"], "title": ["A new cup"]})
    for ask in (lambda: opened.recommend(users=["u00001"]), opened.evaluate, lambda: opened.add_items(new)):
        with pytest.raises(InputError, match="is without its log"):
            ask()
    for command in (["recommend", str(shared)], ["show", str(shared), "u00001"], ["evaluate", str(shared)]):
        assert main(command) == 2
        assert "is without its log" in capsys.readouterr().err
    assert main(["show", str(shared), "--history", "10001"]) == 0
    with pytest.raises(InputError, match="no report to write the model card from"):
        opened.save_pretrained(shared.parent / "again")
    assert not (shared.parent / "again").exists()


def test_what_is_left_out_of_lists_is_carried_over(tiny_run: Path, tmp_path: Path) -> None:
    """`exclude_seen` was found out from the log, which is not there."""
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    assert Run(run).exclude_seen
    shutil.rmtree(run / "split")
    assert Run(run).exclude_seen
    for said in (False, True):
        settings = yaml.safe_load((run / "config.yaml").read_text())
        settings["data"]["exclude_seen"] = said
        (run / "config.yaml").write_text(yaml.safe_dump(settings))
        assert Run(run).exclude_seen is said


def test_the_card_is_written_from_the_run(shop: Recommender, shared: Path) -> None:
    card = ModelCard.load(shared / "README.md")
    assert card.data.library_name == "genrec"
    assert card.data.license is None
    rows = shop.evaluate().rows
    wanted = next(
        row["value"]
        for row in rows
        if row["model"].endswith("(default)") and (row["slice"], row["metric"], row["k"]) == ("all", "recall", 10)
    )
    results = {result.metric_type: result.metric_value for result in card.data.eval_results or ()}
    assert results["recall@10"] == round(wanted, 4)
    assert results.keys() == {"recall@10", "ndcg@10"}
    for said in ("60 items", "150 test cases", "Neither the log nor any user's history", "SASRec", "Not said yet"):
        assert said in card.text
    (python,) = [part.partition("\n```")[0] for part in card.text.split("```python\n")[1:]]
    scope: dict[str, object] = {}
    exec(python.replace('"shop"', repr(str(shared))), scope)
    assert isinstance(scope["recommender"], Recommender)


def test_a_folder_of_somebody_else_stays(shop: Recommender, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something already"):
        shop.save_pretrained(tmp_path)
    (tmp_path / "empty").mkdir()
    shop.save_pretrained(tmp_path / "empty", license="mit")
    assert ModelCard.load(tmp_path / "empty/README.md").data.license == "mit"
    assert {path.name for path in tmp_path.iterdir()} == {"mine.txt", "empty"}


def test_to_a_hub_and_back(shop: Recommender, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shop.push_to_hub("ann/shop", token="hf_secret").endswith("/ann/shop")
    assert hub.private == {"ann/shop": True}
    assert hub.tokens == {"Bearer hf_secret"}
    hub.files["ann/shop"]["lm/stale.json"] = b"{}"  # of a run before
    shop.push_to_hub("ann/shop", license="apache-2.0", token="hf_secret")
    assert "lm/stale.json" not in hub.files["ann/shop"]
    assert b"license: apache-2.0" in hub.files["ann/shop"]["README.md"]
    assert not [name for name in hub.files["ann/shop"] if name.startswith(("split", "topk", "report"))]

    hub.files["ann/shop"]["lm/modeling.py"] = b"raise SystemExit"
    hub.files["ann/shop"]["setup.sh"] = b"rm"
    with pytest.raises(InputError, match=r"modeling\.py: is no file of this stage"):
        Recommender.from_pretrained("ann/shop")
    del hub.files["ann/shop"]["lm/modeling.py"]
    there = Recommender.from_pretrained("ann/shop")
    assert not (there.run.path / "setup.sh").exists()
    assert there.recommend(HISTORIES).to_polars().equals(shop.recommend(HISTORIES).to_polars())

    hub.files["ann/shop"]["catalog/catalog.parquet"] = hub.files["ann/shop"]["catalog/catalog.parquet"][:-1] + b"!"
    with pytest.raises(InputError, match=r"catalog\.parquet: contents differ"):
        Recommender.from_pretrained("ann/shop")


def test_what_a_hub_does_not_have_or_take(
    shop: Recommender, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^ann/nothing: no such folder, and unavailable as a repository of the hub"):
        Recommender.from_pretrained("ann/nothing")
    hub.files["ann/else"] = {"weights.bin": b"1"}
    with pytest.raises(InputError, match="but no run of genrec"):
        Recommender.from_pretrained("ann/else")
    with pytest.raises(InputError, match="not the name of a repository"):
        shop.push_to_hub("shop")
    monkeypatch.setattr(FakeHub, "posted", lambda *_: None)
    with pytest.raises(InputError, match="ann/shop: the hub does not take it"):
        shop.push_to_hub("ann/shop")


def test_a_folder_that_is_missing_is_not_looked_for_on_a_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert is_hub_id("ann/shop")
    for name in ("runs/shop", "./runs/shop", "/runs/shop", "shop", "a/b/c", "ann/", "ann/sh op"):
        assert not is_hub_id(name)
    assert not is_hub_id(Path("ann/shop"))
    (tmp_path / "ann/shop").mkdir(parents=True)
    assert not is_hub_id("ann/shop")


def test_the_command(tiny_run: Path, hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(tiny_run), "ann/shop", "--private=false", "--license=mit"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("/ann/shop")
    assert hub.private == {"ann/shop": False}
    uploaded = hub.files["ann/shop"]
    assert main(["push", str(tiny_run), "ann/shop", "--license=mit", "--out", str(tmp_path / "shared")]) == 0
    assert {name: (tmp_path / "shared" / name).read_bytes() for name in uploaded} == uploaded
    assert main(["push", str(tiny_run), "ann/shop", "--out", str(tmp_path / "shared")]) == 2
    assert "holds something already" in capsys.readouterr().err
