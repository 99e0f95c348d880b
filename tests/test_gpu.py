"""On a GPU everything is trained and decoded as on the CPU.

python -m pytest -m gpu tests/test_gpu.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from worlds.small_shop import SMALL, write_shop

from genrec.cli.main import main
from genrec.inference.recommender import Recommender
from genrec.run import Run
from genrec.semtok.device import default_device

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.fixture(scope="module", params=["codes", "nodes"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the small shop whose every stage used the GPU."""
    config = write_shop(tmp_path_factory.mktemp("gpu"))
    options = ["--aligner.backbone=lrurec", f"--lm.node_vectors={str(request.param == 'nodes').lower()}"]
    assert default_device().type == "cuda"
    assert main(["fit", str(config), *SMALL, *options]) == 0
    return config.parent / "run"


@pytest.mark.parametrize("ranking", ["beam", "dense", "fused"])
def test_lists_of_the_gpu_are_those_of_the_cpu(run: Path, ranking: Any) -> None:
    histories = [Run(run).split().test.histories[i].tolist() for i in range(50)]
    catalog = Run(run).catalog()
    ids = [[catalog.item_ids[row] for row in history] for history in histories]
    found = {
        device: Recommender.from_pretrained(run, device=device, dtype="float32").recommend(ids, k=10, ranking=ranking)
        for device in ("cpu", "cuda")
    }
    same = [np.array_equal(a, b) for a, b in zip(found["cpu"].rows, found["cuda"].rows, strict=True)]
    assert np.mean(same) > 0.95  # sums in another order can swap neighbours
    first = [a[0] == b[0] for a, b in zip(found["cpu"].rows, found["cuda"].rows, strict=True)]
    assert np.mean(first) > 0.97


def test_lists_in_bfloat16_are_nearly_the_same(run: Path) -> None:
    catalog, test = Run(run).catalog(), Run(run).split().test
    ids = [[catalog.item_ids[row] for row in test.histories[i].tolist()] for i in range(50)]
    full, half = (
        Recommender.from_pretrained(run, dtype=dtype).recommend(ids, k=10) for dtype in ("float32", "bfloat16")
    )
    shared = [len(set(a) & set(b)) / 10 for a, b in zip(full.rows, half.rows, strict=True)]
    assert np.mean(shared) > 0.9


@pytest.mark.parametrize("aligner", ["text", "concatenation", "llmemb", "recgoat", "fusion"])
def test_every_aligner_is_trained(aligner: str, tmp_path: Path) -> None:
    config = write_shop(tmp_path)
    assert main(["fit", str(config), *SMALL, f"--aligner.name={aligner}", "--before_lm"]) == 0


@pytest.mark.parametrize("backbone", ["sasrec", "gru4rec", "bert4rec", "fmlprec"])
def test_every_backbone_is_trained(backbone: str, tmp_path: Path) -> None:
    config = write_shop(tmp_path)
    assert main(["fit", str(config), *SMALL, f"--aligner.backbone={backbone}", "--before_lm"]) == 0


@pytest.mark.parametrize("quantizer", ["rqvae", "residual_kmeans"])
def test_every_quantizer_is_trained(quantizer: str, tmp_path: Path) -> None:
    config = write_shop(tmp_path)
    assert main(["fit", str(config), *SMALL, f"--semtok.quantizer={quantizer}", "--before_lm"]) == 0


def test_mixed_precision(tmp_path: Path) -> None:
    config = write_shop(tmp_path)
    assert main(["fit", str(config), *SMALL, "--lm.precision=bf16"]) == 0
    weights = load_file(tmp_path / "run/lm/model.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in weights.values())
