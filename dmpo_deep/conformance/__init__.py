"""Section VI-A's contract, held against an environment: one finding for each check, with index, value and remedy."""

from dmpo_deep.conformance.findings import Finding as Finding
from dmpo_deep.conformance.findings import examine as examine
