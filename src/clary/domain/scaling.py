"""How many workers, and for how long: decisions as pure functions of what was seen and what time it is."""

from __future__ import annotations

from collections.abc import Sequence

from clary.domain.routing import KeepAlive

COVERED_RATIO = 0.9  # of the gaps between requests that an adaptive keep-alive tries to outlast
GAPS_REMEMBERED = 64


def keep_alive_s(policy: KeepAlive, gaps_s: Sequence[float]) -> float:
    """How long a worker may stay idle before it is stopped.

    A fixed time is taken as it is. Otherwise: the shortest time that outlasts 90 % of the gaps seen lately, when that
    is at most `max_s`; when most gaps are longer, holding a worker would pay for silence, so it goes after `min_s`.
    Waking costs tens of milliseconds, so a wrong guess is cheap. (Shahrad et al., ATC 2020, without the pre-warming.)
    # gaps of 20 s: stays 22 s; gaps of an hour: goes after min_s; see test_keep_alive_follows_the_gaps
    """
    if policy.fixed_s is not None:
        return policy.fixed_s
    if not gaps_s:
        return policy.max_s if policy.max_s < policy.min_s else min(policy.max_s, 6 * policy.min_s)
    ordered = sorted(gaps_s)
    covering = ordered[min(int(COVERED_RATIO * len(ordered)), len(ordered) - 1)]
    if covering * 1.1 > policy.max_s:
        return policy.min_s
    return max(policy.min_s, covering * 1.1)
