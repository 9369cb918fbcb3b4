"""What several test files start from."""

import pytest


@pytest.fixture(scope="module", params=["dmpo", "dppo"])
def finished(request, tmp_path_factory):
    """A small finished run."""
    from tests.deep.runs import small

    return request.param, small(request.param, tmp_path_factory.mktemp("runs") / "whole")
