"""Reads a list of FEDn that grows while it is read.

FEDn dates a row before it inserts it, from many threads, so that rows also appear among those that were read before.
"""

from __future__ import annotations

from fedn_partial.client.fedn_api.api import Api

OVERLAP = 20  # rows that are read again: most that come late belong among the newest
PAGE = 200  # rows


class Listing:
    """The rows of one of FEDn's lists, each of them once.

    Parameters
    ----------
    path, params : of the list. key : name of a row's id.
    """

    def __init__(self, api: Api, path: str, params: dict, key: str):
        self.api, self.path, self.params, self.key = api, path, params, key
        self._ids: set[str] = set()

    def new(self) -> list[dict]:
        """Return the rows that were not returned before, the oldest first (raises ApiError).

        FEDn's count says how many are missing; the newest rows are read, and older ones until none is.
        """
        count = self.api.get(self.path, params=self.params, limit=1, order="desc")["count"]
        limit = min(count - len(self._ids) + OVERLAP, PAGE)
        new, position = {}, 0
        while len(self._ids) + len(new) < count:
            page = self.api.get(self.path, params=self.params, limit=limit, order="desc", skip=position)["result"]
            new |= {row[self.key]: row for row in page if row[self.key] not in self._ids}
            position += len(page)
            if len(page) < limit:
                break
        self._ids |= new.keys()
        return list(new.values())[::-1]
