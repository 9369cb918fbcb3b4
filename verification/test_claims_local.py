"""Bounds from local quantities: Dobrushin coefficients, their gradient form, the envelope."""

from __future__ import annotations

from dmpo_theory.claims import local
from verification.referee import examine

test_claim, test_claim_widely = examine(local.CLAIMS)
