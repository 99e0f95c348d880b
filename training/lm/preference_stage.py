"""Preference optimisation of a fine-tuned model on its own constrained beams; off unless a configuration asks for it.

A step cuts training histories before one of their items, lets the model as it stands make a list by constrained beam
search, and moves it from the list's wrong items towards the one that came next. Only items of training are targets.

Peers report two failures, which are guarded against here. Lists without the target give no reward: they are skipped and
counted. Validation rises while the test falls: a step is kept only where it is better on the half of the validation
cases that it is chosen on and on the other half, and where none is, the fine-tuned model is returned as it was.

Shapes: B histories, M items of a list, L levels.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from genrec.decoding.beam import beam_search
from genrec.decoding.filters import ItemFilter
from genrec.decoding.trie import CodeTrie
from genrec.ranking.ranker import RankingConfig
from genrec.semtok.errors import InputError
from genrec.semtok.folders import to_json, write_atomic
from genrec.tasks.following import Histories
from genrec.training.lm.build import LanguageModel, LmInputs
from genrec.training.lm.config import LmConfig
from genrec.training.lm.joint_model import JointModel
from genrec.training.lm.preference_loss import advantages, code_log_probs, divergence, grpo, list_rewards, softmax_dpo
from genrec.training.lm.validation import Validation
from genrec.training.loop.checkpoint import load_checkpoint, save_checkpoint, whole_state, write_tensors
from genrec.training.loop.epochs import Log, Progress
from genrec.training.loop.schedule import learning_rate_factor

BEST = "best.safetensors"


def preference_finetune(
    built: LanguageModel,
    inputs: LmInputs,
    config: LmConfig,
    ranking: RankingConfig,
    workdir: Path,
    log: Log,
    *,
    progress: Progress = lambda done, total: None,
) -> LanguageModel:
    """Optimise a fine-tuned model in place, on one process.

    Args:
        built: the fine-tuned model, the reference of the KL divergence.
        ranking: beams and history length.
        workdir: a folder of this stage alone; holds the checkpoint of an interrupted attempt, from which it goes on to
            the same weights; gets `preference.json`, the log.
        log: gets one row a step: loss, reward of what the lists put first, KL divergence, shares of lists with the
            target and of lists skipped, and at every validation the figures of both halves.
        progress: told (steps done, steps at most).

    Returns:
        The model with the best weights, or with those it came with where no step was better on both halves.

    Raises:
        InputError: fewer than two validation cases, no training history of two items, or the training diverged.
    """
    settings = config.preference
    workdir.mkdir(exist_ok=True)
    reference = copy.deepcopy(built.model).eval().requires_grad_(False)
    lists = _Lists(inputs, config, ranking)
    chosen_on, confirmed_on = _halves(inputs, config, ranking)
    trained = [p for name, p in built.model.named_parameters() if p.requires_grad and not name.startswith("head.")]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    built.model.eval()  # without dropout, so that policy and reference differ by training alone
    state = load_checkpoint(workdir, {"model": built.model}, optimizer)
    if state is None:
        start = [float(half(built)["selection"]) for half in (chosen_on, confirmed_on)]
        state = {"step": 0, "start": start, "best": start[0], "best_step": 0, "validations_since": 0, "rows": []}
    for step in range(state["step"], settings.steps):
        if state["validations_since"] >= settings.patience:
            break
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * learning_rate_factor(step, settings.steps, settings.steps // 20 + 1)
        row: dict[str, Any] = {"stage": "preference", "step": step + 1}
        row |= _step(built, reference, lists, optimizer, config, step)
        if (step + 1) % settings.validate_every == 0 or step + 1 == settings.steps:
            first, second = chosen_on(built), confirmed_on(built)
            row |= {name: (first[name] + second[name]) / 2 for name in first if name.startswith("valid_")}
            row |= {"chosen_on": first["selection"], "confirmed_on": second["selection"]}
            better = first["selection"] > state["best"] and second["selection"] > state["start"][1]
            if better:
                write_tensors(workdir / BEST, _weights(built.model))
                state |= {"best": first["selection"], "best_step": step + 1}
            state["validations_since"] = 0 if better else state["validations_since"] + 1
        log(row)
        state["rows"].append(row)
        state["step"] = step + 1
        if "chosen_on" in row:
            save_checkpoint(workdir, {"model": built.model}, whole_state(optimizer), state)
        progress(step + 1, settings.steps)
    best = load_file(workdir / BEST) if state["best_step"] else _weights(reference, like=built.model)
    with torch.no_grad():
        for name, value in _weights(built.model).items():
            value.copy_(best[name])
    facts = {"method": settings.method, "start": state["start"], "kept_step": state["best_step"]}
    write_atomic(workdir / "preference.json", to_json({**facts, "rows": state["rows"]}))
    return built


class _Lists:
    """Draws training prefixes and makes the model's own lists for them."""

    def __init__(self, inputs: LmInputs, config: LmConfig, ranking: RankingConfig) -> None:
        self.codes, self._seed = inputs.semantic_ids.codes, config.seed
        self._settings = config.preference
        self._histories = Histories(inputs.split.train, config.max_items)
        if len(self._histories.subjects) == 0:
            raise InputError("--lm.preference.method: no training history has two items, so there is nothing to prefer")
        self._trie = CodeTrie(inputs.semantic_ids.codes, inputs.semantic_ids.sizes)
        self._beams = max(ranking.beams, self._settings.items)
        self._everything = ItemFilter(self._trie)
        self._exclude_seen = inputs.exclude_seen

    def make(self, built: LanguageModel, step: int) -> tuple[list[list[int]], NDArray[np.int32], NDArray[np.int32]]:
        """Prompts, targets [B] and lists [B, M] (-1 pads); what is drawn depends on the seed and the step alone."""
        rng = np.random.default_rng((self._seed, 7, step))
        drawn = rng.choice(self._histories.subjects, size=self._settings.histories)
        cuts = [self._histories.cut(int(subject), rng) for subject in drawn]
        prompts = [built.vocabulary.prompt(self.codes[before]) for before, _ in cuts]
        filters = [self._everything.deny(before) for before, _ in cuts] if self._exclude_seen else None
        k = self._settings.items
        found = beam_search(
            built.scorer(), self._trie, prompts, beams=self._beams, k=k, filters=filters, token_budget=8192
        )
        return prompts, np.array([target for _, target in cuts], dtype=np.int32), found.rows


def _step(
    built: LanguageModel,
    reference: JointModel,
    lists: _Lists,
    optimizer: torch.optim.Optimizer,
    config: LmConfig,
    step: int,
) -> dict[str, float]:
    """One optimiser step; returns what there is to report of it."""
    settings, device = config.preference, built.model.rows.device
    prompts, targets, rows = lists.make(built, step)
    alive, hit = torch.from_numpy(rows >= 0), torch.from_numpy(rows == targets[:, None])
    alive, hit = alive.to(device), hit.to(device)
    rewards = list_rewards(hit, alive, settings.rank_weight)
    live = (alive & ~hit).any(dim=1) if settings.method == "dpo" else rewards.ne(0).any(dim=1)
    report = {
        "reward": float(rewards[:, 0].mean()),
        "hit_share": float(hit.any(dim=1).float().mean()),
        "skipped_share": 1 - float(live.float().mean()),
    }
    if not live.any():
        return {**report, "loss": 0.0, "kl": 0.0}
    kept = live.cpu().numpy()
    items = np.concatenate([targets[kept, None], np.maximum(rows[kept], 0)], axis=1)  # the target leads its list
    codes = torch.from_numpy(lists.codes[items]).long().to(device)
    in_lists = torch.from_numpy(items).long().to(device)
    shown = [prompt for prompt, keep in zip(prompts, kept, strict=True) if keep]
    mixed = torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")
    with mixed:
        policy = code_log_probs(built.model, built.vocabulary, shown, in_lists)
        with torch.no_grad():
            before = code_log_probs(reference, built.vocabulary, shown, in_lists)
    ours, theirs = _of_codes(policy, codes), _of_codes(before, codes)
    in_list = torch.cat([torch.ones_like(alive[live][:, :1]), alive[live]], dim=1)
    kl = divergence(policy, before, in_list)
    if settings.method == "dpo":
        ratio = (ours - theirs).sum(dim=2)
        loss = softmax_dpo(ratio[:, 0], ratio[:, 1:], (alive & ~hit)[live], settings.beta).mean()
    else:
        loss = grpo(ours[:, 1:], advantages(rewards, alive)[live], alive[live]).mean()
    optimizer.zero_grad()
    (loss + settings.kl_weight * kl).backward()
    torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()
    return {**report, "loss": loss.item(), "kl": kl.item()}


def _of_codes(log_probs: list[Tensor], codes: Tensor) -> Tensor:
    """Log-probabilities [B, M, L] of the codes themselves."""
    return torch.stack(
        [level.gather(2, codes[..., number, None]).squeeze(2) for number, level in enumerate(log_probs)], dim=2
    )


def _halves(inputs: LmInputs, config: LmConfig, ranking: RankingConfig) -> tuple[Validation, Validation]:
    """Validations on two halves of the cases, drawn by seed."""
    cases = inputs.split.valid
    if len(cases) < 2:
        raise InputError("--lm.preference.method: choosing and confirming takes two validation cases at least")
    order = np.random.default_rng((config.seed, 11)).permutation(len(cases))
    parts = (np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :]))
    each = max(1, config.valid_cases // 2)
    halves = [replace(inputs, split=replace(inputs.split, valid=cases.take(part))) for part in parts]
    first, second = (Validation(half, ranking, each, config.seed) for half in halves)
    return first, second


def _weights(model: JointModel, like: JointModel | None = None) -> Mapping[str, Tensor]:
    """The tensors of `model` that train in it, or in `like`."""
    wanted = {name for name, p in (like or model).named_parameters() if p.requires_grad}
    return {name: p.detach() for name, p in model.named_parameters() if name in wanted}
