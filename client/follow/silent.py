"""Which clients of a round have not answered, as far as FEDn lets that be known."""

from __future__ import annotations

from dataclasses import dataclass

from fedn_partial.client.follow.poller import Round

MOST_NAMES = 10  # as many clients are named in a round


@dataclass(frozen=True)
class Silent:
    """The clients of a round that were asked and have not answered.

    Attributes
    ----------
    count : how many. names : {FEDn's id: name} of those that can be meant; more than `count` where FEDn asked only
        some of the clients that were online, and does not say which.
    reasons : {FEDn's id: what is known of it}, such as "offline; last seen in round 5".
    """

    count: int
    names: dict[str, str]
    reasons: dict[str, str]

    def sentences(self, seconds: float) -> list[str]:
        """Return a line for each of them; `seconds`: how long the round took."""
        if not self.count:
            return []
        silence = f"no answer after {seconds:.0f} s"
        names = [f"{name}{self._bracket(id)}" for id, name in self.names.items()]
        if len(names) > self.count:
            return [f"{_clients(self.count)}  {silence}, of these: {shortened(names)}"]
        lines = [f"{name}  {silence}{self._bracket(id)}" for id, name in list(self.names.items())[:MOST_NAMES]]
        unnamed = self.count - len(lines)
        return lines + [f"{_clients(unnamed)} more  {silence}"] * (unnamed > 0)

    def summary(self) -> str:
        """Return who is waited for in one line, "" if that is nobody."""
        if not self.count:
            return ""
        names = [f"{name}{self._bracket(id)}" for id, name in self.names.items()]
        if not names or len(names) > self.count:
            return f"waiting for {_clients(self.count)}" + (f" of {shortened(names)}" if names else "")
        return f"waiting for {shortened(names)}"

    def _bracket(self, id: str) -> str:
        return f" ({self.reasons[id]})" if self.reasons[id] else ""


def silent(round_: Round, earlier: list[Round], online: dict[str, str], clients_per_round: int | None) -> Silent:
    """Return which clients have not answered in `round_`.

    Expected are the clients that FEDn counted as online when the round began, and those of `earlier` rounds, no more
    of them than FEDn says that it asked.

    Parameters
    ----------
    earlier : rounds of the session before it. online : {FEDn's id: name} of the clients that are online now.
    """
    last_seen = {id: before.number for before in earlier for id in before.ids}
    earlier_names = {id: before.rows[name].client for before in earlier for id, name in before.ids.items()}
    requested = round_.expected
    if requested is None:  # FEDn says it at the end of a round, unless it could not begin
        requested = (
            0
            if round_.over and round_.status != "Terminated"
            else min(len(round_.online), clients_per_round or len(round_.online))
        )
    answered = round_.ids.keys() & (round_.online.keys() | earlier_names.keys())
    count = max(0, requested - len(answered))
    names = {id: name for id, name in round_.online.items() if id not in round_.ids}
    if len(names) < count:  # a client with a new id was started again
        names |= {id: name for id, name in earlier_names.items() if id not in round_.ids and name not in round_.rows}
    reasons = {}
    for id in names:
        offline = [] if id in online else ["offline"]
        seen = [f"last seen in round {last_seen[id]}"] if last_seen.get(id) is not None else []
        reasons[id] = "; ".join(offline + seen)
    return Silent(count, names, reasons)


def shortened(names: list[str]) -> str:
    """Return names joined by commas, at most MOST_NAMES of them."""
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _clients(count: int) -> str:
    return f"{count} client{'s' * (count != 1)}"
