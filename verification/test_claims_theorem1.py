"""Theorem 1, Remark 1, Eq. 4 and Q-functions: how far an extended value can be off."""

from __future__ import annotations

from dmpo_theory.claims import theorem1
from verification.referee import examine

test_claim, test_claim_widely = examine(theorem1.CLAIMS)
