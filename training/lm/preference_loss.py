"""Losses of preference optimisation over the lists that the model's own beam search makes.

A list's wrong items are the negatives that matter: the model itself takes them for likely. Two ways to learn from them:
a softmax over several negatives (S-DPO), and group-relative policy optimisation with rewards for hit and rank.

Shapes: B histories, M items of a list, L levels, V_l codes on level l, T tokens of the longest row, H hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from genrec.decoding.vocabulary import SidVocabulary
from genrec.training.lm.joint_model import JointModel


def softmax_dpo(chosen: Tensor, rejected: Tensor, alive: Tensor, beta: float) -> Tensor:
    """S-DPO: -log sigmoid(-log sum_d exp(beta (r_d - r_p))) with r = log pi - log pi_ref (Chen et al. 2024,
    arXiv 2406.09215, equation 11).

    Args:
        chosen: [B] log-ratios r_p of the targets.
        rejected: [B, M] log-ratios r_d of the wrong items.
        alive: bool [B, M], places that hold a wrong item; a row without one has loss 0.

    Returns:
        [B].
    """
    margins = (beta * (rejected - chosen[:, None])).masked_fill(~alive, -torch.inf)
    some = alive.any(dim=1)
    total = torch.where(some[:, None], margins, 0.0).logsumexp(dim=1)
    return torch.where(some, F.softplus(total), 0.0)


def list_rewards(hit: Tensor, alive: Tensor, rank_weight: float) -> Tensor:
    """Rewards of a list [B, M], best rank first (MiniOneRec, Kong et al. 2025, arXiv 2510.24431, section 3.3).

    1 for the hit; for a wrong item on rank k, -rank_weight (1 / log2(k + 1)) / (sum over the wrong items), so that a
    confident mistake costs more. A list without the hit has no order to learn: all 0.

    Args:
        hit: bool [B, M].
        alive: bool [B, M], places that hold an item.
    """
    ranks = torch.arange(1, hit.shape[1] + 1, device=hit.device, dtype=torch.float32)
    blame = torch.where(alive & ~hit, 1 / torch.log2(ranks + 1), 0.0)
    blame = blame / blame.sum(dim=1, keepdim=True).clamp(min=1e-12)
    return torch.where(hit.any(dim=1, keepdim=True), hit.float() - rank_weight * blame, 0.0)


def advantages(rewards: Tensor, alive: Tensor) -> Tensor:
    """(r - mean) / standard deviation over the living items of a list [B, M]; 0 where all rewards are equal.

    Shao et al. 2024 (DeepSeekMath, arXiv 2402.03300), section 4.1.2.
    """
    count = alive.sum(dim=1, keepdim=True).clamp(min=1)
    centred = torch.where(alive, rewards - torch.where(alive, rewards, 0.0).sum(1, keepdim=True) / count, 0.0)
    spread = (centred.square().sum(dim=1, keepdim=True) / count).sqrt()
    return torch.where(spread > 1e-6, centred / spread.clamp(min=1e-6), 0.0)


def grpo(log_probs: Tensor, advantage: Tensor, alive: Tensor) -> Tensor:
    """-(1/M) sum_i (1/L) sum_t ratio_it A_i, the ratio to the model that made the list (DeepSeekMath, equation 3).

    Each list serves one step, so the ratio is 1 in value, carries the gradient, and never meets the clip of the paper.

    Args:
        log_probs: [B, M, L] of each code.
        advantage: [B, M].
        alive: bool [B, M].

    Returns:
        [B].
    """
    ratio = (log_probs - log_probs.detach()).exp().mean(dim=2)
    gain = torch.where(alive, ratio * advantage, 0.0)
    return -gain.sum(dim=1) / alive.sum(dim=1).clamp(min=1)


def divergence(policy: Sequence[Tensor], reference: Sequence[Tensor], alive: Tensor) -> Tensor:
    """KL(pi || pi_ref) of the next code, mean over the codes of the living items; a scalar.

    The whole distribution of a level is at hand, so this is exact where the estimator of DeepSeekMath's equation 4
    would be noisy, and biased on lists that a beam picked.

    Args:
        policy, reference: L tensors [B, M, V_l] of log-probabilities, normalised over the level or not.
        alive: bool [B, M].
    """
    levels = []
    for ours, theirs in zip(policy, reference, strict=True):
        ours, theirs = ours.log_softmax(-1), theirs.log_softmax(-1)
        levels.append((ours.exp() * (ours - theirs)).sum(-1))
    return torch.stack(levels).mean(dim=0)[alive].mean()


def code_log_probs(
    model: JointModel, vocabulary: SidVocabulary, prompts: Sequence[Sequence[int]], items: Tensor
) -> list[Tensor]:
    """Log-probabilities of every next code along the way to some items, as the search has them: L tensors [B, M, V_l].

    Args:
        prompts: B canonical prompts.
        items: int64 [B, M], catalogue rows.
    """
    codes = model.head.codes[items]
    n_users, n_items, n_levels = codes.shape
    device = codes.device
    tables = [torch.from_numpy(ids).to(device) for ids in vocabulary.token_ids]
    tokens = torch.stack([tables[level][codes[..., level]] for level in range(n_levels - 1)], dim=-1)
    rows = [
        torch.cat([torch.tensor(prompt, device=device).expand(n_items, -1), tokens[user]], dim=1)
        for user, prompt in enumerate(prompts)
    ]
    input_ids = pad_sequence([row for user in rows for row in user], batch_first=True)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device).repeat_interleave(n_items)
    places = lengths[:, None] - 1 + torch.arange(n_levels, device=device)
    hidden = model.hidden(input_ids).float()
    states = hidden[torch.arange(len(hidden), device=device)[:, None], places].view(n_users, n_items, n_levels, -1)
    if model.nodes is None:
        return [model.level_log_probs(states[:, :, level], level) for level in range(n_levels)]
    vectors, flat = model.head.item_matrix(model.nodes.order), states.flatten(0, 1)
    made = [
        model.node_log_probs(model.nodes, flat[:, level], vectors, level, items.flatten()) for level in range(n_levels)
    ]
    return [level.view(n_users, n_items, -1) for level in made]
