"""Read a FEDn list that grows between reads.

FEDn assigns the date of a row before it inserts the row, from several threads. New rows can therefore appear between
rows that were read earlier.
"""

from __future__ import annotations

from fedn_partial.client.fedn_api.api import Api

OVERLAP = 20  # newest known rows to read again, as most rows inserted late are among them
PAGE = 200  # rows per request


class Listing:
    """Reader that returns each row of a FEDn list once.

    Parameters
    ----------
    path, params : URL path and query parameters of the list.
    key : name of the column that identifies a row.
    """

    def __init__(self, api: Api, path: str, params: dict, key: str):
        self.api, self.path, self.params, self.key = api, path, params, key
        self._ids: set[str] = set()

    def new(self) -> list[dict]:
        """Return the rows not returned before, oldest first (raises ApiError).

        Pages are read from the newest row backwards until the number of rows equals FEDn's count.
        """
        count = self.api.get(self.path, params=self.params, limit=1, order="desc")["count"]
        limit = min(count - len(self._ids) + OVERLAP, PAGE)
        new, offset = {}, 0
        while len(self._ids) + len(new) < count:
            page = self.api.get(self.path, params=self.params, limit=limit, order="desc", skip=offset)["result"]
            new |= {row[self.key]: row for row in page if row[self.key] not in self._ids}
            offset += len(page)
            if len(page) < limit:
                break
        self._ids |= new.keys()
        return list(new.values())[::-1]
