"""Eq. 10: the entropy's sign, the surrogate, what clipping bounds."""

from __future__ import annotations

from dmpo_theory.claims import ppo
from verification.referee import examine

test_claim, test_claim_widely = examine(ppo.CLAIMS)
