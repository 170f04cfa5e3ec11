"""`make chaos`, for some seconds: it says what it does, and verifies."""

import re

import pytest

from tests.cluster import chaos
from tests.cluster.stack import Cluster


async def test_it_strikes_and_verifies(cluster: Cluster, capsys: pytest.CaptureFixture[str]):
    assert await chaos.run(cluster, minutes=0.05, seed=5) >= chaos.CLIENTS
    said = capsys.readouterr().out
    assert re.search(r"^ +\d+\.\d s  (kill -9|stop|freeze|cut off) \S+, for \d\.\d s$", said, re.MULTILINE)
    assert re.search(r"^right: \d+ recordings of \d+ acknowledged chunks", said, re.MULTILINE)
