"""`make chaos`, for some seconds: it says what it does, and compares; and what it compares with tells."""

import re

import pytest

from tests.cluster import chaos
from tests.cluster.stack import Cluster


async def test_it_strikes_and_compares(cluster: Cluster, capsys: pytest.CaptureFixture[str]):
    is_right = await chaos.run(cluster, seconds=4, seed=5)
    said = capsys.readouterr().out
    assert is_right, said
    assert re.search(r"^ +\d+\.\d s  (kill -9|stop|freeze|cut off) \S+, for \d\.\d s$", said, re.MULTILINE)
    compared = re.search(r"^compared: (\d+) recordings of (\d+) acknowledged chunks", said, re.MULTILINE)
    assert compared, said
    assert int(compared[1]) > 0
    assert int(compared[2]) > 0
