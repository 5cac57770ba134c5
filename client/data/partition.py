"""Partition examples over clients: lists of index arrays, the same for a seed on every machine."""

from __future__ import annotations

import numpy as np

from fedn_partial.errors import DataError

MINIMUM = 10  # examples of a client in a Dirichlet partition, or a tenth of an even share if that is fewer
DRAWS = 1000


def iid(examples: int, clients: int, random: np.random.Generator) -> list[np.ndarray]:
    """Distribute examples 0 to `examples` - 1 uniformly at random, in parts whose sizes differ by at most one.

    Raises
    ------
    DataError : there are fewer examples than clients.
    """
    _check_enough(examples, clients)
    return np.array_split(random.permutation(examples), clients)


def _check_enough(examples: int, clients: int) -> None:
    if examples < clients:
        raise DataError(f"{examples} examples are too few for {clients} clients")


def dirichlet(y: np.ndarray, clients: int, alpha: float, random: np.random.Generator) -> list[np.ndarray]:
    """Distribute the examples of each class in proportions drawn from a symmetric Dirichlet distribution.

    A smaller `alpha` gives a client fewer classes. Proportions are drawn by class (Yurochkin et al. 2019; NIID-Bench,
    Li et al. 2022), so that sizes differ too; Hsu et al. 2019 draw by client and keep sizes equal. The draw is repeated
    until each client has `MINIMUM` examples, or a tenth of an even share if that is fewer.

    Raises
    ------
    DataError : there are fewer examples than clients, or no draw of `DRAWS` gave every client the minimum.
    """
    _check_enough(len(y), clients)
    members = [np.flatnonzero(y == number) for number in np.unique(y)]
    sizes = np.array([len(member) for member in members])
    minimum = max(1, min(MINIMUM, len(y) // (10 * clients)))
    for _ in range(DRAWS):
        shares = random.dirichlet(np.full(clients, alpha), len(members))
        ends = np.rint(np.cumsum(shares, axis=1) * sizes[:, np.newaxis]).astype(int)
        if np.diff(ends, axis=1, prepend=0).sum(axis=0).min() >= minimum:
            break
    else:
        raise DataError(
            f"partition dirichlet:{alpha:g}: none of {DRAWS} draws of {len(y)} examples gave each of {clients} clients "
            f"{minimum}; use a larger alpha, fewer clients or more examples"
        )
    parts = [np.split(random.permutation(member), end[:-1]) for member, end in zip(members, ends, strict=True)]
    return [random.permutation(np.concatenate(part)) for part in zip(*parts, strict=True)]


def natural(sizes: list[int], clients: int) -> list[list[int]]:
    """Assign owners with `sizes` examples to clients evenly: the largest first, to the client with fewest examples.

    Returns
    -------
    The owners of each client, sorted by the first owner of each.

    Raises
    ------
    DataError : there are more clients than owners.
    """
    if clients > len(sizes):
        raise DataError(
            f"partition natural: {clients} clients are more than the {len(sizes)} owners in the data; use fewer clients"
        )
    groups: list[list[int]] = [[] for _ in range(clients)]
    for owner in sorted(range(len(sizes)), key=lambda owner: (-sizes[owner], owner)):
        min(groups, key=lambda group: sum(sizes[member] for member in group)).append(owner)
    return sorted(sorted(group) for group in groups)
