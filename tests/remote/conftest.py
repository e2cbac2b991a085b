"""A store for the tests of a module, and a proxy before it for each."""

from __future__ import annotations

import pytest

from tests.remote.servers import Proxy, environment, store_server


@pytest.fixture(scope="module")
def server():
    with store_server() as port:
        yield port


@pytest.fixture
def proxy(server, monkeypatch):
    with Proxy(server).running() as proxy:
        for name, value in environment(proxy.url).items():
            monkeypatch.setenv(name, value)
        yield proxy
