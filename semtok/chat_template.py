"""What a model's chat template puts around a person's words, worked out once, in a process with limits.

    frame = chat_frame(tokenizer, "runs/mine/lm")  # ("<|user|>", "<|assistant|>"); None where there is no template
    prompt = f"{frame[0]}{words}{frame[1]}"

A template is a program that comes with a model. Jinja's sandbox keeps it from the machine, but not from looping or
multiplying texts without end, and it may do so for some messages alone. So it never sees a person's words: it is
rendered with a mark in their place, in a process whose time and memory are bounded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from genrec.semtok.errors import InputError

SECONDS = 60.0  # for all of it, imports of a busy machine included; a template takes a millisecond
_CPU_SECONDS = 5
_BYTES = 1 << 30
_LONGEST = 100_000  # characters around the words
_MARK = "\ue000"  # a private character that nobody types
_RENDER = f"""
import json, os, resource, sys
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
asked = json.load(sys.stdin)
tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), **asked["tokens"])
used = resource.getrusage(resource.RUSAGE_SELF)
time = int(used.ru_utime + used.ru_stime) + {_CPU_SECONDS}
resource.setrlimit(resource.RLIMIT_CPU, (time, time))
resource.setrlimit(resource.RLIMIT_DATA, ({_BYTES}, {_BYTES}))
message = [{{"role": "user", "content": {_MARK!r}}}]
told = tokenizer.apply_chat_template(
    message, chat_template=asked["template"], tokenize=False, add_generation_prompt=True, enable_thinking=False
)
json.dump(str(told)[: {_LONGEST + 1}], sys.stdout)
"""


def chat_frame(tokenizer: PreTrainedTokenizerBase, name: str) -> tuple[str, str] | None:
    """The texts before and after a person's words; None where the tokenizer has no chat template.

    Args:
        name: begins the message of the error, such as the model's folder.

    Raises:
        InputError: the template fails, takes too long or too much, or does not give the words once.
    """
    if tokenizer.chat_template is None:
        return None
    tokens = {key: str(token) for key, token in tokenizer.special_tokens_map.items() if not isinstance(token, list)}
    try:
        template = tokenizer.get_chat_template()  # of several, the one for a plain conversation
    except ValueError as error:
        raise InputError(f"{name}: the chat template cannot be used ({' '.join(str(error).split())[:200]})") from None
    return _frame(json.dumps({"template": template, "tokens": tokens}), name)


@lru_cache(maxsize=8)
def _frame(asked: str, name: str) -> tuple[str, str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-P", "-c", _RENDER]
    try:
        done = subprocess.run(command, input=asked, env=environment, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise InputError(f"{name}: the chat template took more than {SECONDS:.0f} s") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["more time or memory than it is given"])[-1]
        raise InputError(f"{name}: the chat template cannot be used ({last[:200]})")
    parts = str(json.loads(done.stdout)).split(_MARK)
    if len(parts) != 2 or sum(map(len, parts)) >= _LONGEST:
        raise InputError(f"{name}: the chat template does not give a message once, or more than it beside it")
    return parts[0], parts[1]
