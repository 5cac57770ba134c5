"""Which client gets which examples: lists of index arrays, equal for equal seeds on every machine."""

from __future__ import annotations

import numpy as np

from fedn_partial.errors import DataError

MINIMUM = 10  # examples that Dirichlet's distribution leaves a client at least, or a tenth of an even share if fewer
DRAWS = 1000


def iid(examples: int, clients: int, random: np.random.Generator) -> list[np.ndarray]:
    """Deal examples 0 to `examples` - 1 at random, in parts that differ by 1 at most.

    Raises
    ------
    DataError : fewer examples than clients.
    """
    _check_enough(examples, clients)
    return np.array_split(random.permutation(examples), clients)


def _check_enough(examples: int, clients: int) -> None:
    if examples < clients:
        raise DataError(f"{examples} examples are too few for {clients} clients")


def dirichlet(y: np.ndarray, clients: int, alpha: float, random: np.random.Generator) -> list[np.ndarray]:
    """Deal the examples of each class in proportions drawn from a symmetric Dirichlet distribution.

    The smaller `alpha`, the fewer classes a client has. Drawn by class (Yurochkin et al. 2019; NIID-Bench, Li et
    al. 2022), so clients differ in size too; Hsu et al. 2019, who brought Dirichlet's distribution into use here, draw
    by client and keep sizes equal. Everything is drawn again until each client has `MINIMUM` examples, or a tenth of an
    even share if that is fewer.

    Raises
    ------
    DataError : fewer examples than clients, or `DRAWS` draws left some client with fewer than that.
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
            f"partition dirichlet:{alpha:g}: in {DRAWS} draws of {len(y)} examples for {clients} clients some client "
            f"was always left with fewer than {minimum}; take a larger alpha, fewer clients or more examples"
        )
    parts = [np.split(random.permutation(member), end[:-1]) for member, end in zip(members, ends, strict=True)]
    return [random.permutation(np.concatenate(part)) for part in zip(*parts, strict=True)]


def natural(sizes: list[int], clients: int) -> list[list[int]]:
    """Group owners, who have `sizes` examples, to clients as evenly as a greedy choice can: the largest first.

    Returns
    -------
    The owners of each client; the first client has the first owner, the second the first of the others, and so on.

    Raises
    ------
    DataError : more clients than owners.
    """
    if clients > len(sizes):
        raise DataError(
            f"partition natural: {clients} clients, but the data have {len(sizes)} owners; at most so many clients"
        )
    groups: list[list[int]] = [[] for _ in range(clients)]
    for owner in sorted(range(len(sizes)), key=lambda owner: (-sizes[owner], owner)):
        min(groups, key=lambda group: sum(sizes[member] for member in group)).append(owner)
    return sorted(sorted(group) for group in groups)
