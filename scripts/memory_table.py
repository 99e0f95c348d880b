"""Prints the memory that fine-tuning takes, by model and way of training, as a markdown table.

python scripts/memory_table.py --tokens 8192 --lora_rank 16 --devices 8
"""

from __future__ import annotations

import argparse

from genrec.training.loop.memory import markdown


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
