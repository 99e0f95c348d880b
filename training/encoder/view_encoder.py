"""A pretrained text encoder with adapters that contrasts two views of each item: what `genrec.training.scft` tunes.

Shapes: B items of a batch, n texts, T tokens of the longest, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from genrec.semtok import smollm2
from genrec.semtok.aligners.losses import soft_target_contrast
from genrec.semtok.encoders.hf import Pooling, minilm_folder, padded, token_rows, unit_vectors
from genrec.semtok.errors import OptionError
from genrec.semtok.pretrained import open_folder

LEAST_TEMPERATURE = 0.01  # CLIP's bound


class ViewEncoder(nn.Module):
    """The encoder with its adapters, and the temperature; `forward` is the loss of a batch of views.

    Args:
        network: reads tokens [., T] and a mask, gives `last_hidden_state`.
        pooling: "mean" of the tokens or "last" token.
        temperature: at the start.
    """

    def __init__(self, network: nn.Module, pooling: Pooling, temperature: float) -> None:
        super().__init__()
        self.network, self.pooling = network, pooling
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))

    @property
    def temperature(self) -> Tensor:
        """tau, never below 0.01."""
        return self.log_temperature.exp().clamp(min=LEAST_TEMPERATURE)

    def encode(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Unit vectors [n, D] of right-padded tokens [n, T]."""
        return unit_vectors(self.network, tokens, mask, self.pooling)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Loss of the views [2B, T], first views first.

        The published loss compares vectors as they are; on long ones its soft targets are one-hot. Here vectors have
        unit length, and targets and predictions one temperature, which learns from the predictions alone.
        """
        first, second = self.encode(tokens, mask).chunk(2)
        tau = self.temperature
        return soft_target_contrast(first, second, tau, 1 / tau.detach())


@dataclass(frozen=True)
class Tunable:
    """A pretrained model, and the part of it that reads text, with adapters.

    Attributes:
        model: as it was loaded; holds the adapted part.
        adapted: the encoder of an encoder-decoder, otherwise all of it.
        views: the module that is trained.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    adapted: PeftModel
    views: ViewEncoder

    def adapters(self) -> list[nn.Parameter]:
        """The adapters' weights: all that is trained but the temperature."""
        return [parameter for parameter in self.adapted.parameters() if parameter.requires_grad]

    def only_adapters_drop(self) -> None:
        """Training mode for the adapters alone: the views are noise enough, and the paper's LLM has no dropout."""
        self.views.eval()
        for name, module in self.views.named_modules():
            if "lora_dropout" in name:
                module.train()

    def tokens(self, texts: Sequence[str], max_tokens: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Right-padded tokens [n, T] and their mask."""
        return padded(token_rows(self.tokenizer, texts, max_tokens), device)

    def export(self, folder: Path) -> None:
        """Merge the adapters and write a Hugging Face folder; nothing can be trained afterwards."""
        self.adapted.merge_and_unload()
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def load_tunable(encoder: str, *, rank: int, dropout: float, temperature: float, seed: int) -> Tunable:
    """Load an encoder by the name that `make_encoder` knows it by, and put LoRA on every linear layer.

    Args:
        encoder: minilm (mean of the tokens), smollm2 (last token), hf:MODEL or hf-last:MODEL.
        rank: of the adapters; their scale is 4.
        dropout: on the adapters' inputs.
        temperature: at the start.
        seed: of the adapters.

    Raises:
        InputError: another name, or the model cannot be loaded.
    """
    kind, _, name = encoder.partition(":")
    shipped = {"minilm": minilm_folder, smollm2.NAME: lambda: smollm2.smollm2_folder(f"encoder {smollm2.NAME}")}
    if encoder not in shipped and not (name and kind in ("hf", "hf-last")):
        raise OptionError("encoder", f"{encoder!r}: choose minilm, smollm2, hf:MODEL or hf-last:MODEL")
    folder = open_folder(shipped[encoder]() if encoder in shipped else name, f"encoder {encoder}")
    tokenizer, model = folder.tokenizer(), folder.model("encoder", torch.float32)
    torch.manual_seed(seed)
    lora = LoraConfig(
        r=rank,
        lora_alpha=4 * rank,
        lora_dropout=dropout,
        target_modules="all-linear",
        exclude_modules=r".*pooler.*",  # reads the first token for a head that is not there
        task_type=TaskType.FEATURE_EXTRACTION,
    )
    adapted = get_peft_model(model.get_encoder() if model.config.is_encoder_decoder else model, lora)
    pooling: Pooling = "last" if kind in ("hf-last", smollm2.NAME) else "mean"
    return Tunable(model, tokenizer, adapted, ViewEncoder(adapted, pooling, temperature))
