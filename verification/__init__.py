"""The proof artefact: every claim held against exact answers, run with `pytest verification/`."""
