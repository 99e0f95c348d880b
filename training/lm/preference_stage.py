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
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genrec.decoding.beam import beam_search
from genrec.decoding.filters import ItemFilter
from genrec.decoding.trie import CodeTrie
from genrec.ranking.config import RankingConfig
from genrec.semtok.errors import InputError
from genrec.semtok.folders import read_json, to_json, write_atomic
from genrec.tasks.following import Histories
from genrec.training.lm.build import LanguageModel, LmInputs
from genrec.training.lm.config import LmConfig
from genrec.training.lm.preference_loss import advantages, code_log_probs, divergence, grpo, list_rewards, softmax_dpo
from genrec.training.lm.validation import Validation
from genrec.training.loop.epochs import FitContext, Objective, Plan, Row, Steps, fit_epochs
from genrec.training.loop.schedule import adamw
from genrec.training.loop.weights import OneProcess


def preference_finetune(
    lm: LanguageModel, inputs: LmInputs, config: LmConfig, ranking: RankingConfig, context: FitContext
) -> LanguageModel:
    """Optimise a fine-tuned model in place, on one process.

    Args:
        lm: the fine-tuned model, the reference of the KL divergence.
        ranking: beams and history length.
        context: its work folder is of this stage alone, and gets `preference.json`, the log.

    Returns:
        The model with the best weights, or with those it came with where no step was better on both halves.

    Raises:
        InputError: fewer than two validation cases, no training history of two items, or the training diverged.
    """
    settings = config.preference
    context.workdir.mkdir(exist_ok=True)
    length = Steps(settings.steps, settings.validate_every)
    plan = Plan(
        stage="preference",
        length=length,
        seed=config.seed,
        diverged=f"preference optimisation diverged: lower --lm.preference.learning_rate {settings.learning_rate:g}",
        selection="selection",
        patience=settings.patience,
        from_start=True,
    )
    trained = [p for name, p in lm.model.named_parameters() if p.requires_grad and not name.startswith("head.")]
    objective = _Preference(lm, inputs, config, ranking, length)
    kept = fit_epochs(objective, OneProcess(lm.model, adamw((trained, settings.learning_rate))), plan, context)
    rows = read_json(context.workdir / "training.json")
    facts = {"method": settings.method, "kept_step": length.named(kept)["step"], "rows": rows}
    write_atomic(context.workdir / "preference.json", to_json(facts))
    return lm


class _Preference(Objective):
    """Steps on the model's own lists; validated on two halves of the cases."""

    def __init__(
        self, lm: LanguageModel, inputs: LmInputs, config: LmConfig, ranking: RankingConfig, length: Steps
    ) -> None:
        self._lm, self._settings, self._length = lm, config.preference, length
        self._reference = copy.deepcopy(lm.model).eval().requires_grad_(False)
        self._mixed = config.precision == "bf16"
        self._lists = _Lists(inputs, config, ranking)
        self._halves = _halves(inputs, config, ranking)

    def batches(self, epoch: int, rng: np.random.Generator) -> range:
        """Steps; without dropout, so that policy and reference differ by training alone."""
        self._lm.model.eval()
        return self._length.numbers(epoch)

    def loss(self, batch: int, moment: float) -> tuple[Tensor | None, Mapping[str, Tensor | float]]:
        """Of the lists of one step; those that teach nothing are skipped, and counted."""
        settings, device = self._settings, self._lm.model.rows.device
        prompts, targets, rows = self._lists.make(self._lm, batch)
        alive, hit = (torch.from_numpy(mask).to(device) for mask in (rows >= 0, rows == targets[:, None]))
        rewards = list_rewards(hit, alive, settings.rank_weight)
        live = (alive & ~hit).any(dim=1) if settings.method == "dpo" else rewards.ne(0).any(dim=1)
        sums: dict[str, Tensor | float] = {
            "steps": 1,
            "reward": rewards[:, 0].mean(),
            "hit_share": hit.any(dim=1).float().mean(),
            "skipped_share": 1 - live.float().mean(),
            "learned": 0,
            "loss": 0.0,
            "kl": 0.0,
        }
        if not live.any():
            return None, sums
        kept = live.cpu().numpy()
        items = np.concatenate([targets[kept, None], np.maximum(rows[kept], 0)], axis=1)  # the target leads its list
        codes = torch.from_numpy(self._lists.codes[items]).long().to(device)
        in_lists = torch.from_numpy(items).long().to(device)
        shown = [prompt for prompt, keep in zip(prompts, kept, strict=True) if keep]
        with torch.autocast(device.type, torch.bfloat16, enabled=self._mixed):
            policy = code_log_probs(self._lm.model, self._lm.vocabulary, shown, in_lists)
            with torch.no_grad():
                before = code_log_probs(self._reference, self._lm.vocabulary, shown, in_lists)
        ours, theirs = _of_codes(policy, codes), _of_codes(before, codes)
        alive, hit, rewards = alive[live], hit[live], rewards[live]
        kl = divergence(policy, before, torch.cat([torch.ones_like(alive[:, :1]), alive], dim=1))
        if settings.method == "dpo":
            ratio = (ours - theirs).sum(dim=2)
            loss = softmax_dpo(ratio[:, 0], ratio[:, 1:], alive & ~hit, settings.beta).mean()
        else:
            loss = grpo(ours[:, 1:], advantages(rewards, alive), alive).mean()
        return loss + settings.kl_weight * kl, sums | {"learned": 1, "loss": loss, "kl": kl}

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Means over the steps; loss and divergence over those that had something to learn from."""
        lists = {name: sums[name] / sums["steps"] for name in ("reward", "hit_share", "skipped_share")}
        return lists | {name: sums[name] / max(1, sums["learned"]) for name in ("loss", "kl")}

    def validate(self, rows: Sequence[Row]) -> Mapping[str, Any]:
        """Figures of both halves; `selection` is the first half's, where the other half confirms it."""
        first, second = (half(self._lm) for half in self._halves)
        figures = {name: (first[name] + second[name]) / 2 for name in first if name.startswith("valid_")}
        confirmed = not rows or second["selection"] > rows[0]["confirmed_on"]
        return {
            **figures,
            "chosen_on": first["selection"],
            "confirmed_on": second["selection"],
            "selection": first["selection"] if confirmed else None,
        }


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

    def make(self, lm: LanguageModel, step: int) -> tuple[list[list[int]], NDArray[np.int32], NDArray[np.int32]]:
        """Prompts, targets [B] and lists [B, M] (-1 pads); what is drawn depends on the seed and the step alone."""
        rng = np.random.default_rng((self._seed, 7, step))
        drawn = rng.choice(self._histories.subjects, size=self._settings.histories)
        cuts = [self._histories.cut(int(subject), rng) for subject in drawn]
        prompts = [lm.vocabulary.prompt(self.codes[before]) for before, _ in cuts]
        filters = [self._everything.deny(before) for before, _ in cuts] if self._exclude_seen else None
        k = self._settings.items
        found = beam_search(
            lm.scorer(), self._trie, prompts, beams=self._beams, k=k, filters=filters, token_budget=8192
        )
        return prompts, np.array([target for _, target in cuts], dtype=np.int32), found.rows


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
