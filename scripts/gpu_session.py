"""Everything that wants a GPU, for a machine that is lent for half an hour: tests, benchmarks, and language models of
several sizes on several sets, as many at a time as the machine carries.

    python scripts/gpu_session.py tests decode training --out DIR
    python scripts/gpu_session.py fits --runs /tmp/runs --bases runs --minutes 9 --lanes 6 --out DIR
    python scripts/gpu_session.py table DIR/lines.json

`--bases` holds runs whose stages up to the text vectors are made, one a set (`genrec fit configs/SET.yaml --before_lm`,
interrupted): a lent machine may have no text encoder. The runs of the lines go to `--runs`; called again, unfinished
ones go on from their checkpoints and finished ones are left alone, so that a time limit loses nothing; keep `--runs`,
`--out` and the data outside a checkout that is laid anew for each call. Every line's
figures are written as soon as they are known: recall and NDCG by ranking on all test cases and on the tail, seconds by
stage, and the ranks themselves in `ranks-LINE.safetensors`, for paired intervals.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from genrec.cli.parsing import load_config
from genrec.cli.pipeline import fit
from genrec.decoding.filters import ItemFilter
from genrec.evaluation.metrics import ndcg, paired_interval, rank_of_target, recall
from genrec.evaluation.seeds import stage_costs
from genrec.evaluation.tables import slices
from genrec.inference.recommender import Recommender
from genrec.ranking.config import FusionWeights
from genrec.ranking.cooccurrence import COOCCURRENCE_WEIGHTS
from genrec.run import Run
from genrec.semtok.folders import to_json, write_atomic
from genrec.stages import bring_up_to_date
from genrec.training.lm.stage import lm_settings

K = 10
NODES, CODES = "--lm.node_vectors=true", "--lm.node_vectors=false"
SMALL, MIDDLE, LARGE = (
    f"--lm.width={width} --lm.layers={layers} --lm.heads={heads}"
    for width, layers, heads in ((128, 2, 2), (256, 6, 4), (448, 8, 7))
)  # 0.4, 5 and 19 million parameters beside the embeddings


@dataclass(frozen=True)
class Line:
    """A language model on a set: options beside those of the set's configuration."""

    data: str
    name: str
    options: str
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.data}-{self.seed}-{self.name}"


LONG = "--lm.epochs=40 --lm.patience=6"
LINES = [
    Line("scientific", "small-nodes", f"{SMALL} {NODES} {LONG}"),
    Line("scientific", "middle-nodes", f"{MIDDLE} {NODES} {LONG}"),
    Line("scientific", "large-nodes", f"{LARGE} {NODES} {LONG} --lm.learning_rate=0.0005"),
    Line("beauty", "middle-nodes", f"{MIDDLE} {NODES} {LONG}"),
    Line("beauty", "small-nodes", f"{SMALL} {NODES} {LONG}"),
    Line("scientific", "smollm2-nodes", f"--lm.base=smollm2 --lm.precision=bf16 --lm.dropout=0 {NODES} {LONG}"),
    Line("beauty", "large-nodes", f"{LARGE} {NODES} {LONG} --lm.learning_rate=0.0005"),
    Line("scientific", "middle-codes", f"{MIDDLE} {CODES} {LONG}"),
    Line("beauty", "middle-codes", f"{MIDDLE} {CODES} {LONG}"),
    Line("scientific", "smollm2-codes", f"--lm.base=smollm2 --lm.precision=bf16 --lm.dropout=0 {CODES} {LONG}"),
    Line("scientific", "middle-nodes", f"{MIDDLE} {NODES} {LONG}", seed=1),
    Line("scientific", "middle-nodes", f"{MIDDLE} {NODES} {LONG}", seed=2),
    Line("beauty", "middle-nodes", f"{MIDDLE} {NODES} {LONG}", seed=1),
    Line("beauty", "middle-nodes", f"{MIDDLE} {NODES} {LONG}", seed=2),
]


def before_lm(data: str, seed: int, bases: Path, runs: Path) -> Run:
    """A run of the set with everything before the language model, by its configuration's settings."""
    arguments = [f"--run={runs / f'{data}-{seed}'}", f"--reuse={bases / data}", f"--seed={seed}", "--topk.k=0"]
    folder = {"scientific": "amazon18_scientific", "beauty": "amazon14_beauty"}[data]
    arguments += [f"--data.items=data/{folder}/items.jsonl", f"--data.interactions=data/{folder}/interactions.csv"]
    return fit(load_config(Path(f"configs/{data}.yaml"), arguments), before_lm=True)


def fit_line(line: Line, runs: Path) -> Run:
    """The line's language model, on the stages of the set's run."""
    base = Run(runs / f"{line.data}-{line.seed}")
    config = load_config(base.config, [f"--run={runs / str(line)}", f"--reuse={base}", *line.options.split()])
    run = fit(config, before_lm=True)
    with run.locked():
        bring_up_to_date(run, lm_settings(asdict(config)).stage(), None)
    return run


def weights_without_lm(run: Run, recommender: Recommender) -> FusionWeights:
    """The best fusion of the aligner's recommender and co-occurrence alone, by NDCG on validation."""
    cases = run.split().valid.sample(8_000, 0)
    weights = [FusionWeights(0.0, cooccurrence, 1.0) for cooccurrence in COOCCURRENCE_WEIGHTS]
    lists = recommender.ranker.fused_lists(
        cases.histories, weights=weights, k=K, filters=filters(run, recommender, cases)
    )
    return max(weights, key=lambda tried: float(ndcg(rank_of_target(lists[tried], cases.targets), K).mean()))


def filters(run: Run, recommender: Recommender, cases: Any) -> list[ItemFilter] | None:
    """Without the items of the history, where the run leaves them out."""
    everything = ItemFilter(recommender.trie)
    return [everything.deny(history) for history in cases.histories] if run.exclude_seen else None


def evaluate(line: Line, run: Run, out: Path) -> dict[str, Any]:
    """Figures of the line on the test split, in float32."""
    recommender = Recommender(run, dtype="float32")
    ranker, cases = recommender.ranker, run.split().test
    rankings = {"beam": FusionWeights(0.0), "dense": FusionWeights(1.0), "fused": ranker.config.fusion_weights}
    if ranker.sequential is not None:
        rankings["without_lm"] = weights_without_lm(run, recommender)
    chosen = list(dict.fromkeys(rankings.values()))
    started = time.perf_counter()
    lists = ranker.fused_lists(cases.histories, weights=chosen, k=50, filters=filters(run, recommender, cases))
    seconds = time.perf_counter() - started
    ranks = {name: rank_of_target(lists[weights], cases.targets).astype(np.uint8) for name, weights in rankings.items()}
    save_file(ranks, out / f"ranks-{line}.safetensors")
    tail = slices(cases, run.split().train, len(run.catalog()))["tail"]
    row: dict[str, Any] = {"line": str(line), "options": line.options, "weights": list(rankings["fused"])}
    for name, of_ranking in ranks.items():
        places = of_ranking.astype(np.int64)
        row[name] = {"recall": float(recall(places, K).mean()), "ndcg": float(ndcg(places, K).mean())}
        row[name] |= {"recall@50": float(recall(places, 50).mean()), "tail": float(recall(places[tail], K).mean())}
    log = run.training_log("lm")
    row |= {"seconds": stage_costs(run), "lists_seconds": seconds, "parameters": parameters(run.lm), "lm": log}
    return row


def parameters(folder: Path) -> int:
    """Of the stored language model."""
    return sum(array.size for file in folder.glob("*.safetensors") for array in load_file(file).values())


def one_line(line: Line, options: argparse.Namespace) -> None:
    """Fit and evaluate a line, in this process."""
    row = evaluate(line, fit_line(line, options.runs), options.out)
    write_atomic(options.out / f"line-{line}.json", to_json(row))
    print(line, {name: row[name]["recall"] for name in ("beam", "dense", "fused")}, flush=True)


def in_a_process(arguments: Sequence[str], options: argparse.Namespace, log: Path) -> None:
    """One step of the session beside others: few threads, its own log, stopped when the time is over."""
    left = options.until - time.time()
    if left < 20:
        return
    shared = ["--runs", str(options.runs), "--bases", str(options.bases), "--out", str(options.out)]
    environment = os.environ | {"OMP_NUM_THREADS": "2", "TOKENIZERS_PARALLELISM": "false"}
    with open(log, "a") as file:
        process = subprocess.Popen(
            [sys.executable, __file__, *arguments, *shared], stdout=file, stderr=subprocess.STDOUT, env=environment
        )
        try:
            code = process.wait(left)
            print(f"{log.stem}: {code}, {time.time() - options.until + 60 * options.minutes:,.0f} s in", flush=True)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
            print(f"{log.stem}: goes on in the next call", flush=True)


def fits(options: argparse.Namespace) -> None:
    """All lines that are not done, `--lanes` at a time; what a line stands on first."""
    options.runs.mkdir(parents=True, exist_ok=True)
    lines = [line for line in LINES if options.lines in str(line) and not (options.out / f"line-{line}.json").is_file()]
    bases = list(dict.fromkeys((line.data, line.seed) for line in lines))
    with ThreadPoolExecutor(options.lanes) as lanes:
        ready = {
            key: lanes.submit(
                in_a_process,
                ["base", "--base", f"{key[0]}:{key[1]}"],
                options,
                options.out / f"base-{key[0]}-{key[1]}.log",
            )
            for key in bases
        }
        for line in lines:

            def work(line: Line = line) -> None:
                ready[line.data, line.seed].result()
                in_a_process(["line", "--line", str(line)], options, options.out / f"{line}.log")

            lanes.submit(work)


def table(path: Path) -> None:
    """Markdown of the lines in a folder, with the paired difference of beam and dense head, and of fused and no LM."""
    print("| line | beam | dense | fused | without LM | beam tail | beam - dense | fused - without |")
    print("|---|---|---|---|---|---|---|---|")
    for file in sorted(path.glob("line-*.json")):
        row = json.loads(file.read_text())
        ranks = {k: v.astype(np.int64) for k, v in load_file(path / f"ranks-{row['line']}.safetensors").items()}
        hits = {name: recall(of_ranking, K) for name, of_ranking in ranks.items()}
        cells = [
            f"{row[n]['recall']:.4f} / {row[n]['ndcg']:.4f}" if n in row else "" for n in ("beam", "dense", "fused")
        ]
        cells.append(f"{row['without_lm']['recall']:.4f}" if "without_lm" in row else "")
        cells += [f"{row['beam']['tail']:.4f}", paired_interval(hits["beam"], hits["dense"]).signed()]
        cells.append(paired_interval(hits["fused"], hits["without_lm"]).signed() if "without_lm" in hits else "")
        print(f"| {row['line']} | {' | '.join(cells)} |")


def benchmark(script: str, *arguments: str) -> None:
    """A benchmark of this folder, with its output here."""
    subprocess.run([sys.executable, str(Path(__file__).with_name(script)), *arguments], check=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="+", help="tests, decode, training, fits; table DIR")
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="figures and logs")
    parser.add_argument("--runs", type=Path, default=Path("runs/gpu"), help="runs of the lines")
    parser.add_argument("--bases", type=Path, default=Path("runs"), help="runs with text vectors, one a set")
    parser.add_argument("--minutes", type=float, default=9.0, help="after which what runs is stopped, to go on later")
    parser.add_argument("--lanes", type=int, default=6, help="lines at a time")
    parser.add_argument("--lines", default="", help="only lines whose name holds this")
    parser.add_argument("--base", help=argparse.SUPPRESS)
    parser.add_argument("--line", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.until = time.time() + 60 * options.minutes
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options.out.mkdir(parents=True, exist_ok=True)
    if options.steps[0] == "table":
        table(Path(options.steps[1]))
        return
    torch.set_num_threads(2)
    for step in options.steps:
        if step == "tests":
            subprocess.run(
                [sys.executable, "-m", "pytest", "-o", "addopts=", "-q", "-m", "gpu", "tests/test_gpu.py"], check=False
            )
        elif step == "decode":
            benchmark(
                "bench_decode.py", "--device=cuda", "--rounds=5", "--grid-rounds=2", f"--json={options.out}/decode.json"
            )
        elif step == "training":
            benchmark("bench_finetune.py", "--data=data/amazon18_scientific", f"--json={options.out}/finetune.json")
        elif step == "fits":
            fits(options)
        elif step == "base":
            data, seed = options.base.split(":")
            before_lm(data, int(seed), options.bases, options.runs)
        elif step == "line":
            one_line(next(line for line in LINES if str(line) == options.line), options)
        else:
            parser.error(f"{step}: no such step")


if __name__ == "__main__":
    main()
