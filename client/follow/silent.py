"""Determine which clients have not answered in a round, as far as FEDn's data allow."""

from __future__ import annotations

from dataclasses import dataclass

from fedn_partial.client.follow.poller import Round

MAX_NAMES = 10  # clients listed by name in a round


@dataclass(frozen=True)
class Silent:
    """The clients of a round that received a request and have not answered.

    Attributes
    ----------
    count : number of these clients.
    names : {FEDn's id: name} of the candidates. They outnumber `count` if FEDn sent requests to a part of the online
        clients only, as it does not report to which.
    reasons : {FEDn's id: status}, such as "offline; last seen in round 5".
    """

    count: int
    names: dict[str, str]
    reasons: dict[str, str]

    def lines(self, seconds: float) -> list[str]:
        """Return one line per client; `seconds` is the duration of the round."""
        if not self.count:
            return []
        silence = f"no answer after {seconds:.0f} s"
        names = [f"{name}{self._bracket(id)}" for id, name in self.names.items()]
        if len(names) > self.count:
            return [f"{_clients(self.count)}  {silence}, of these: {shortened(names)}"]
        lines = [f"{name}  {silence}{self._bracket(id)}" for id, name in list(self.names.items())[:MAX_NAMES]]
        unnamed = self.count - len(lines)
        return lines + [f"{_clients(unnamed)} more  {silence}"] * (unnamed > 0)

    def summary(self) -> str:
        """Return the clients still awaited as one line, or "" if there are none."""
        if not self.count:
            return ""
        names = [f"{name}{self._bracket(id)}" for id, name in self.names.items()]
        if not names or len(names) > self.count:
            return f"waiting for {_clients(self.count)}" + (f" of {shortened(names)}" if names else "")
        return f"waiting for {shortened(names)}"

    def _bracket(self, id: str) -> str:
        return f" ({self.reasons[id]})" if self.reasons[id] else ""


def silent(round_: Round, earlier: list[Round], online: dict[str, str], clients_per_round: int | None) -> Silent:
    """Return the clients that have not answered in `round_`.

    Answers are expected from the clients that were online at the start of the round and those of `earlier` rounds, up
    to the number of requests that FEDn reports.

    Parameters
    ----------
    earlier : earlier rounds of the session.
    online : {FEDn's id: name} of the clients that are online now.
    """
    last_seen = {id: other.number for other in earlier for id in other.ids}
    earlier_names = {id: other.rows[name].client for other in earlier for id, name in other.ids.items()}
    requested = round_.expected
    if requested is None:  # FEDn reports it at the end of a round, unless the round could not start
        requested = (
            0
            if round_.over and round_.status != "Terminated"
            else min(len(round_.online), clients_per_round or len(round_.online))
        )
    answered = round_.ids.keys() & (round_.online.keys() | earlier_names.keys())
    count = max(0, requested - len(answered))
    names = {id: name for id, name in round_.online.items() if id not in round_.ids}
    if len(names) < count:  # a client that was restarted has a new id
        names |= {id: name for id, name in earlier_names.items() if id not in round_.ids and name not in round_.rows}
    reasons = {}
    for id in names:
        offline = [] if id in online else ["offline"]
        last_answer = [f"last seen in round {last_seen[id]}"] if last_seen.get(id) is not None else []
        reasons[id] = "; ".join(offline + last_answer)
    return Silent(count, names, reasons)


def shortened(names: list[str]) -> str:
    """Return names joined by commas, limited to MAX_NAMES."""
    more = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def _clients(count: int) -> str:
    return f"{count} client{'s' * (count != 1)}"
