"""The ledger: every claim of the paper, and about it, with a check that computes its verdict.

To add a claim of one's own: write a function of a :class:`~dmpo_theory.claims.record.Scope` that returns a
:class:`~dmpo_theory.claims.record.Finding`, and add a :class:`~dmpo_theory.claims.record.Claim` to the ``CLAIMS`` of
the file it belongs to. A check compares errors with bounds; it never sees the verdict that is expected of it.
"""

from __future__ import annotations

from dmpo_theory.claims import critic, local, model, ppo, theorem1, theorem2
from dmpo_theory.claims.record import Claim

CLAIMS: dict[str, Claim] = {
    claim.id: claim for group in (theorem1, theorem2, local, critic, model, ppo) for claim in group.CLAIMS
}
"""Every claim by id."""

__all__ = ["CLAIMS"]
