"""`JointModel`: a causal language model, the rows of the SID tokens, item vectors at its input, and the dense item
head, with one loss over all of them.

The rows of the SID tokens are parameters of their own beside the LM's embedding matrix. So the level softmax reads just
its rows, a LoRA run trains them while every other row stays equal to the bit, and `export` writes them into a matrix of
the right size, tied or not.

Shapes: B rows, T tokens, H hidden width, M targets, R SID tokens (the history token, then every level's codes).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from genrec.decoding.item_input import ItemInput
from genrec.decoding.node_scores import NodeScores
from genrec.decoding.vocabulary import SidVocabulary
from genrec.ranking.dense_head import DenseHead
from genrec.semtok.dropout import dropout
from genrec.semtok.errors import InputError
from genrec.training.lm.catalogue_loss import CatalogueTargets, catalogue_loss
from genrec.training.lm.config import ScoreSpace
from genrec.training.lm.data import IGNORE, Batch
from genrec.training.lm.teacher import TeacherTargets
from genrec.training.loop.losses import linear_cross_entropy
from genrec.training.sequential.sampled_softmax import draw, places_in, sampled_softmax

ID_ONLY_ROWS = 0.1  # share of training rows whose items are all read by codes alone, as transformers reads them
ID_ONLY_ITEMS = 0.2  # and of the items of the other rows


@dataclass(frozen=True)
class Losses:
    """Sums over targets, and how many there were.

    Attributes:
        items: of nodes and, by its weight, the dense head, which are figures of it without a gradient.
    """

    codes: Tensor
    items: Tensor
    text: Tensor
    nodes: Tensor
    dense: Tensor
    n_items: int
    n_text: int


class JointModel(nn.Module):
    """The module that is trained.

    Args:
        lm: the base model; its matrix may have rows for the SID tokens or not.
        head: the dense item head.
        vocabulary: ids of the SID tokens; they must be the last ones of the tokenizer, in order.
        initial_rows: [R, H] initial embedding of the SID tokens.
        item_input: what item vectors add to embeddings; None: items are read by their codes alone.
        score_space: what the softmax over a code runs over.
        dropout: on embeddings and on what attention and feed-forward blocks add; for small models trained from scratch.
        nodes: scores of the trie's nodes by the items below them, by which codes are generated; None: by codes alone.
            The codes' own loss stays, for what reads the LM without item vectors.
    """

    level_of: Tensor
    seen_rows: Tensor
    seen_index: Tensor
    probability: Tensor | None

    def __init__(
        self,
        lm: PreTrainedModel,
        head: DenseHead,
        vocabulary: SidVocabulary,
        initial_rows: Tensor,
        *,
        item_input: ItemInput | None = None,
        score_space: ScoreSpace = "level",
        dropout: float = 0.0,
        nodes: NodeScores | None = None,
    ) -> None:
        super().__init__()
        self.item_input, self.nodes = item_input, nodes
        self.dense_weight = 1.0  # of the dense head's loss; 0: nothing is computed for it
        self.lm, self.head, self.score_space, self.dropout = lm, head, score_space, dropout
        self._no_split_modules = lm._no_split_modules  # the blocks that FSDP2 gathers one at a time
        ids = np.concatenate([[vocabulary.history_token], *vocabulary.token_ids])
        self.first = int(ids[0])
        if not np.array_equal(ids, np.arange(self.first, self.first + len(ids))):
            raise InputError("the tokenizer already has some of the SID tokens; use a base model that has none")
        self.rows = nn.Parameter(initial_rows.clone())
        tied = lm.get_output_embeddings().weight is lm.get_input_embeddings().weight
        self.output_rows = None if tied else nn.Parameter(initial_rows.clone())
        bounds = np.cumsum([1, *vocabulary.sizes])
        self.level_rows = [slice(int(a), int(b)) for a, b in itertools.pairwise(bounds)]
        level_of = torch.full((len(ids),), -1)
        for level, rows in enumerate(self.level_rows):
            level_of[rows] = level
        seen_rows = head.seen.nonzero().squeeze(1)
        seen_index = torch.full((len(head.seen),), -1)
        seen_index[seen_rows] = torch.arange(len(seen_rows))
        for name, value in {"level_of": level_of, "seen_rows": seen_rows, "seen_index": seen_index}.items():
            self.register_buffer(name, value, persistent=False)
        # Of each seen item, to be in the sample of the dense head's softmax; None: that runs over all of them.
        self.register_buffer("probability", None, persistent=False)
        self._embedding_scale = float(getattr(lm.get_input_embeddings(), "embed_scale", 1.0))
        if dropout:
            self._drop_residuals()

    def _drop_residuals(self) -> None:
        """Dropout where SASRec has it: Hugging Face decoders drop attention weights at most."""
        blocks = [m for name, m in self.lm.named_modules() if name.rsplit(".", 1)[-1] in ("self_attn", "attn", "mlp")]
        if not blocks:
            raise InputError("--lm.dropout: this base model's blocks are not named self_attn, attn or mlp; use 0")
        for block in blocks:
            block.register_forward_hook(self._dropped)

    def _dropped(self, module: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> object:
        if isinstance(output, tuple):
            return (dropout(output[0], self.dropout, self.training), *output[1:])
        return dropout(output, self.dropout, self.training)

    def hidden(self, input_ids: Tensor) -> Tensor:
        """Final hidden states [B, T, H]."""
        index = (input_ids - self.first).clamp(min=0)
        is_sid = (input_ids >= self.first)[..., None]
        words = self.lm.get_input_embeddings()(input_ids.clamp(max=self.first - 1))
        embedded = torch.where(is_sid, F.embedding(index, self.rows).to(words.dtype) * self._embedding_scale, words)
        if self.item_input is not None:
            items = self.item_input.rows(input_ids)
            if self.training:
                id_only_rows = torch.rand(len(items), 1, device=items.device) < ID_ONLY_ROWS
                id_only_items = torch.rand(items.shape, device=items.device) < ID_ONLY_ITEMS
                items = items.masked_fill(id_only_rows | id_only_items, -1)
            embedded = self.item_input(embedded, items)
        embedded = dropout(embedded, self.dropout, self.training)
        return self.lm.base_model(inputs_embeds=embedded, use_cache=False).last_hidden_state

    def forward(self, batch: Batch, soft: TeacherTargets | None = None) -> Losses:
        """Losses: codes over their score space, text over the text rows, items over those seen in training.

        Args:
            soft: what a teacher gives for the batch's targets.
        """
        hidden = self.hidden(batch.input_ids)
        output_rows = self.rows if self.output_rows is None else self.output_rows
        words = self.lm.get_output_embeddings().weight
        labels, labelled = batch.labels, batch.labels != IGNORE
        level = torch.where(labels >= self.first, self.level_of[(labels - self.first).clamp(min=0)], -1)
        codes = hidden.new_zeros((), dtype=torch.float32)
        if self.score_space == "vocabulary":
            is_code = labelled & (level >= 0)
            everything = torch.cat([words[: self.first], output_rows.to(words.dtype)])
            codes = codes + linear_cross_entropy(hidden[is_code], everything, labels[is_code])
        else:
            for number, rows in enumerate(self.level_rows):
                here = labelled & (level == number)
                codes = codes + linear_cross_entropy(
                    hidden[here], output_rows[rows].to(hidden.dtype), labels[here] - self.first - rows.start
                )
        if soft is not None:
            codes = codes - self._agreement(hidden, output_rows, batch.items, soft)
        is_text = labelled & (level < 0)
        text = linear_cross_entropy(hidden[is_text], words[: self.first], labels[is_text])
        nodes, dense, of_items = self._items(hidden, batch.items, soft)
        n_codes = int((labelled & (level >= 0)).sum())
        return Losses(codes, of_items, text, nodes, dense, n_codes // len(self.level_rows), int(is_text.sum()))

    def _items(self, hidden: Tensor, items: Tensor, soft: TeacherTargets | None) -> tuple[Tensor, Tensor, Tensor]:
        """Losses of node vectors and of the dense head, and the two with their gradient.

        Args:
            items: int64 [B, T], see `Batch`.
        """
        nodes = dense = hidden.new_zeros((), dtype=torch.float32)
        if self.nodes is None and not self.dense_weight:
            return nodes, dense, nodes
        rows, places = (items >= 0).nonzero(as_tuple=True)
        query, targets = self._query(hidden[rows, places]), items[rows, places]
        total = nodes
        if self.nodes is not None:
            order, positions, codes = self.nodes.order, self.nodes.position[targets], self.nodes.codes[0]
            vectors, beyond = self.head.item_matrix()[order], None if soft is None else soft.codes[0]
            wanted = CatalogueTargets(
                positions=positions,
                codes=codes,
                first_codes=CatalogueTargets.first(codes, positions, self.nodes.sizes[0], beyond),
                unseen=(~self.head.seen[order]).nonzero().squeeze(1),
                dense_weight=self.dense_weight if self.probability is None else 0.0,
                soft=None if soft is None else soft.positions,
            )
            first, nodes, dense = catalogue_loss(query, vectors, wanted)
            further = self._further_codes(self.nodes, hidden, (rows, places), query, vectors, targets, soft)
            total, nodes = first + further, nodes + further.detach()
        if self.dense_weight and (self.nodes is None or self.probability is not None):
            loss = self._dense(query, targets, soft)
            total, dense = total + self.dense_weight * loss, loss.detach()
        return nodes, dense, total

    def _dense(self, query: Tensor, targets: Tensor, soft: TeacherTargets | None) -> Tensor:
        """Loss [] of the dense head's queries [M, D] against the items that were seen, or a sample of them."""
        if self.probability is None:
            items = None if soft is None else soft.items
            return linear_cross_entropy(
                query, self.head.item_matrix(self.seen_rows), self.seen_index[targets], soft=items
            )
        drawn = draw(self.probability)
        rows = self.seen_rows[drawn.rows]
        used = torch.unique(torch.cat([targets, rows]))
        vectors, drawn = self.head.item_matrix(used), drawn._replace(rows=places_in(used, rows))
        return sampled_softmax(query, vectors, places_in(used, targets), drawn)

    def _query(self, hidden: Tensor) -> Tensor:
        """The dense head's query, in float32 or what FSDP2 computes in."""
        return self.head.query(hidden.to(self.head.query.weight.dtype))

    def _further_codes(
        self,
        nodes: NodeScores,
        hidden: Tensor,
        at: tuple[Tensor, Tensor],
        first: Tensor,
        vectors: Tensor,
        targets: Tensor,
        soft: TeacherTargets | None,
    ) -> Tensor:
        """Cross-entropy over the children of the nodes on the way to each target, from the second level on.

        Args:
            at: rows and places [M] of the hidden states before each target's codes.
            first: [M, D], the dense head's queries there.
        """
        total = hidden.new_zeros((), dtype=torch.float32)
        positions = nodes.position[targets]
        for level in range(1, len(nodes.sizes)):
            query = nodes.query(level, first, hidden[at[0], at[1] + level])
            log_probs = nodes(query, vectors, level, nodes.nodes(level, targets))
            total = total - log_probs.gather(1, nodes.codes[level][positions, None]).sum()
            if soft is not None:  # what it adds to a one-hot target
                total = total - (soft.codes[level] * log_probs).sum()
        return total

    def _agreement(self, hidden: Tensor, output_rows: Tensor, items: Tensor, soft: TeacherTargets) -> Tensor:
        """What turns cross-entropy with the codes that came into cross-entropy with the teacher's targets.

        log Z - sum_c t_c z_c = (log Z - z_y) - sum_c (t_c - [c = y]) z_c, whatever Z runs over.
        """
        rows, places = (items >= 0).nonzero(as_tuple=True)
        total = hidden.new_zeros((), dtype=torch.float32)
        for level, beyond in enumerate(soft.codes):
            logits = hidden[rows, places + level] @ output_rows[self.level_rows[level]].to(hidden.dtype).T
            total = total + (beyond * logits.float()).sum()
        return total

    @torch.no_grad()
    def export(self) -> PreTrainedModel:
        """Write the SID token embeddings into the LM's matrices, resized where too small, and return the LM."""
        rows = self.first + len(self.rows)
        if self.lm.get_input_embeddings().weight.shape[0] < rows:
            self.lm.resize_token_embeddings(rows, mean_resizing=False)
        self.lm.get_input_embeddings().weight[self.first : rows] = self.rows.to(self.lm.dtype)
        if self.output_rows is not None:
            self.lm.get_output_embeddings().weight[self.first : rows] = self.output_rows.to(self.lm.dtype)
        return self.lm
