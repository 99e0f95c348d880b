"""`TorchScorer`: code log-probabilities of a Hugging Face decoder, with the prompt read once a user and never copied.

The beams of a user are positions of one row: each attends to the prompt and to its own ancestors through a 4-D mask,
and carries the position that it would have in a sequence of its own. So a step is one forward of K tokens a user,
nothing in the key-value cache is copied or re-ordered, and the LM head is applied to the rows of the level's own codes.
Where the model was trained with item vectors at its input (`decoding.item_input`), a prompt's items are read with them.

    prompt slots 0..T-1 | beams of level 0: slots T..T+K-1 | beams of level 1: the next K | ...

Prompts are padded on the right: a causal prefill then needs no mask, and the pad slots are hidden from the beams.

Shapes: B users, K beams, T prompt slots, S slots in use, L levels, V_l codes on level l, D hidden width.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from genrec.decoding.cache_argument import cache_argument
from genrec.decoding.item_input import ItemInput
from genrec.decoding.vocabulary import SidVocabulary
from genrec.semtok.errors import InputError

ScoreSpace = Literal["level", "vocabulary"]
SHARED_PREFIX = 32  # leading tokens common to all prompts from which reading them once pays
CPU_FORWARD = 2048  # prompt tokens in one forward on a CPU: more of them fall out of its caches
GPU_FORWARD = 8192
HEAD_CELLS = 2**24  # logits held at once when the softmax runs over the whole vocabulary


class _Slots(DynamicLayer):
    """Keys and values of one layer in a buffer [B, heads, room, head width] that is written in place."""

    def __init__(self, n_users: int, room: int) -> None:
        super().__init__()
        self.users, self.n_users, self.room, self.used = slice(None), n_users, room, 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        begin, end = self.used, self.used + key_states.shape[2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = self._buffer(key_states, self.room), self._buffer(value_states, self.room)
        if end > self.keys.shape[2]:
            self.keys, self.values = self._grown(self.keys, end), self._grown(self.values, end)
        self.keys[self.users, :, begin:end] = key_states
        self.values[self.users, :, begin:end] = value_states
        self.used = end
        return self.keys[self.users, :, :end], self.values[self.users, :, :end]

    def _buffer(self, like: Tensor, room: int) -> Tensor:
        # Zeros, not whatever is there: slots that no part of a batch fills are masked, and NaN times nought is NaN.
        return like.new_zeros(self.n_users, like.shape[1], room, like.shape[3])

    def _grown(self, old: Tensor, room: int) -> Tensor:
        new = self._buffer(old, room)
        new[:, :, : self.used] = old[:, :, : self.used]
        return new

    def get_seq_length(self) -> int:
        return self.used


class _SlotCache(Cache):
    """The slots of all layers."""

    def __init__(self, n_layers: int, n_users: int, prompt: int, room: int) -> None:
        super().__init__(layers=[_Slots(n_users, prompt + room) for _ in range(n_layers)])
        self.prompt = prompt

    def point(self, users: slice, used: int) -> None:
        """Let the next forward be about `users`, and write from slot `used` on."""
        for layer in self.layers:
            layer.users, layer.used = users, used

    def spread(self, used: int) -> None:
        """Give the first user's slots up to `used` to all users."""
        for layer in self.layers:
            layer.keys[1:, :, :used] = layer.keys[:1, :, :used]
            layer.values[1:, :, :used] = layer.values[:1, :, :used]


@dataclass
class TorchState:
    """Where a search stands.

    Attributes:
        log_probs: float32 [B, V_0], log-probabilities of the first code.
        hidden: float32 [B, D], the last hidden state of each prompt.
        seen: bool [B, K, S], the slots that each beam of the last step attends to ([B, 1, T] before the first).
        level: codes fed so far.
        beam_hidden: float32 [B, K, D], the last hidden state of each beam of the last step; None before the first.
    """

    log_probs: Tensor
    hidden: Tensor
    cache: _SlotCache
    lengths: Tensor
    seen: Tensor
    level: int = 0
    beam_hidden: Tensor | None = None


class TorchScorer:
    """`NextCodeScorer` over a Hugging Face causal LM.

    Args:
        model: a decoder that takes custom attention masks and positions (Llama, Qwen, Mistral, Gemma, GPT-2, ...).
        vocabulary: the tokens of the codes.
        score_space: what the softmax runs over: the level's codes, or the LM's whole vocabulary.
        item_input: on the model's device; None reads items by their codes alone.

    Raises:
        InputError: the model can't be searched this way; the message says why.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        vocabulary: SidVocabulary,
        *,
        score_space: ScoreSpace = "level",
        item_input: ItemInput | None = None,
    ) -> None:
        if score_space not in ("level", "vocabulary"):
            raise InputError(f"score_space must be level or vocabulary, not {score_space!r}")
        self.model = model.eval()
        self.sizes = vocabulary.sizes
        self.score_space = score_space
        self.item_input: ItemInput | None = None
        self._decoder = model.get_decoder()
        self._config = model.config.get_text_config()
        self._window = _sliding_window(self._config)
        _refuse_unfit(model, self._config)
        device = model.device
        self._tokens = [torch.from_numpy(ids).to(device) for ids in vocabulary.token_ids]
        if max(int(ids.max()) for ids in self._tokens) >= model.get_output_embeddings().weight.shape[0]:
            raise InputError("the model's LM head has fewer rows than the SID vocabulary needs")
        self._head = _Head(model, self._config, self._tokens, score_space)
        self._cache_name = _cache_name(model, self._decoder)
        self._forward_tokens = CPU_FORWARD if device.type == "cpu" else GPU_FORWARD
        self._room = 0
        _probe(self, model)  # against plain forwards, which add no vectors: a token alone can spell an item of one code
        self.item_input = item_input

    @torch.inference_mode()
    def start(self, prompts: Sequence[Sequence[int]]) -> TorchState:
        """Read the prompts: one forward over all of them, and one row for the leading tokens that all share."""
        lengths = [len(prompt) for prompt in prompts]
        if min(lengths) == 0:
            raise InputError(f"prompt {lengths.index(0)} is empty")
        if self._window is not None and max(lengths) + len(self.sizes) > self._window:
            raise InputError(
                f"a prompt of {max(lengths)} tokens doesn't fit the model's sliding window of {self._window}"
            )
        device = self.model.device
        slots = max(lengths)
        tokens = torch.full((len(prompts), slots), prompts[0][0], dtype=torch.long)
        for row, prompt in zip(tokens, prompts, strict=True):
            row[: len(prompt)] = torch.as_tensor(prompt)
        tokens, length = tokens.to(device), torch.tensor(lengths, device=device)
        items = None if self.item_input is None else self.item_input.rows(tokens)
        cache = _SlotCache(self._config.num_hidden_layers, len(prompts), slots, self._room)
        shared = _shared_prefix(tokens, min(lengths))
        if shared:
            cache.point(slice(0, 1), 0)
            self._forward(self._embedded(tokens, items, slice(0, 1), slice(0, shared)), cache)
            cache.spread(shared)
        parts = []
        for begin in range(0, len(prompts), rows := max(1, self._forward_tokens // slots)):
            users = slice(begin, begin + rows)
            cache.point(users, shared)
            ends = slice(shared, int(length[users].max()))
            states = self._forward(self._embedded(tokens, items, users, ends), cache)
            parts.append(states[torch.arange(len(states), device=device), length[users] - 1 - shared])
        hidden = torch.cat(parts)
        seen = torch.arange(slots, device=device) < length[:, None]
        return TorchState(self._head.log_probs(hidden, 0), hidden.float(), cache, length, seen[:, None])

    @torch.inference_mode()
    def step(self, state: TorchState, parents: Tensor, codes: Tensor) -> Tensor:
        """Feed one code a beam; log-probabilities of the next level's codes, float32 [B, K, V_l]."""
        n_users, n_beams = codes.shape
        used = state.seen.shape[2]
        ancestors = state.seen.gather(1, parents[..., None].expand(-1, -1, used))
        own = torch.eye(n_beams, dtype=torch.bool, device=codes.device).expand(n_users, -1, -1)
        seen = torch.cat([ancestors, own], dim=2)
        dtype = self._head.dtype
        mask = torch.zeros(seen.shape, dtype=dtype, device=codes.device).masked_fill_(~seen, torch.finfo(dtype).min)
        positions = (state.lengths + state.level)[:, None].expand_as(codes)
        state.cache.point(slice(None), used)
        embedded = self.model.get_input_embeddings()(self._tokens[state.level][codes])
        hidden = self._forward(embedded, state.cache, mask[:, None], positions)
        state.seen, state.level, state.beam_hidden = seen, state.level + 1, hidden.float()
        self._room = max(self._room, seen.shape[2] - state.cache.prompt)
        return self._head.log_probs(hidden, state.level)

    def _embedded(self, tokens: Tensor, items: Tensor | None, users: slice, places: slice) -> Tensor:
        """Embeddings of a part of the prompts."""
        embedded: Tensor = self.model.get_input_embeddings()(tokens[users, places])
        if items is None or self.item_input is None:
            return embedded
        return self.item_input(embedded, items[users, places])

    def _forward(
        self, embedded: Tensor, cache: _SlotCache, mask: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """Last hidden states [B, tokens, D] after the final norm, from embeddings of that shape."""
        output = self._decoder(
            inputs_embeds=embedded,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            **{self._cache_name: cache},
        )
        return output.last_hidden_state


class _Head:
    """Log-probabilities of a level's codes from hidden states."""

    def __init__(self, model: PreTrainedModel, config: Any, tokens: list[Tensor], score_space: ScoreSpace) -> None:
        layer = model.get_output_embeddings()
        bias = getattr(layer, "bias", None)
        self.dtype = layer.weight.dtype
        self._tokens, self._weight, self._bias = tokens, layer.weight.detach(), bias
        self._rows = [self._weight[ids].float() for ids in tokens]
        self._biases = [None if bias is None else bias.detach()[ids].float() for ids in tokens]
        self._whole = score_space == "vocabulary"
        self._scale = getattr(config, "logit_scale", 1.0) / getattr(config, "logits_scaling", 1.0)
        self._softcap = getattr(config, "final_logit_softcapping", None)

    def log_probs(self, hidden: Tensor, level: int) -> Tensor:
        """Hidden states [..., D] to float32 log-probabilities [..., V_l] of the codes of `level`."""
        if not self._whole:
            logits = functional.linear(hidden.float(), self._rows[level], self._biases[level])
            return self._finish(logits).log_softmax(-1)
        flat = hidden.flatten(0, -2)
        chunk = max(1, HEAD_CELLS // len(self._weight))
        parts = []
        for begin in range(0, len(flat), chunk):
            logits = self._finish(functional.linear(flat[begin : begin + chunk], self._weight, self._bias).float())
            parts.append(logits[:, self._tokens[level]] - logits.logsumexp(-1, keepdim=True))
        return torch.cat(parts).view(*hidden.shape[:-1], -1)

    def _finish(self, logits: Tensor) -> Tensor:
        """What models do to logits after the linear map: Cohere and Granite scale them, Gemma caps them."""
        if self._scale != 1.0:
            logits = logits * self._scale
        return logits if self._softcap is None else (logits / self._softcap).tanh() * self._softcap


def _shared_prefix(tokens: Tensor, shortest: int) -> int:
    """Leading tokens that all prompts share, 0 where reading them once wouldn't pay."""
    if len(tokens) == 1:
        return 0
    equal = (tokens[:, : shortest - 1] == tokens[:1, : shortest - 1]).all(0)
    shared = int(equal.long().cumprod(0).sum())
    return shared if shared >= SHARED_PREFIX else 0


def _sliding_window(config: Any) -> int | None:
    """The widest prompt and codes together that every layer sees whole, or None where nothing limits it."""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and "sliding_attention" not in kinds:
        return None
    return getattr(config, "sliding_window", None)


def _refuse_unfit(model: PreTrainedModel, config: Any) -> None:
    """Raise InputError for an architecture that can't attend along a tree."""
    name = type(model).__name__
    other = set(getattr(config, "layer_types", None) or []) - {"full_attention", "sliding_attention"}
    if other or model._is_stateful:
        kinds = ", ".join(sorted(other)) or "a recurrent state"
        raise InputError(f"{name} has {kinds}: beams can't share one row of it; only plain attention is supported")
    attention = config._attn_implementation
    if attention not in ("sdpa", "eager"):
        raise InputError(f"{name} was loaded with {attention} attention; load it with attn_implementation='sdpa'")


@torch.inference_mode()
def _cache_name(model: PreTrainedModel, decoder: torch.nn.Module) -> str:
    """What the decoder calls its cache, from one token fed as beams are; InputError where it takes none."""
    token = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    mask = torch.zeros(1, 1, 1, 1, dtype=model.dtype, device=model.device)
    embedded = model.get_input_embeddings()(token)
    try:
        return cache_argument(decoder, inputs_embeds=embedded, attention_mask=mask, position_ids=token)
    except InputError as error:
        raise InputError(
            f"{type(model).__name__} can't be searched: {error}; beams can't share one row of it"
        ) from None


_probed: WeakKeyDictionary[PreTrainedModel, set[object]] = WeakKeyDictionary()


@torch.inference_mode()
def _probe(scorer: TorchScorer, model: PreTrainedModel) -> None:
    """Check on two tiny prompts that the tree gives what plain forwards give; raise InputError where it doesn't.

    One check a model, dtype, softmax and vocabulary size: it costs a few forwards of some ten tokens.
    """
    key = (model.dtype, scorer.score_space, scorer.sizes)
    if key in _probed.setdefault(model, set()):
        return
    name = type(model).__name__
    # In half precision 28 layers of random weights differ by 2% on a GPU; a mask that isn't followed shows far more.
    tolerance = 1e-3 if model.dtype == torch.float32 else 5e-2
    codes = [torch.arange(3, device=model.device).expand(2, -1) * 7 % size for size in scorer.sizes]
    prompts = [[int(scorer._tokens[0][i % scorer.sizes[0]]) for i in range(n)] for n in (6, 4)]
    rows = [[list(prompt) for _ in range(3)] for prompt in prompts]
    parents = torch.zeros(2, 3, dtype=torch.long, device=model.device)
    state = scorer.start(prompts)
    found = state.log_probs[:, None].expand(-1, 3, -1)
    for level in range(len(scorer.sizes)):
        tokens = scorer._tokens[level]
        for user, beam in itertools.product(range(2), range(3)):
            logits = model(input_ids=torch.tensor([rows[user][beam]], device=model.device)).logits[0, -1].float()
            whole = logits if scorer.score_space == "vocabulary" else logits[tokens]
            expected = logits[tokens] - whole.logsumexp(-1)
            error = float((found[user, beam] - expected).abs().max())
            if not error <= tolerance * max(1.0, float(expected.abs().max())):
                part = (
                    "LM head is not a linear map that we know" if level == 0 else "attention doesn't follow a 4-D mask"
                )
                raise InputError(f"{name} can't be searched: its {part} (log-probabilities differ by {error:.2g})")
        if level + 1 < len(scorer.sizes):
            found = scorer.step(state, parents, codes[level])
            rows = [
                [[*rows[u][int(parents[u, j])], int(tokens[codes[level][u, j]])] for j in range(3)] for u in range(2)
            ]
            parents = torch.tensor([[2, 0, 0], [1, 1, 0]], device=model.device)
    _probed[model].add(key)
