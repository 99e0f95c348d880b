"""The one door for Hugging Face folders: every pretrained model, tokenizer and sentence encoder is opened here.

    folder = open_folder("org/model", "--lm.base org/model")  # a hub id becomes a folder: weights and JSON alone
    model, tokenizer = folder.model("causal", torch.float32), folder.tokenizer()

A folder from outside is data. Its JSON may name Python to import (`auto_map`, classes of `modules.json`), attention
kernels to fetch, a quantiser, an adapter of another base, weights in pickle: all of these are refused in one line
before `transformers` sees the folder, and no question is asked on the terminal. A quantised base is refused whatever
its method, since each is a library of its own that reads the folder: dequantise it first.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES,
)
from transformers.utils import logging

from genrec.semtok.errors import InputError, first_line
from genrec.semtok.installed import lacks_extra

Kind = Literal["causal", "encoder"]
_TEXT_MODELS = {
    *MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    *MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    *MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    *MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES,
}
_REFUSED = {  # keys of a folder's JSON files, at any depth, and what they would do
    "auto_map": "names Python code of its own",
    "custom_generate": "names Python code of its own",
    "trust_remote_code": "asks for Python code of its own",
    "quantization_config": "is quantised; dequantise it first",
    "compression_config": "is quantised; dequantise it first",
    "transformers_weights": "names another file of weights",
    "tokenizer_name_or_path": "names another folder",
    "backbone": "names another model",
    "use_timm_backbone": "names another model",
    "use_pretrained_backbone": "names another model",
}
_IMPLEMENTATIONS = {"attn_implementation", "_attn_implementation", "_attn_implementation_internal"}
_IMPLEMENTATIONS |= {name.replace("attn", "experts") for name in _IMPLEMENTATIONS}
_OWN_IMPLEMENTATIONS = (None, "eager", "sdpa", "flex_attention", "grouped_mm", "batched_mm")
_OPTIONS = {"model_args", "model_kwargs", "tokenizer_args", "processor_kwargs", "config_args", "config_kwargs"}
_HARMLESS_OPTIONS = {"dtype", "torch_dtype", "use_fast", "padding_side", "truncation_side", "model_max_length"}
_SNAPSHOT = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]
_NOT_OF_A_SNAPSHOT = ["onnx/*", "openvino/*", "original/*", "consolidated*"]
_LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers")
_MOST_LAYERS = 1000


@dataclass(frozen=True)
class ModelFolder:
    """A checked folder, from which parts are loaded.

    Args:
        path: the folder.
        name: begins the message of every error, such as a flag and its value.

    Raises:
        InputError: it would run code, fetch something, or its weights are not whole safetensors files.
    """

    path: Path
    name: str

    def __post_init__(self) -> None:
        _check_folder(self.path, self.name)

    def tokenizer(self, **options: Any) -> PreTrainedTokenizerBase:
        """The tokenizer.

        Args:
            options: for `transformers`, such as padding_side.

        Raises:
            InputError: it cannot be loaded, or is not a fast one.
        """
        with _one_line(self.name, "the tokenizer cannot be loaded"):
            tokenizer = AutoTokenizer.from_pretrained(
                self.path, trust_remote_code=False, local_files_only=True, **options
            )
            tokenizer.encode("a word")  # settings of another type fail here, and not at the first request
        if not getattr(tokenizer, "is_fast", False):
            raise InputError(f"{self.name}: needs a fast tokenizer (tokenizer.json)")
        return tokenizer

    def model(self, kind: Kind, dtype: torch.dtype, *, whole: bool = False) -> PreTrainedModel:
        """The weights on the CPU, in eval mode.

        Args:
            kind: causal with its head, or encoder: what gives hidden states.
            whole: refuse weights that the model does not know too; for folders that genrec wrote.

        Raises:
            InputError: it cannot be loaded; weights are missing (they would be random), of other shapes, or not finite.
        """
        auto = AutoModelForCausalLM if kind == "causal" else AutoModel
        with _one_line(self.name, "the model cannot be loaded"):
            model, report = auto.from_pretrained(
                self.path,
                dtype=dtype,
                trust_remote_code=False,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
        # A pooler reads the first token for a head that nothing here asks; encoders often come without its weights.
        missing = sorted(key for key in report["missing_keys"] if kind == "causal" or "pooler" not in key)
        if missing:
            raise InputError(f"{self.name}: the model has no weights for {_some(missing)}, which would be random")
        if whole and report["unexpected_keys"]:
            raise InputError(f"{self.name}: weights of another model ({_some(sorted(report['unexpected_keys']))})")
        for key, weights in model.state_dict().items():
            if weights.is_floating_point() and weights.numel() and not torch.stack(weights.aminmax()).isfinite().all():
                raise InputError(f"{self.name}: {key} holds numbers that are not finite")
        return model.eval()

    def sentence_transformer(self) -> Any:
        """The model as sentence-transformers knows it; raises InputError where it or the library cannot be loaded."""
        if find_spec("sentence_transformers") is None:
            raise lacks_extra(f"the library of {self.name}", "sentence-transformers")
        from sentence_transformers import SentenceTransformer

        with _one_line(self.name, "the model cannot be loaded"):
            return SentenceTransformer(
                str(self.path), trust_remote_code=False, local_files_only=True, model_kwargs={"use_safetensors": True}
            )


@torch.inference_mode()
def check_forward(model: PreTrainedModel, tokens: Sequence[int], name: str) -> None:
    """Read one short prompt: settings that no check knows of fail here, in one line, and not at the first request.

    Args:
        tokens: ids of the prompt, the highest that is used among them.
        name: begins the message.

    Raises:
        InputError: the model has fewer tokens, cannot read, or answers with what are no numbers.
    """
    rows = model.get_input_embeddings().num_embeddings
    if max(tokens) >= rows:
        raise InputError(f"{name}: the model has {rows} tokens, the vocabulary names token {max(tokens)}")
    with _one_line(name, "the model cannot read a prompt"):
        logits = model(input_ids=torch.tensor([list(tokens)], device=model.device)).logits
    if not bool(logits.isfinite().all()):
        raise InputError(f"{name}: the model answers with numbers that are not finite")


def open_folder(model: str | Path, name: str) -> ModelFolder:
    """The folder of a model, checked; what stands on the hub is first copied, without code and pickles.

    Args:
        model: folder or hub id; `~` at its beginning is the home folder.
        name: begins the message of every error, such as a flag and its value.

    Raises:
        InputError: there is none, or it is refused (see `ModelFolder`).
    """
    try:
        model = os.path.expanduser(model)
        if Path(model).is_dir():
            return ModelFolder(Path(model), name)
        if Path(model).exists() or Path(model).is_absolute() or "\0" in str(model):
            raise OSError("no such folder")
        found = copied_from_hub(str(model), _SNAPSHOT, _NOT_OF_A_SNAPSHOT)
    except InputError:
        raise
    except Exception as error:  # whatever a hub client raises: the id is wrong, or there is no way to it
        where = "the model cannot be loaded: no such folder, and unavailable as a hub id"
        raise InputError(f"{name}: {where} ({first_line(error)})") from None
    return ModelFolder(found, name)


def copied_from_hub(
    repo_id: str,
    wanted: Sequence[str],
    unwanted: Sequence[str] = (),
    *,
    revision: str | None = None,
    token: str | None = None,
) -> Path:
    """The folder of a repository of the Hugging Face hub in its cache, copied where it is not there yet.

    Args:
        wanted: patterns of the files that are copied.
        unwanted: of those among them that are not.
        revision, token: None: the newest, and the token that is kept on this machine.

    Raises:
        Exception: whatever the hub's client raises: no such repository, no way to it, no right.
    """
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            repo_id, revision=revision, token=token, allow_patterns=list(wanted), ignore_patterns=list(unwanted)
        )
    )


def unpack_gguf(file: Path, folder: Path, name: str) -> None:
    """Write a GGUF file's model, dequantised to float32, and its tokenizer as an ordinary folder; raises InputError."""
    where: dict[str, Any] = {"gguf_file": file.name, "trust_remote_code": False, "local_files_only": True}
    with _one_line(name, "the model cannot be unpacked"):
        AutoTokenizer.from_pretrained(file.parent, **where).save_pretrained(folder)
        read = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **where)
        del read.config.quantization_config  # of the file, not of these weights; with it nothing can be saved
        model = type(read)(read.config)
        model.load_state_dict(read.state_dict())
        model.save_pretrained(folder)


def _check_folder(folder: Path, name: str) -> None:
    paths = sorted(folder.rglob("*config*.json"))  # data_config.json is a list of training sets
    settings = {path: (_read_object if path.name == "config.json" else _read_json)(path, name) for path in paths}
    if folder / "config.json" not in settings and not (folder / "modules.json").is_file():
        raise InputError(f"{name}: the model cannot be loaded (no config.json in {folder})")
    for path, values in settings.items():
        if path.name.startswith("adapter_config"):
            raise InputError(f"{name}: {path} is an adapter of another model; merge it first")
        _refuse_side_doors(values, path, name)
    parts = _modules(folder, name) if (folder / "modules.json").is_file() else []
    tensors = [_check_weights(path, name) for path in sorted({path.parent for path in settings} | set(parts))]
    config = settings.get(folder / "config.json")
    if config is not None:
        _check_config(config, folder / "config.json", max(_MOST_LAYERS, *tensors), name)


def _read_json(path: Path, name: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{name}: {path} is not a JSON file ({first_line(error)})") from None


def _read_object(path: Path, name: str) -> dict[str, Any]:
    value = _read_json(path, name)
    if not isinstance(value, dict):
        raise InputError(f"{name}: {path} must hold a JSON object, not {type(value).__name__}")
    return value


def _refuse_side_doors(values: Any, path: Path, name: str) -> None:
    for key, value in _pairs(values):
        if key in _REFUSED and value not in (None, False):
            raise InputError(f"{name}: the folder {_REFUSED[key]} ({key} in {path}), which genrec does not take")
        if key in _IMPLEMENTATIONS:
            chosen = list(value.values()) if isinstance(value, dict) else [value]
            if any(name not in _OWN_IMPLEMENTATIONS for name in chosen):
                raise InputError(f"{name}: {key} in {path} is {value!r}; genrec takes eager or sdpa")
        if key in _OPTIONS and not (value is None or (isinstance(value, dict) and value.keys() <= _HARMLESS_OPTIONS)):
            raise InputError(f"{name}: {key} in {path} holds options that genrec does not take")
        dotted = key == "activation_function" and isinstance(value, str) and "." in value  # of sentence-transformers
        if dotted and not value.startswith("torch.nn.modules."):
            raise InputError(f"{name}: activation_function in {path} is {value}; only those of torch are taken")


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    """Keys and values of a JSON value at every depth."""
    if isinstance(value, dict):
        yield from value.items()
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _pairs(part)


def _check_config(config: dict[str, Any], path: Path, most_layers: int, name: str) -> None:
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in _TEXT_MODELS:
        raise InputError(f"{name}: model_type in {path} is {kind!r}, which is no text model of transformers")
    for key, value in _pairs(config):
        if key in _LAYERS and not (value is None or (type(value) is int and 0 <= value <= most_layers)):
            raise InputError(f"{name}: {key} in {path} is {value!r}; its weights have no such number of layers")


def _check_weights(folder: Path, name: str) -> int:
    """How many tensors the safetensors files of a folder hold; 0 where it has no weights of any kind."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = [path for path in sorted(folder.iterdir()) if path.suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt")]
        if pickles:
            raise InputError(f"{name}: {pickles[0]} is a pickle, which may run code; save it as model.safetensors")
        return 0
    for index in folder.glob("*.safetensors.index.json"):
        parts = _read_object(index, name).get("weight_map")
        if not isinstance(parts, dict) or not all(isinstance(part, str) for part in parts.values()):
            raise InputError(f"{name}: {index} has no weight_map of file names")
        if missing := sorted(set(parts.values()) - {path.name for path in files}):
            raise InputError(f"{name}: {index} names {missing[0]}, which is no safetensors file of the folder")
    total = 0
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                total += len(list(file.keys()))
        except (OSError, SafetensorError) as error:
            raise InputError(f"{name}: {path} is not a whole safetensors file ({first_line(error)})") from None
    if total == 0:
        raise InputError(f"{name}: {files[0]} holds no tensors")
    return total


def _modules(folder: Path, name: str) -> list[Path]:
    """Folders of the parts of a sentence-transformers model, which are classes of that package."""
    path = folder / "modules.json"
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
        parts = [(str(module["type"]), PurePosixPath(module["path"])) for module in modules]
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        raise InputError(f"{name}: {path} is not a list of modules") from None
    for router in folder.rglob("router_config.json"):
        types = _read_object(router, name).get("types")
        parts += [(str(kind), PurePosixPath()) for kind in (types.values() if isinstance(types, dict) else ())]
    for kind, place in parts:
        if not kind.startswith("sentence_transformers."):
            raise InputError(f"{name}: {path} names {kind}; only classes of sentence_transformers are taken")
        if place.is_absolute() or ".." in place.parts:
            raise InputError(f"{name}: {path} leads out of the folder ({place})")
    return [folder / place for _, place in parts if (folder / place).is_dir()]


@contextmanager
def _one_line(name: str, what: str) -> Iterator[None]:
    """What a library raises over a folder's contents, whatever its kind, is one line about the folder, and its report
    of the loading is not printed beside it."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # also a panic of the tokenizers' Rust, which is no Exception
        raise InputError(f"{name}: {what} ({first_line(error)})") from None
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
