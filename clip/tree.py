"""The prompts of all classes as one prefix tree: the tokens that causal attention lets them share, and the keys of each token.

With causal attention a position depends only on the positions before it, so two prompts have equal activations along their
common prefix. The tree has one node for each distinct prefix; a class's feature is taken from its [EOS] node. This module is
index arithmetic, done once per run; it involves no weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from utils.numbers import ceil_div


@dataclass(frozen=True)
class Attention:
    """Queries in G groups, each of which attends to few keys; padded to equal sizes.

    `queries` (G·S,): indices into the query rows, which are in ascending order; 0 for padding. `keys` (G·T,): the rows of each
    group's keys; the first key is always [SOS], which is not a row; 0 there and for padding. `slots`: the position of each query
    row among the G·S queries. `mask` (G, 1, S, T) float32: 0 if a query attends to a key, −inf otherwise. `links`: the number of
    such pairs without padding.
    """

    queries: Tensor
    keys: Tensor
    slots: Tensor
    mask: Tensor
    groups: int
    links: int

    def to(self, device: torch.device) -> Attention:
        queries, keys, slots, mask = (tensor.to(device) for tensor in (self.queries, self.keys, self.slots, self.mask))
        return Attention(queries, keys, slots, mask, self.groups, self.links)


@dataclass(frozen=True)
class PromptTree:
    """The nodes of one query, one row each: the `tokens` (n,) at `positions` (n,), then `contexts` times n_ctx context tokens.

    `rows`: attention of every row. `leaves`: attention of the [EOS] rows alone, for the last layer; `leaf_rows` are their rows.
    `leaf_of_class` (K,): the index of each class's leaf.
    """

    tokens: Tensor
    positions: Tensor
    n_ctx: int
    contexts: int
    rows: Attention
    leaves: Attention
    leaf_rows: Tensor
    leaf_of_class: Tensor

    def __len__(self) -> int:
        return len(self.tokens) + self.contexts * self.n_ctx


def build_tree(suffixes: Sequence[Sequence[int]], n_ctx: int, class_specific: bool, group_size: int = 64) -> PromptTree:
    """`suffixes`: for each class the token ids after the context, including [EOS]. `class_specific`: one context per class.

    Classes with their own contexts share only [SOS]. `group_size`: maximum number of queries in an attention group.
    """
    tokens: list[int] = []
    positions: list[int] = []
    parents: list[int] = []
    node_of: dict[tuple[int, ...], int] = {}
    ends = []
    # in lexicographic order the rows of a group are near each other in the tree, so a group has few keys
    for k in sorted(range(len(suffixes)), key=lambda k: tuple(suffixes[k])):
        key: tuple[int, ...] = (k,) if class_specific else ()
        parent = -1 - (k if class_specific else 0)
        for i, token in enumerate(suffixes[k]):
            key = (*key, token)
            if key not in node_of:
                node_of[key] = len(tokens)
                tokens.append(token)
                positions.append(1 + n_ctx + i)
                parents.append(parent)
            parent = node_of[key]
        ends.append((k, parent))

    n = len(tokens)
    chains: list[list[int]] = []
    for i, parent in enumerate(parents):
        if parent >= 0:
            chains.append([*chains[parent], i])
        else:
            first = n + (-1 - parent) * n_ctx
            chains.append([*range(first, first + n_ctx), i])
    contexts = len(suffixes) if class_specific else 1
    for c in range(contexts):
        first = n + c * n_ctx
        chains += [list(range(first, first + j + 1)) for j in range(n_ctx)]

    leaf_rows = sorted({row for _, row in ends})
    leaf_index = {row: i for i, row in enumerate(leaf_rows)}
    leaf_of_class = torch.empty(len(suffixes), dtype=torch.long)
    for k, row in ends:
        leaf_of_class[k] = leaf_index[row]
    # order a class's own context next to its tokens; a shared context is a key of every group anyway
    order = sorted(range(len(chains)), key=lambda row: chains[row]) if class_specific else range(len(chains))
    return PromptTree(
        torch.tensor(tokens),
        torch.tensor(positions),
        n_ctx,
        contexts,
        group_attention(order, chains, group_size),
        group_attention(leaf_rows, chains, group_size),
        torch.tensor(leaf_rows),
        leaf_of_class,
    )


def group_attention(query_rows: Sequence[int], chains: Sequence[Sequence[int]], group_size: int) -> Attention:
    """Groups of equal size over the rows `query_rows`; row i attends to [SOS] and to chains[i], which ends in i itself.

    Queries keep the order of `query_rows`, in which neighbors should attend to the same keys.
    """
    groups = ceil_div(len(query_rows), group_size)
    size = ceil_div(len(query_rows), groups)
    parts = [query_rows[i : i + size] for i in range(0, len(query_rows), size)]
    keys = [sorted({link for row in part for link in chains[row]}) for part in parts]
    width = 1 + max(map(len, keys))
    queries = torch.zeros(len(parts), size, dtype=torch.long)
    padded_keys = torch.zeros(len(parts), width, dtype=torch.long)
    mask = torch.full((len(parts), 1, size, width), float("-inf"))
    # every query, padded or not, attends to [SOS]: the softmax of a row of only −inf would be NaN
    mask[..., 0] = 0.0
    rank = {row: i for i, row in enumerate(sorted(query_rows))}
    slots = torch.empty(len(query_rows), dtype=torch.long)
    for g, (part, group_keys) in enumerate(zip(parts, keys, strict=True)):
        column = {key: 1 + t for t, key in enumerate(group_keys)}
        queries[g, : len(part)] = torch.tensor([rank[row] for row in part])
        padded_keys[g, 1 : 1 + len(group_keys)] = torch.tensor(group_keys)
        for s, row in enumerate(part):
            slots[rank[row]] = g * size + s
            mask[g, 0, s, [column[link] for link in chains[row]]] = 0.0
    links = sum(1 + len(chains[row]) for row in query_rows)
    return Attention(queries.flatten(), padded_keys.flatten(), slots, mask, len(parts), links)
