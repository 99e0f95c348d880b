"""Model folders from outside: what would run code, fetch, redirect or leave weights random is refused in one line.

Every hostile folder is a sound one with one change. Where the change names Python, the code would write a marker; the
tests answer "y" to whatever is asked.
"""

from __future__ import annotations

import ast
import io
import json
import pickle
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast
from worlds.random_models import make_model

from genrec.cli.main import main
from genrec.decoding.vocabulary import SidVocabulary
from genrec.inference.engines.vllm_engine import VllmScorer
from genrec.semtok.encoders import make_encoder
from genrec.semtok.errors import InputError
from genrec.semtok.pretrained import open_folder
from genrec.training.encoder.view_encoder import load_tunable
from genrec.training.lm.base import load_base, scratch_tokenizer

ROOT = Path(__file__).resolve().parent.parent
CODE = """
import pathlib
pathlib.Path({marker!r}).write_text("ran")
from transformers import Qwen3Config, Qwen3ForCausalLM, PreTrainedTokenizerFast
class Config(Qwen3Config): pass
class Model(Qwen3ForCausalLM):
    config_class = Config
class Words(PreTrainedTokenizerFast): pass
class Part: pass
"""


class _Marks:
    """A pickle of this writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.write_text, (self.marker, "ran")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    make_model("qwen3", vocab_size=300).save_pretrained(folder)
    tokenizer = scratch_tokenizer(["red nail polish"], 60)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the sound folder with Python beside it; whoever asks hears "y"."""
    shutil.copytree(sound, tmp_path / "model")
    (tmp_path / "model" / "evil.py").write_text(CODE.format(marker=str(tmp_path / "marker")))
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 20))
    return tmp_path / "model"


def edit(path: Path, **changes: Any) -> None:
    value = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(value | changes))


def remote_model(folder: Path) -> None:
    edit(folder / "config.json", auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"})


def remote_unknown_model(folder: Path) -> None:
    remote_model(folder)
    edit(folder / "config.json", model_type="evil")


def remote_of_a_part(folder: Path) -> None:
    edit(folder / "config.json", text_config={"model_type": "qwen3", "auto_map": {"AutoConfig": "evil.Config"}})


def remote_tokenizer(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", tokenizer_class="Words", auto_map={"AutoTokenizer": [None, "evil.Words"]})


def pickled_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with open(folder / "pytorch_model.bin", "wb") as out:
        pickle.dump(_Marks(folder.parent / "marker"), out)


def pickled_shard(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "model-00001.safetensors")
    with open(folder / "more.bin", "wb") as out:
        pickle.dump(_Marks(folder.parent / "marker"), out)
    names = dict.fromkeys(weights, "model-00001.safetensors") | {next(iter(weights)): "more.bin"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


def adapter_of_another_base(folder: Path) -> None:
    (folder / "config.json").unlink()
    edit(folder / "adapter_config.json", base_model_name_or_path=str(folder), peft_type="LORA")


def adapter_inside(folder: Path) -> None:
    edit(folder / "adapter_config.json", base_model_name_or_path="somebody/else", peft_type="LORA")


def custom_kernel(folder: Path) -> None:
    edit(folder / "config.json", _attn_implementation="somebody/kernel")


def custom_kernel_of_a_part(folder: Path) -> None:
    edit(folder / "config.json", attn_implementation={"text_config": "kernels-community/flash-attn"})


def quantised(folder: Path) -> None:
    edit(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})


def other_weights_file(folder: Path) -> None:
    edit(folder / "config.json", transformers_weights="other.safetensors")


def vision_model(folder: Path) -> None:
    edit(folder / "config.json", model_type="timm_wrapper", architecture="resnet18")


def other_backbone(folder: Path) -> None:
    edit(folder / "config.json", backbone="somebody/else", use_pretrained_backbone=True)


def without_tensors(folder: Path) -> None:
    save_file({}, folder / "model.safetensors")


def change_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    return changed


NORM = "model.layers.1.input_layernorm.weight"
REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "code of a model": (remote_model, "auto_map"),
    "code of an unknown model": (remote_unknown_model, "auto_map"),
    "code of a part": (remote_of_a_part, "auto_map"),
    "code of a tokenizer": (remote_tokenizer, "auto_map"),
    "pickle": (pickled_weights, "is a pickle"),
    "pickle among shards": (pickled_shard, "no safetensors file"),
    "adapter without a base": (adapter_of_another_base, "no config.json"),
    "adapter inside": (adapter_inside, "adapter of another model"),
    "kernel": (custom_kernel, "eager or sdpa"),
    "kernel of a part": (custom_kernel_of_a_part, "eager or sdpa"),
    "quantised": (quantised, "dequantise it first"),
    "other weights": (other_weights_file, "another file of weights"),
    "no text model": (vision_model, "no text model"),
    "backbone": (other_backbone, "names another model"),
    "no tensors": (without_tensors, "holds no tensors"),
    "a tensor is missing": (change_weights(lambda w: w.pop(NORM)), f"no weights for {NORM}"),
    "NaN": (change_weights(lambda w: w[NORM].fill_(torch.nan)), f"{NORM} holds numbers that are not finite"),
    "infinity": (change_weights(lambda w: w[NORM][:1].fill_(-torch.inf)), "not finite"),
    "another shape": (change_weights(lambda w: w.update({NORM: torch.ones(5)})), "cannot be loaded"),
    "truncated": (lambda f: (f / "model.safetensors").write_bytes(b"\1\0\0"), "not a whole safetensors file"),
    "a billion layers": (lambda f: edit(f / "config.json", num_hidden_layers=10**9), "no such number of layers"),
    "a billion words": (lambda f: edit(f / "config.json", vocab_size=10**9), "cannot be loaded"),
    "layers in words": (lambda f: edit(f / "config.json", num_hidden_layers="three"), "no such number of layers"),
    "width in words": (lambda f: edit(f / "config.json", hidden_size="wide"), "cannot be loaded"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "must hold a JSON object"),
    "no JSON": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe"), "not a JSON file"),
    "deep JSON": (lambda f: (f / "config.json").write_text("[" * 100_000), "not a JSON file"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_hostile_folder_is_refused_in_one_line(case: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    change, message = REFUSED[case]
    change(folder)
    with pytest.raises(InputError, match=message) as refusal:
        load_base(str(folder), torch.float32)
    assert str(refusal.value).startswith(f"--lm.base {folder}: ")
    assert "\n" not in str(refusal.value)
    assert not (folder.parent / "marker").exists()
    assert "[y/N]" not in capfd.readouterr().out


@pytest.mark.parametrize("case", ["code of a model", "code of an unknown model", "code of a tokenizer", "pickle"])
def test_every_way_in_goes_through_the_one_door(case: str, folder: Path) -> None:
    REFUSED[case][0](folder)
    vocabulary = SidVocabulary((np.arange(60, 64),), 0)
    ways: list[Callable[[], object]] = [
        lambda: make_encoder(f"hf:{folder}"),
        lambda: make_encoder(f"hf-last:{folder}"),
        lambda: make_encoder(f"st:{folder}"),
        lambda: load_tunable(f"hf:{folder}", rank=2, dropout=0.0, temperature=0.1, seed=0),
        lambda: VllmScorer(folder, vocabulary),
    ]
    for way in ways:
        with pytest.raises(InputError, match=REFUSED[case][1]):
            way()
    assert not (folder.parent / "marker").exists()


@pytest.mark.parametrize("command", ["chat", "recommend", "serve"])
@pytest.mark.parametrize("case", ["code of an unknown model", "code of a tokenizer", "pickle"])
def test_no_command_runs_code_of_a_run_folder(
    case: str, command: str, tiny_run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    shutil.copy(folder / "evil.py", run / "lm")
    change, _ = REFUSED[case]
    change(run / "lm")
    (run / "marker").unlink(missing_ok=True)
    more = {"chat": [], "recommend": ["--users", "-", "--out", str(tmp_path / "out")], "serve": []}
    assert main([command, str(run), *more[command]]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "marker").exists()
    assert not (run / "marker").exists()


def test_a_sound_folder_loads_with_pickles_and_code_beside_it(folder: Path) -> None:
    """What is never read does no harm: many folders of the hub hold weights in several formats."""
    with open(folder / "pytorch_model.bin", "wb") as out:
        pickle.dump(_Marks(folder.parent / "marker"), out)
    model, tokenizer = load_base(str(folder), torch.float32)
    assert tokenizer.decode(tokenizer.encode("red nail")) == "red nail"
    assert model.get_input_embeddings().weight.isfinite().all()
    assert not (folder.parent / "marker").exists()


@pytest.mark.parametrize("model", ["no/such/thing", "../nothing", "a\0b", "x" * 5000, "/nowhere"])
def test_what_is_no_folder_is_one_line(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="cannot be loaded: no such folder"):
        open_folder(model, "--lm.base")


def sentence_model(folder: Path, **changes: str) -> None:
    """Lay the parts of a sentence-transformers model around a folder."""
    parts = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / "1_Pooling").mkdir()
    edit(folder / "1_Pooling" / "config.json", word_embedding_dimension=32, pooling_mode_mean_tokens=True)
    parts[1] |= changes
    (folder / "modules.json").write_text(json.dumps(parts))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "evil.Part"}, "only classes of sentence_transformers"),
        ({"type": "os.system"}, "only classes of sentence_transformers"),
        ({"path": "../1_Pooling"}, "leads out of the folder"),
        ({"path": "/1_Pooling"}, "leads out of the folder"),
    ],
)
def test_parts_of_a_sentence_model_are_those_of_its_package(
    changes: dict[str, str], message: str, folder: Path
) -> None:
    sentence_model(folder, **changes)
    with pytest.raises(InputError, match=message):
        make_encoder(f"st:{folder}")
    assert not (folder.parent / "marker").exists()


def test_options_of_a_sentence_model_open_no_side_door(folder: Path) -> None:
    sentence_model(folder)
    edit(folder / "sentence_bert_config.json", model_args={"attn_implementation": "sdpa", "gguf_file": "x"})
    with pytest.raises(InputError, match="model_args"):
        make_encoder(f"st:{folder}")
    edit(folder / "sentence_bert_config.json", model_args={})
    edit(folder / "1_Pooling" / "config.json", activation_function="os.system")
    with pytest.raises(InputError, match="activation_function"):
        make_encoder(f"st:{folder}")


@pytest.mark.skipif(find_spec("sentence_transformers") is None, reason="extra sentence-transformers")
def test_a_sound_sentence_model_loads(folder: Path) -> None:
    sentence_model(folder)
    (folder / "data_config.json").write_text('[{"name": "pairs.jsonl.gz", "weight": 1}]')  # MiniLM's list of data
    rows = make_encoder(f"st:{folder}").encode(["red nail", "polish"])
    assert rows.shape == (2, 32)
    assert not (folder.parent / "marker").exists()


def called(node: ast.AST) -> str:
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def test_nothing_else_opens_a_model_folder() -> None:
    """`from_pretrained` and `SentenceTransformer` are called in semtok/pretrained.py alone, vLLM with no code of the
    folder, and nothing unpickles."""
    broken, seen = [], 0
    for room in ("semtok", "genrec", "training", "inference", "scripts"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                name = called(node)
                opens = name.endswith(".from_pretrained") and name != "Recommender.from_pretrained"
                opens |= name.split(".")[-1] in ("SentenceTransformer", "snapshot_download", "AutoPeftModel")
                if path == ROOT / "semtok/pretrained.py":
                    seen += opens
                    continue
                if opens or name in ("torch.load", "pickle.load", "joblib.load", "yaml.load", "yaml.unsafe_load"):
                    broken.append(f"{path}: {name}")
                if name in ("vllm.LLM", "LLM") and "trust_remote_code=False" not in ast.unparse(node):
                    broken.append(f"{path}: {name} without trust_remote_code=False")
    assert seen == 6  # two of them read a GGUF file of an installed package
    assert broken == []
