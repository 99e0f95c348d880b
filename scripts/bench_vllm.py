"""The vLLM engine beside vLLM's own beam search and the torch engine: users a second and equal lists.

    python scripts/bench_vllm.py            # beams 10, 20, 50 and prompts of 49, 97, 400 tokens
    python scripts/bench_vllm.py --quick    # the named cell: about 97 tokens, 20 beams
    python scripts/bench_vllm.py --json FILE

One small Qwen3-shaped model with random weights, 64 users, 5,000 items of 3 codes, float32, one thread each. Prompts
vary by a third around their mean length. vLLM's beam search knows no items: it is timed for as many tokens and what
it finds is not used. Engines have processes of their own and take turns in every round; ratios are medians over rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

N_USERS, N_ITEMS, SIZES, N_TEXT, K = 64, 5_000, (256, 256, 256), 8_000, 10
ENGINES = ("ours", "native", "torch")
Search = Callable[[list[list[int]], int], NDArray[np.int32]]


def make_model(folder: Path) -> None:
    import torch
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=N_TEXT + sum(SIZES),
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim > 1:
                weights.normal_(0, 0.08)
    model.save_pretrained(folder)
    words = models.WordLevel({f"t{i}": i for i in range(config.vocab_size)}, unk_token="t0")
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), unk_token="t0", eos_token="t1").save_pretrained(folder)


def catalogue() -> tuple[Any, NDArray[np.int32]]:
    from genrec.vocabulary import SidVocabulary

    tokens = np.split(np.arange(N_TEXT, N_TEXT + sum(SIZES)), np.cumsum(SIZES)[:-1])
    flat = np.random.default_rng(0).choice(int(np.prod(SIZES)), N_ITEMS, replace=False)
    return SidVocabulary(tuple(tokens), 0), np.stack(np.unravel_index(flat, SIZES), axis=1).astype(np.int32)


def make_search(engine: str, folder: Path) -> Search:
    """The engine's search: prompts and beams to catalogue rows."""
    from genrec.beam import beam_search
    from genrec.trie import CodeTrie
    from inference.vllm_engine import VllmScorer, prepare_environment

    vocabulary, codes = catalogue()
    if engine == "native":
        prepare_environment()
        from vllm import LLM
        from vllm.sampling_params import BeamSearchParams

        llm = LLM(
            model=str(folder),
            dtype="float32",
            enforce_eager=True,
            enable_prefix_caching=True,
            block_size=32,
            max_model_len=1024,
            max_num_seqs=1024,
            max_num_batched_tokens=8192,
            max_logprobs=512,
            disable_log_stats=True,
        )

        def native(prompts: list[list[int]], beams: int) -> NDArray[np.int32]:
            parameters = BeamSearchParams(beam_width=beams, max_tokens=len(SIZES), ignore_eos=True)
            llm.beam_search([{"prompt_token_ids": prompt} for prompt in prompts], parameters, use_tqdm=False)
            return np.empty((0, K), dtype=np.int32)

        return native
    if engine == "torch":
        import torch
        from transformers import AutoModelForCausalLM

        from genrec.torch_scorer import TorchScorer

        scorer: Any = TorchScorer(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), vocabulary)
    else:
        scorer = VllmScorer(folder, vocabulary)
    trie = CodeTrie(codes, SIZES)
    return lambda prompts, beams: beam_search(scorer, trie, prompts, beams=beams, k=K).rows


def work(engine: str, folder: Path, pipe: Connection) -> None:
    """Answer (prompts, beams) with (seconds, rows) until None comes."""
    import torch

    torch.set_num_threads(1)
    search = make_search(engine, folder)
    pipe.send("ready")
    while (task := pipe.recv()) is not None:
        started = time.perf_counter()
        rows = search(*task)
        pipe.send((time.perf_counter() - started, rows))


def make_prompts(length: int, seed: int) -> list[list[int]]:
    vocabulary, codes = catalogue()
    rng = np.random.default_rng(seed)
    mean = (length - 1) // 3
    lengths = rng.integers(mean - mean // 3, mean + mean // 3 + 1, size=N_USERS)
    return [vocabulary.prompt(codes[rng.integers(N_ITEMS, size=n)]) for n in lengths]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the named cell only")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write figures and conditions here")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    cells = [(97, 20)] if options.quick else [(length, beams) for length in (49, 97, 400) for beams in (10, 20, 50)]
    context = get_context("spawn")
    with tempfile.TemporaryDirectory() as scratch:
        make_model(Path(scratch))
        pipes, workers = {}, []
        for engine in ENGINES:
            pipes[engine], other = context.Pipe()
            workers.append(context.Process(target=work, args=(engine, Path(scratch), other), daemon=True))
            workers[-1].start()
            other.close()  # so that a worker's end is noticed here
            if pipes[engine].recv() != "ready":
                sys.exit(f"{engine} did not start")
        print("tokens  beams     ours   native    torch  users/s   ours/native   lists equal torch's")
        figures: dict[str, float] = {}
        for length, beams in cells:
            speed: dict[str, list[float]] = {engine: [] for engine in ENGINES}
            equal = []
            for round_number in range(-1, options.rounds):
                prompts, rows = make_prompts(length, 100 + round_number), {}
                for engine in ENGINES:
                    pipes[engine].send((prompts, beams))
                    seconds, rows[engine] = pipes[engine].recv()
                    if round_number >= 0:  # the round before is for warming up
                        speed[engine].append(N_USERS / seconds)
                equal.append(float((rows["ours"] == rows["torch"]).all(axis=1).mean()))
            ratio = statistics.median(a / b for a, b in zip(speed["ours"], speed["native"], strict=True))
            middle = "".join(f"{statistics.median(speed[engine]):9.1f}" for engine in ENGINES)
            print(f"{length:6} {beams:6}{middle} {ratio:21.2f} {np.mean(equal):18.3f}", flush=True)
            if (length, beams) == (97, 20):
                figures = {"vllm_over_native": ratio, "vllm_lists_equal_torch": float(np.mean(equal))}
                figures |= {f"{engine}_users_per_s": statistics.median(speed[engine]) for engine in ENGINES}
        for engine, worker in zip(ENGINES, workers, strict=True):
            pipes[engine].send(None)
            worker.join()
    if options.json:
        from semtok.folders import to_json, write_atomic

        conditions = {"cell": "97 tokens, 20 beams", "rounds": options.rounds, "threads": 1, "cores": os.cpu_count()}
        write_atomic(options.json, to_json({"figures": figures, "conditions": conditions}))


if __name__ == "__main__":
    main()
