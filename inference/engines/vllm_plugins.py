"""The parts of `VllmScorer` that vLLM itself calls: they read the rows of logits and save the ends of prompts.

vLLM is built to sample one token a request, and returning 256 log-probabilities a request through its output path costs
more than the model does. It runs in our process, so `RowReader`, a logits processor, writes the rows where the scorer
finds them. And vLLM caches prompts by whole blocks only: of a prompt of 100 tokens and blocks of 32, each of 20 beams
would compute the last 4 again, and on the next level once more. `TailConnector`, a KV connector, keeps the
block that a finished request leaves half full and copies it into the blocks of the requests that continue it, so that a
beam costs one token a level. Where a tail can't be kept (the cache is nearly full) vLLM computes it again.

The plug-ins find their `Exchange` by the key in vLLM's `additional_config`. Written against vLLM 0.32 (run) and 0.33
(read).

Shapes: R requests, V_l codes on the level asked for, H width of the model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorMetadata
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

KEY = "genrec_exchange"
FREE_SHARE = 0.5  # of the cache's blocks must be free for a tail to be kept


class Tails:
    """The half-filled last blocks of finished requests, by request; given back to vLLM when nobody holds this object.

    Attributes:
        blocks: place of the request in its submission to (cache block, tokens of the request).
    """

    def __init__(self, pool: Any) -> None:
        self.blocks: dict[int, tuple[Any, int]] = {}
        self._pool = pool

    def keep(self, place: int, block: Any, n_tokens: int) -> None:
        """Hold on to a block that is about to be freed, unless the cache runs short."""
        if self._pool.get_num_free_blocks() > FREE_SHARE * self._pool.num_gpu_blocks:
            self._pool.touch([block])
            self.blocks[place] = (block, n_tokens)

    def __del__(self) -> None:
        self._pool.free_blocks([block for block, _ in self.blocks.values()])


@dataclass
class Exchange:
    """What one submission of requests and the two plug-ins tell each other."""

    token_ids: Tensor  # int64 [V_l], the tokens whose log-probabilities are read
    whole_vocabulary: bool  # normalise over the LM's whole vocabulary instead of over `token_ids`
    rows: Tensor | None = None  # float32 [R, V_l], filled by `RowReader`
    hidden: Tensor | None = None  # float32 [R, H], filled by it too
    into_head: Tensor | None = None  # [n, H], what the LM head read last: the hidden states of the rows of logits
    parents: Tails | None = None  # tails that these requests may continue
    kept: Tails | None = None  # where the tails of these requests go, or None if nobody will continue them
    pool: Any = None
    n_continued: int = 0  # requests so far that began at the end of their parent's tail

    def tail(self, request: Any) -> tuple[Any, int] | None:
        """The tail that a request may continue."""
        parent = request.sampling_params.extra_args["parent"]
        return None if self.parents is None else self.parents.blocks.get(parent)


EXCHANGES: dict[str, Exchange] = {}


def listen_to(model: Any, exchange: Exchange) -> None:
    """Keep what the LM head of vLLM's model reads."""
    compute_logits = model.compute_logits

    def heard(hidden_states: Tensor) -> Tensor | None:
        exchange.into_head = hidden_states
        return compute_logits(hidden_states)

    model.compute_logits = heard


class RowReader(LogitsProcessor):  # type: ignore[misc]
    """Copies log-probabilities of the chosen tokens and hidden states into the exchange; leaves the logits alone."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._exchange = EXCHANGES[vllm_config.additional_config[KEY]]
        self._places: dict[int, int] = {}

    def is_argmax_invariant(self) -> bool:
        """False, though the logits don't change: vLLM leaves out the others where it decodes greedily."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow which request is in which row of the batch."""
        process_dict_updates(self._places, batch_update, lambda params, _, __: params.extra_args["place"])

    def apply(self, logits: Tensor) -> Tensor:
        """Read the rows; those of a prompt that is only partly computed are overwritten when the rest is."""
        exchange = self._exchange
        if exchange.rows is not None and self._places:
            if exchange.rows.device != logits.device:
                exchange.rows = exchange.rows.to(logits.device)
            chosen = logits[:, exchange.token_ids.to(logits.device)].float()
            total = (logits.float() if exchange.whole_vocabulary else chosen).logsumexp(dim=1, keepdim=True)
            places = torch.tensor([self._places[row] for row in range(len(logits))], device=logits.device)
            exchange.rows[places] = chosen - total
            if exchange.hidden is not None and exchange.into_head is not None:
                if exchange.hidden.device != logits.device:
                    exchange.hidden = exchange.hidden.to(logits.device)
                exchange.hidden[places] = exchange.into_head.float()
        return logits


@dataclass
class _Copies(KVConnectorMetadata):  # type: ignore[misc]
    """Pairs of cache blocks, from and to, to copy before this step's forward."""

    pairs: list[tuple[int, int]] = field(default_factory=list)


class TailConnector(KVConnectorBase_V1):  # type: ignore[misc]
    """Starts a request where the one that it continues ended, inside a cache block."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self._exchange = EXCHANGES[vllm_config.additional_config[KEY]]
        self._block_size: int = vllm_config.cache_config.block_size
        self._caches: list[Tensor] = []
        self._copies = _Copies()

    # Scheduler side.

    @property
    def requires_kv_delivery(self) -> bool:
        """False: a tail that is lost is computed again."""
        return False

    def bind_gpu_block_pool(self, gpu_block_pool: Any) -> None:
        """Learn the pool that counts who uses a block."""
        self._exchange.pool = gpu_block_pool

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        """Tokens of the parent's tail, if vLLM's own cache has everything before it."""
        tail = self._exchange.tail(request)
        if tail is None or not 0 < tail[1] - num_computed_tokens < self._block_size:
            return 0, False
        return tail[1] - num_computed_tokens, False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """Note which block to copy where."""
        tail = self._exchange.tail(request)
        if num_external_tokens and tail is not None:
            block, n_tokens = tail
            self._copies.pairs.append((block.block_id, blocks.blocks[0][n_tokens // self._block_size].block_id))
            self._exchange.n_continued += 1

    def build_connector_meta(self, scheduler_output: Any) -> _Copies:
        """Hand this step's copies to the worker side."""
        copies, self._copies = self._copies, _Copies()
        return copies

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, None]:
        """Keep the half-filled last block of a prompt that will be continued."""
        kept, n_tokens = self._exchange.kept, request.num_prompt_tokens
        if kept is not None and n_tokens % self._block_size and request.num_computed_tokens >= n_tokens:
            block = self._exchange.pool.blocks[block_ids[n_tokens // self._block_size]]
            kept.keep(request.sampling_params.extra_args["place"], block, n_tokens)
        return False, None

    # Worker side.

    def register_kv_caches(self, kv_caches: dict[str, Tensor]) -> None:
        """Learn the cache of each layer; its first dimension is the block."""
        self._caches = list(kv_caches.values())

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Copy whole blocks, which asks nothing of the layout inside one."""
        pairs = self._get_connector_metadata().pairs
        if not pairs:
            return
        if self._caches[0].device.type == "cpu":  # a third of the time that indexing takes
            for cache in self._caches:
                for source, target in pairs:
                    cache[target].copy_(cache[source])
            return
        sources, targets = torch.tensor(pairs, device=self._caches[0].device).unbind(1)
        for cache in self._caches:
            cache[targets] = cache[sources]

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Nothing to wait for: copies run before the forward."""

    def save_kv_layer(self, layer_name: str, kv_layer: Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        """Nothing to save: tails stay in vLLM's cache."""

    def wait_for_save(self) -> None:
        """Nothing to wait for."""
