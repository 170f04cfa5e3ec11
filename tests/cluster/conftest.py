"""One cluster for all tests of this folder: starting it takes as long as many of them."""

import sys
from collections.abc import Iterator

import pytest

from tests.cluster.hosts import two_hosts
from tests.cluster.stack import Cluster


@pytest.fixture(scope="session")
def running_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with two_hosts() as hosts, Cluster(tmp_path_factory.mktemp("cluster"), hosts) as cluster:
        yield cluster


@pytest.fixture
def cluster(running_cluster: Cluster) -> Iterator[Cluster]:
    """Two web processes, two workers and a sweeper, all alive at the beginning of the test."""
    running_cluster.repair()
    yield running_cluster
    sys.stdout.write(running_cluster.logs())
