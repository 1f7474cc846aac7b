"""The prompts of all classes as one tree: what causal attention lets them share, and who attends to whom.

With causal attention a position depends only on what stands before it, so two prompts that begin alike are the same up to
where they part. The tree has one node for each distinct beginning; a class's feature is read at its EOS node. Nothing here
knows weights: this is index arithmetic, done once a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Attention:
    """Queries grouped so that each group looks at few keys; padded to equal sizes.

    `queries` (G·S,): which of the wanted rows, in ascending order; 0 where padded. `keys` (G·T,): the rows of each group's
    keys, of which the first is always [SOS] and no row; 0 there and where padded. `slots`: the place of each wanted row, in
    ascending order, among the G·S queries. `mask` (G, 1, S, T) float32: 0 where a query may look, −inf elsewhere. `links`:
    pairs of query and key, padding not counted.
    """

    queries: Tensor
    keys: Tensor
    slots: Tensor
    mask: Tensor
    groups: int
    links: int

    def to(self, device: torch.device) -> Attention:
        moved = (tensor.to(device) for tensor in (self.queries, self.keys, self.slots, self.mask))
        return Attention(*moved, self.groups, self.links)


@dataclass(frozen=True)
class PromptTree:
    """Rows of one query: first the `tokens` (n,) at `positions` (n,), then the context tokens, `contexts` rows of n_ctx each.

    `rows`: attention of every row. `leaves`: attention of the EOS rows alone, for the last layer. `leaf_of_class` (K,): which
    leaf a class is read at.
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
    """`suffixes`: for each class the token ids behind the context, EOS included. `class_specific`: a context a class.

    With contexts of their own, classes share nothing but [SOS]. `group_size`: most queries in an attention group.
    """
    tokens, positions, parents = [], [], []
    node_of: dict[tuple, int] = {}
    ends = []
    # in lexicographic order the rows of a group are near each other in the tree, so a group has few keys
    for k in sorted(range(len(suffixes)), key=lambda k: tuple(suffixes[k])):
        key: tuple = (k,) if class_specific else ()
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
    # a class's own context belongs beside its tokens; a shared one is everybody's
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


def group_attention(wanted: Sequence[int], chains: Sequence[Sequence[int]], group_size: int) -> Attention:
    """Groups of equal size over the rows `wanted`; row i looks at [SOS] and at chains[i], which ends in i itself.

    `wanted` orders the queries; neighbors in it should look at the same keys.
    """
    groups = -(-len(wanted) // group_size)
    size = -(-len(wanted) // groups)
    parts = [wanted[i : i + size] for i in range(0, len(wanted), size)]
    keys = [sorted({link for row in part for link in chains[row]}) for part in parts]
    width = 1 + max(map(len, keys))
    queries = torch.zeros(len(parts), size, dtype=torch.long)
    padded_keys = torch.zeros(len(parts), width, dtype=torch.long)
    mask = torch.full((len(parts), 1, size, width), float("-inf"))
    # every query, padded or not, may look at [SOS]: a row of −inf alone would be not a number
    mask[..., 0] = 0.0
    rank = {row: i for i, row in enumerate(sorted(wanted))}
    slots = torch.empty(len(wanted), dtype=torch.long)
    for g, (part, seen) in enumerate(zip(parts, keys, strict=True)):
        column = {key: 1 + t for t, key in enumerate(seen)}
        queries[g, : len(part)] = torch.tensor([rank[row] for row in part])
        padded_keys[g, 1 : 1 + len(seen)] = torch.tensor(seen)
        for s, row in enumerate(part):
            slots[rank[row]] = g * size + s
            mask[g, 0, s, [column[link] for link in chains[row]]] = 0.0
    links = sum(1 + len(chains[row]) for row in wanted)
    return Attention(queries.flatten(), padded_keys.flatten(), slots, mask, len(parts), links)
