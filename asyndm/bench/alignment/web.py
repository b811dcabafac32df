"""Other machines, by HTTP."""

from __future__ import annotations

import httpx


def client(url: str, seconds: float) -> httpx.Client:
    """For one server; one on this machine is never asked through a proxy.

    Args:
        seconds: an answer may take.

    Raises:
        httpx.InvalidURL: it is no address.
    """
    host = httpx.URL(url).host
    near = host in ("localhost", "::1") or host.startswith("127.")
    return httpx.Client(trust_env=not near, timeout=httpx.Timeout(seconds, connect=10.0))
