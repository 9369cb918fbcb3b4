"""Eqs. 6 and 7: what a bootstrapped, truncated critic converges to."""

from __future__ import annotations

from dmpo_theory.claims import critic
from verification.referee import examine

test_claim, test_claim_widely = examine(critic.CLAIMS)
