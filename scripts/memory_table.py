"""What fine-tuning a decoder takes in memory, computed from its shapes: weights, gradients, optimiser, activations.

    python scripts/memory_table.py --tokens 8192 --lora_rank 16 --devices 8

Prints a markdown table. The arithmetic of `genrec.training.finetune` in bf16: weights, gradients and both moments of
AdamW are float32 (4 bytes each), the forward pass runs in bf16 (2 bytes). With LoRA only the adapters have gradients
and moments.

Shapes: H hidden width, T tokens of a batch, V vocabulary.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

MASTER, HALF = 4, 2  # bytes of a float32 and of a bf16
MOMENTS = 2


@dataclass(frozen=True)
class Shape:
    """A Qwen-like decoder: grouped-query attention, gated feed-forward blocks, RMS norms.

    Attributes:
        name: what it is called in the table.
        hidden: H.
        layers: decoder blocks.
        heads, kv_heads, head_width: of attention.
        intermediate: width of the feed-forward blocks.
        vocabulary: V.
        tied: input and output embeddings are one matrix.
        qkv_bias: the projections of attention have biases (Qwen 2).
        head_norm: queries and keys are normalised (Qwen 3).
    """

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    intermediate: int
    vocabulary: int
    tied: bool
    qkv_bias: bool = False
    head_norm: bool = True

    @property
    def _attention(self) -> tuple[int, int]:
        """Widths of queries, and of keys and values together."""
        return self.heads * self.head_width, 2 * self.kv_heads * self.head_width

    @property
    def layer_parameters(self) -> int:
        """Parameters of one block."""
        queries, keys_values = self._attention
        linear = self.hidden * (2 * queries + keys_values) + 3 * self.hidden * self.intermediate
        biases = (queries + keys_values) * self.qkv_bias
        return linear + biases + 2 * self.hidden + 2 * self.head_width * self.head_norm

    @property
    def parameters(self) -> int:
        """Parameters of the whole model, without SID tokens and dense head."""
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return embeddings + self.layers * self.layer_parameters + self.hidden

    def lora_parameters(self, rank: int) -> int:
        """Parameters of adapters of a rank on every linear layer of the blocks."""
        queries, keys_values = self._attention
        ends = 2 * (self.hidden + queries) + 2 * self.hidden + keys_values + 3 * (self.hidden + self.intermediate)
        return self.layers * rank * ends

    def activations_per_token(self, *, checkpointing: bool) -> int:
        """Bytes that the forward pass keeps of one token for the backward pass, with fused attention.

        A block keeps, in bf16: its normalised inputs (2 H), queries, keys, values before and after norm and rotation,
        the attended values, the four products of the feed-forward block; in float32: the inputs of both norms and the
        normalised values. Checkpointing keeps a block's input alone and recomputes one block at a time.
        """
        queries, keys_values = self._attention
        norms = 2 * self.hidden * (MASTER + MASTER + HALF)
        attention = HALF * (3 * queries + 3 * keys_values) + HALF * queries
        block = norms + attention + 4 * HALF * self.intermediate
        if checkpointing:
            return self.layers * self.hidden * MASTER + block
        return self.layers * block


@dataclass(frozen=True)
class Memory:
    """Bytes on one device."""

    weights: float
    gradients: float
    optimizer: float
    activations: float

    @property
    def total(self) -> float:
        """All four together."""
        return self.weights + self.gradients + self.optimizer + self.activations


def memory(shape: Shape, *, tokens: int, lora_rank: int = 0, checkpointing: bool = False, devices: int = 1) -> Memory:
    """Bytes on each of some devices, for `tokens` padded tokens a batch and device.

    More than one device means fully sharded (FSDP2): weights, gradients and moments are divided, one block at a time is
    gathered in bf16, and the next one ahead of it. Left out: the bf16 copies that autocast makes of one product's
    weights, the softmax over the text vocabulary (V x H x 4 bytes for a moment), SID tokens, dense head, the allocator.

    Args:
        lora_rank: 0 trains all weights.
        checkpointing: gradient checkpointing.
        devices: 1 or the number that the model is sharded over.
    """
    trained = shape.lora_parameters(lora_rank) if lora_rank else shape.parameters
    held = shape.parameters + (trained if lora_rank else 0)
    gathered = 2 * HALF * shape.layer_parameters if devices > 1 else 0
    return Memory(
        weights=MASTER * held / devices + gathered,
        gradients=MASTER * trained / devices,
        optimizer=MOMENTS * MASTER * trained / devices,
        activations=float(tokens * shape.activations_per_token(checkpointing=checkpointing)),
    )


SHAPES = (
    Shape("Qwen2.5-0.5B", 896, 24, 14, 2, 64, 4864, 151_936, tied=True, qkv_bias=True, head_norm=False),
    Shape("Qwen3-0.6B", 1024, 28, 16, 8, 128, 3072, 151_936, tied=True),
    Shape("Qwen3-1.7B", 2048, 28, 16, 8, 128, 6144, 151_936, tied=True),
    Shape("Qwen3-4B", 2560, 36, 32, 8, 128, 9728, 151_936, tied=True),
    Shape("Qwen3-8B", 4096, 36, 32, 8, 128, 12_288, 151_936, tied=False),
)


def markdown(tokens: int, lora_rank: int, devices: int) -> str:
    """The table: a row a shape and way of training, in GB (10^9 bytes)."""
    lines = [
        "| model | trains | checkpointing | devices | weights | gradients | optimizer | activations | total GB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for shape in SHAPES:
        for rank in (0, lora_rank):
            for checkpointing in (False, True):
                for count in (1, devices):
                    parts = memory(shape, tokens=tokens, lora_rank=rank, checkpointing=checkpointing, devices=count)
                    parts_bytes = (parts.weights, parts.gradients, parts.optimizer, parts.activations, parts.total)
                    way = f"LoRA {rank}" if rank else "all"
                    figures = " | ".join(f"{part / 1e9:.1f}" for part in parts_bytes)
                    switch = "on" if checkpointing else "off"
                    lines.append(f"| {shape.name} | {way} | {switch} | {count} | {figures} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=8192, help="padded tokens of a batch, a device")
    parser.add_argument("--lora_rank", type=int, default=16, help="rank of the adapters")
    parser.add_argument("--devices", type=int, default=8, help="devices that a model is sharded over")
    options = parser.parse_args()
    if min(options.tokens, options.lora_rank, options.devices) < 1:
        parser.error("--tokens, --lora_rank and --devices must be at least 1")
    print(markdown(options.tokens, options.lora_rank, options.devices))


if __name__ == "__main__":
    main()
