"""`scripts/bench_decode.py` on a cell of seconds: real engines in real processes, and the figures that it writes."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
bench_decode = importlib.import_module("bench_decode")

TINY = bench_decode.Cell(tokens=13, beams=4, batch=4, items=300, text_tokens=50, users=4, hf_users=4)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """The benchmark sets the number of threads, which is nobody else's business."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    bench_decode.make_model(folder, TINY.text_tokens, "cpu")
    return Path(folder)


def test_generate_and_our_engine_find_the_same_lists(folder: Path) -> None:
    codes = bench_decode.bench_trie.draw_codes(TINY.items, bench_decode.SIZES)
    prompts = bench_decode.make_prompts(TINY, codes, 1)
    assert {len(prompt) for prompt in prompts} == {TINY.tokens}
    lists = {
        engine: bench_decode.make_search(engine, folder, TINY, codes, "cpu")(prompts, TINY.beams)
        for engine in ("hf", "torch")
    }
    np.testing.assert_array_equal(lists["hf"], lists["torch"])


def test_the_floor_reads_as_many_tokens(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, read = bench_decode.load_model(folder, torch.float32, "cpu"), []
    decoder = type(model.get_decoder())
    forward = decoder.forward

    def counted(self: torch.nn.Module, input_ids: torch.Tensor, **options: object) -> object:
        read.append(input_ids.numel())
        return forward(self, input_ids=input_ids, **options)

    monkeypatch.setattr(decoder, "forward", counted)
    codes = bench_decode.bench_trie.draw_codes(TINY.items, bench_decode.SIZES)
    bench_decode.floor_search(model, "cpu")(bench_decode.make_prompts(TINY, codes, 1), TINY.beams)
    assert sum(read) == TINY.users * (TINY.tokens + 2 * TINY.beams)


@pytest.mark.slow
def test_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_decode, "NAMED", TINY)
    monkeypatch.setattr(bench_decode, "measure_filters", lambda decode, rounds: {"filter_cost_seen": 0.01})
    monkeypatch.setattr(bench_decode.bench_trie, "measure", lambda quick: ({"trie_step_1m_over_10k": 1.0}, {}))
    command = ["bench_decode.py", "--quick", "--threads=1", "--rounds=2", "--engines", "hf", "bf16"]
    monkeypatch.setattr(sys, "argv", [*command, "--json", str(tmp_path / "figures.json")])
    bench_decode.main()
    written = json.loads((tmp_path / "figures.json").read_text())
    figures = written["figures"]
    assert figures["torch_lists_equal_hf"] == 1
    assert {"torch_over_hf", "torch_over_floor", "bf16_over_fp32", "torch_ms_batch1", "filter_cost_seen"} <= set(
        figures
    )
    assert figures["torch_over_hf"] > 0
    assert written["conditions"]["cell"]["items"] == TINY.items
    assert written["cells"][0]["torch_users_per_s"] > 0
