"""Preference losses against direct evaluation in float64; the stage on a world where it must raise the right item."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from worlds.walk import CODES, N, world

from genrec.data.sequences import Sequences
from genrec.decoding.beam import score_all
from genrec.decoding.trie import CodeTrie
from genrec.ranking.config import RankingConfig
from genrec.semtok.errors import InputError
from genrec.semtok.folders import read_json
from genrec.training.lm import preference_stage
from genrec.training.lm.build import LanguageModel, LmInputs, build_lm
from genrec.training.lm.config import LmConfig, PreferenceStageConfig
from genrec.training.lm.preference_loss import advantages, code_log_probs, divergence, grpo, list_rewards, softmax_dpo
from genrec.training.lm.preference_stage import preference_finetune
from genrec.training.loop.epochs import FitContext

TINY = LmConfig(
    width=16, layers=1, heads=2, text_vocabulary=300, dropout=0.0, dense_width=8, valid_cases=120, max_items=4
)


def test_softmax_dpo_is_the_equation_and_its_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randn(5, generator=generator, dtype=torch.float64).requires_grad_()
    rejected = torch.randn(5, 3, generator=generator, dtype=torch.float64).requires_grad_()
    alive = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 1], [1, 1, 0], [0, 0, 0]], dtype=torch.bool)
    found = softmax_dpo(chosen, rejected, alive, 0.7)
    for row in range(5):
        margins = [0.7 * (rejected[row, d] - chosen[row]).item() for d in range(3) if alive[row, d]]
        inner = -math.log(sum(math.exp(m) for m in margins)) if margins else math.inf
        assert found[row].item() == pytest.approx(-math.log(1 / (1 + math.exp(-inner))), rel=1e-12)
    assert torch.autograd.gradcheck(lambda c, r: softmax_dpo(c, r, alive, 0.7), (chosen, rejected))


def test_one_negative_makes_it_plain_dpo() -> None:
    chosen, rejected = torch.tensor([0.3]), torch.tensor([[-0.4]])
    found = softmax_dpo(chosen, rejected, torch.ones(1, 1, dtype=torch.bool), 2.0)
    torch.testing.assert_close(found, -F.logsigmoid(2.0 * (chosen - rejected[:, 0])))


def test_rewards_are_one_for_the_hit_and_blame_confident_mistakes_more() -> None:
    hit = torch.tensor([[False, True, False], [False, False, False], [True, False, False]])
    alive = torch.tensor([[True, True, True], [True, True, True], [True, True, False]])
    rewards = list_rewards(hit, alive, 0.5)
    first, third = 1 / math.log2(2), 1 / math.log2(4)
    expected = [-0.5 * first / (first + third), 1.0, -0.5 * third / (first + third)]
    torch.testing.assert_close(rewards[0], torch.tensor(expected))
    assert not rewards[1].any()  # no hit: nothing to learn
    torch.testing.assert_close(rewards[2], torch.tensor([1.0, -0.5, 0.0]))


def test_advantages_are_standardised_over_the_living() -> None:
    rewards = torch.tensor([[1.0, -0.5, -0.5, 9.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    alive = torch.tensor([[True, True, True, False], [True] * 4])
    found = advantages(rewards, alive)
    three = np.array([1.0, -0.5, -0.5])
    expected = (three - three.mean()) / three.std()
    assert found[0].tolist() == pytest.approx([*expected, 0.0])
    assert not found[1].any()


def test_grpo_has_the_gradient_of_the_equation() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 3, 2, 5, generator=generator, dtype=torch.float64)
    advantage = torch.tensor([[1.2, -0.6, -0.6], [0.5, -0.5, 0.0]], dtype=torch.float64)
    alive = torch.tensor([[True, True, True], [True, True, False]])
    old = logits.log_softmax(-1)[..., 0]

    def direct(values: torch.Tensor) -> torch.Tensor:
        ratio = (values.log_softmax(-1)[..., 0] - old).exp()
        total = values.new_zeros(())
        for user in range(2):
            items = [i for i in range(3) if alive[user, i]]
            for item in items:
                total = total - (ratio[user, item] * advantage[user, item]).sum() / 2 / len(items)
        return total

    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = grpo(ours.log_softmax(-1)[..., 0], advantage, alive).sum()
    loss.backward()
    expected = direct(theirs)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert torch.autograd.gradcheck(direct, logits.clone().requires_grad_())


def test_divergence_is_the_sum_over_the_codes_of_living_items() -> None:
    generator = torch.Generator().manual_seed(2)
    ours = [torch.randn(2, 2, 4, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(3)]
    theirs = [torch.randn(2, 2, 4, generator=generator, dtype=torch.float64) for _ in range(3)]
    alive = torch.tensor([[True, False], [True, True]])
    total = []
    for p, q in zip(ours, theirs, strict=True):
        p, q = p.detach().softmax(-1), q.softmax(-1)
        kl = (p * (p / q).log()).sum(-1)
        total.append(torch.stack([kl[0, 0], kl[1, 0], kl[1, 1]]))
    assert divergence(ours, theirs, alive).item() == pytest.approx(torch.stack(total).mean().item())
    assert divergence(theirs, theirs, alive).item() == pytest.approx(0.0, abs=1e-12)
    assert torch.autograd.gradcheck(lambda *x: divergence(x, theirs, alive), tuple(ours))


def ranks(built: LanguageModel, inputs: LmInputs) -> float:
    """Mean rank of the next item by the codes alone."""
    trie = CodeTrie(CODES, (4, 4))
    cases = inputs.split.valid
    prompts = [built.vocabulary.prompt(CODES[h]) for h in cases.histories.last(4)]
    scores = score_all(built.scorer(), trie, prompts)
    own = scores[np.arange(len(cases)), cases.targets]
    return float((scores > own[:, None]).sum(axis=1).mean())


def settings(**changed: Any) -> LmConfig:
    base = {"histories": 16, "items": 6, "steps": 60, "validate_every": 20, "learning_rate": 1e-2, "patience": 3}
    return replace(TINY, preference=PreferenceStageConfig(**{**base, **changed}))


def run(inputs: LmInputs, config: LmConfig, work: Path, log: Any = lambda row: None) -> LanguageModel:
    work.mkdir(exist_ok=True)
    # ranked by the beam alone, so that validation sees what the stage changes
    ranking = RankingConfig(beams=8, max_items=4, dense_weight=0.0, cooccurrence_weight=0.0)
    return preference_finetune(build_lm(inputs, config), inputs, config, ranking, FitContext(work, log))


@pytest.fixture(scope="module")
def inputs() -> LmInputs:
    return world()


def test_code_log_probs_are_those_of_the_scorer(inputs: LmInputs) -> None:
    for space, nodes in (("level", False), ("vocabulary", False), ("level", True)):
        built = build_lm(inputs, replace(TINY, score_space=space, node_vectors=nodes))
        built.model.eval()
        prompts = [built.vocabulary.prompt(CODES[h]) for h in ([3, 9], [1])]
        codes = torch.from_numpy(np.broadcast_to(CODES, (2, N, 2)).copy()).long()
        with torch.no_grad():
            levels = code_log_probs(built.model, built.vocabulary, prompts, torch.arange(N).expand(2, -1))
        ours = sum(level.gather(2, codes[..., i, None]).squeeze(2) for i, level in enumerate(levels))
        expected = score_all(built.scorer(), CodeTrie(CODES, (4, 4)), prompts)
        np.testing.assert_allclose(ours.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("method", ["dpo", "grpo"])
def test_the_stage_raises_the_right_item(inputs: LmInputs, tmp_path: Path, method: str) -> None:
    rows: list[Mapping[str, Any]] = []
    # rewards reach only lists that hold the target, so long lists, and a smaller step for so noisy a gradient
    shape = {"items": 12, "rank_weight": 0.3, "learning_rate": 5e-3} if method == "grpo" else {}
    config = settings(method=method, kl_weight=0.0, patience=12, validate_every=5, **shape)
    before = ranks(build_lm(inputs, config), inputs)
    after = ranks(run(inputs, config, tmp_path / "work", rows.append), inputs)
    assert after < 0.6 * before
    assert [row["step"] for row in rows] == [0, 5, *range(10, 61, 5)]
    assert all({"reward", "hit_share", "skipped_share", "kl", "loss"} <= set(row) for row in rows[1:])
    assert rows[-1]["kl"] > 0.01 > rows[1]["kl"] / 10
    rewards = [row["reward"] for row in rows[1:]]
    assert sum(rewards[-3:]) > sum(rewards[:3])


def test_a_heavy_divergence_weight_holds_the_model_back(inputs: LmInputs, tmp_path: Path) -> None:
    rows: dict[float, list[Mapping[str, Any]]] = {0.0: [], 10.0: []}
    for weight, seen in rows.items():
        run(inputs, settings(method="dpo", steps=20, kl_weight=weight), tmp_path / str(weight), seen.append)
    assert rows[10.0][-1]["kl"] < 0.5 * rows[0.0][-1]["kl"]


def test_a_stage_that_never_wins_gives_the_untouched_model_back(inputs: LmInputs, tmp_path: Path) -> None:
    rows: list[Mapping[str, Any]] = []
    config = settings(method="grpo", steps=60, validate_every=5, learning_rate=1e-9, patience=2)
    model = build_lm(inputs, config).model
    model.export()  # as every validation does: the SID tokens' own rows of the LM's matrices, which nothing reads
    untouched = model.state_dict()
    kept = run(inputs, config, tmp_path / "work", rows.append).model.state_dict()
    assert [row["step"] for row in rows] == [0, 5, 10]  # two validations without a better one
    for name, value in untouched.items():
        assert torch.equal(kept[name], value), name
    assert '"kept_step": 0' in (tmp_path / "work/preference.json").read_text()


def test_a_step_is_kept_only_where_the_other_half_confirms_it(
    inputs: LmInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # At the start, and after each of three steps.
    chosen_on, confirmed_on = iter((1, 5, 4, 3)), iter((3, 2, 4, 9))
    halves = (lambda built: {"selection": next(chosen_on)}, lambda built: {"selection": next(confirmed_on)})
    monkeypatch.setattr(preference_stage, "_halves", lambda *parts: halves)
    run(inputs, settings(method="dpo", steps=3, validate_every=1), tmp_path / "work")
    assert read_json(tmp_path / "work/preference.json")["kept_step"] == 2


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_lists_hold_items_of_the_prompt_only_where_rankings_do(inputs: LmInputs, exclude_seen: bool) -> None:
    built = build_lm(inputs, settings(method="dpo"))
    built.model.eval()
    ranking = RankingConfig(beams=8, max_items=4)
    lists = preference_stage._Lists(replace(inputs, exclude_seen=exclude_seen), settings(items=N - 4), ranking)
    prompts, _, rows = lists.make(built, 0)
    tokens = built.vocabulary.encode(CODES).tolist()
    again = [
        tokens[row] == prompt[place : place + 2]
        for prompt, items in zip(prompts, rows.tolist(), strict=True)
        for row in items
        if row >= 0
        for place in range(1, len(prompt), 2)
    ]
    assert any(again) != exclude_seen


def test_a_stage_that_diverged_is_refused(inputs: LmInputs, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"diverged.*learning_rate"):
        run(inputs, settings(method="dpo", steps=4, validate_every=2, learning_rate=1e30), tmp_path / "work")


def test_lists_without_the_target_are_skipped_and_counted(inputs: LmInputs, tmp_path: Path) -> None:
    rows: list[Mapping[str, Any]] = []
    run(inputs, settings(method="grpo", steps=3, validate_every=1), tmp_path / "work", rows.append)
    assert all(row["skipped_share"] == pytest.approx(1 - row["hit_share"]) for row in rows[1:])
    assert 0 < rows[1]["skipped_share"] < 1


def test_an_interrupted_stage_ends_with_the_weights_of_an_undisturbed_one(inputs: LmInputs, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def killer(row: Mapping[str, Any]) -> None:
        if row["step"] == 10:
            raise Killed

    config = settings(method="dpo", steps=12, validate_every=5)
    whole = run(inputs, config, tmp_path / "whole")
    with pytest.raises(Killed):
        run(inputs, config, tmp_path / "broken", killer)
    resumed = run(inputs, config, tmp_path / "broken")
    for (name, a), (_, b) in zip(whole.model.state_dict().items(), resumed.model.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    assert (tmp_path / "whole/preference.json").read_bytes() == (tmp_path / "broken/preference.json").read_bytes()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"method": "ppo"}, r"method 'ppo'"),
        ({"items": 1}, r"items 1"),
        ({"steps": 0}, r"steps 0"),
        ({"beta": 0.0}, r"beta 0"),
        ({"beta": float("inf")}, r"beta inf"),
        ({"kl_weight": -1.0}, r"kl_weight -1"),
        ({"kl_weight": float("inf")}, r"kl_weight inf"),
    ],
)
def test_bad_settings_name_their_flag(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PreferenceStageConfig(**changed)


def test_without_histories_of_two_there_is_nothing_to_prefer(inputs: LmInputs, tmp_path: Path) -> None:
    alone = Sequences.from_lists([[1], [2]])
    bare = replace(inputs, split=replace(inputs.split, train=alone, train_user_ids=("a", "b")))
    with pytest.raises(InputError, match="no training history has two items"):
        run(bare, settings(method="dpo"), tmp_path / "work")
