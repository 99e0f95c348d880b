"""Chat templates, which are programs of whoever made a model: what they put around words, and what they may not do."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from worlds.hostile import TEMPLATES, seal

from genrec.inference.chat.model_prose import prose_for
from genrec.inference.chat.prose import TemplateProse
from genrec.inference.recommender import Recommender
from genrec.semtok.chat_template import chat_frame
from genrec.semtok.errors import InputError

CHATML = (
    "{% for message in messages %}{{ bos_token }}<|im_start|>{{ message['role'] }}\n{{ message['content'] | trim }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if not enable_thinking %}<think></think>{% endif %}{% endif %}"
)


def tokenizer_with(template: object) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE()),
        bos_token="<s>",
        chat_template=template,
        additional_special_tokens=["<x>"],
    )


def test_the_frame_is_what_the_template_puts_around_words() -> None:
    for template in (CHATML, {"default": CHATML, "other": "{{ 1 / 0 }}"}):
        tokenizer = tokenizer_with(template)
        before, after = chat_frame(tokenizer, "m") or ("", "")
        whole = tokenizer.apply_chat_template(
            [{"role": "user", "content": "words"}], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        assert f"{before}words{after}" == whole
        assert before.startswith("<s><|im_start|>user")
        assert after.endswith("<think></think>")
    assert chat_frame(tokenizer_with(None), "m") is None
    with pytest.raises(InputError, match="m: the chat template cannot be used"):
        chat_frame(tokenizer_with({"tool": CHATML, "rag": CHATML}), "m")


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_template_that_is_none_is_one_line(kind: str) -> None:
    with pytest.raises(InputError, match=r"^models/x: the chat template ") as refusal:
        chat_frame(tokenizer_with(TEMPLATES[kind]), "models/x")
    assert "\n" not in str(refusal.value)


def test_a_template_never_sees_what_a_person_says() -> None:
    """So that it cannot be harmless for a test and endless for somebody's words."""
    cunning = (
        "{% for m in messages %}{% if 'mug' in m['content'] %}{{ 1 / 0 }}{% endif %}{{ m['content'] }}{% endfor %}"
    )
    assert chat_frame(tokenizer_with(cunning), "m") == ("", "")


def test_a_run_with_such_a_template_is_refused_only_by_who_would_use_it(tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    (run / "lm/chat_template.jinja").write_text(TEMPLATES["code"])
    with pytest.raises(InputError, match=r"chat_template\.jinja: is no file of this stage"):
        Recommender.from_pretrained(run, device="cpu")
    seal(run, "lm/chat_template.jinja", added=True)
    recommender = Recommender.from_pretrained(run, device="cpu")
    assert isinstance(prose_for(run, recommender), TemplateProse)  # of a model from scratch nobody asks for words
    with pytest.raises(InputError, match=f"^{run / 'lm'}: the chat template cannot be used"):
        prose_for(run, recommender, server="http://127.0.0.1:9")
