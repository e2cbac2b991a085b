"""One store for all tests of this folder, and a proxy before it for each."""

from __future__ import annotations

import pytest

from tests.remote.servers import Proxy, environment, store_server


@pytest.fixture(scope="session")
def server():
    with store_server() as port:
        yield port


@pytest.fixture
def proxy(server, monkeypatch):
    with Proxy(server).running() as proxy:
        for name, value in environment(proxy.url).items():
            monkeypatch.setenv(name, value)
        yield proxy
