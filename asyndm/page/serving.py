"""Serving a Gradio page from this computer alone: no share link, nothing loaded from elsewhere."""

from __future__ import annotations

import socket
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI

from asyndm.core.settings import SettingsError

# The page loads nothing from elsewhere; Gradio's own page would ask a CDN and a font server.
_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; connect-src 'self' ws: wss: data: blob:"
)


class _Guard:
    """ASGI wrapper: nothing is loaded from elsewhere, and the page is always the light one."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["path"] == "/" and b"__theme" not in scope["query_string"]:
            headers = [(b"location", b"/?__theme=light"), (b"content-length", b"0")]
            await send({"type": "http.response.start", "status": 307, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return

        async def guarded(message: dict) -> None:
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", _POLICY.encode())
                message = {**message, "headers": [*message["headers"], policy]}
            await send(message)

        await self.app(scope, receive, guarded)


def serve(page: gr.Blocks, host: str = "127.0.0.1", port: int = 7860) -> None:
    """Serve the page until Ctrl+C.

    Args:
        port: 0 picks a free one; the address is printed.

    Raises:
        SettingsError: the address cannot be used.
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except (OSError, OverflowError) as error:
            raise SettingsError(
                f"port: {host}:{port} cannot be used ({error}); choose another with --port."
            ) from None
        app = _Guard(gr.mount_gradio_app(FastAPI(), page, path="/"))
        # An open page holds a connection, which must not keep the program alive.
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
        server = uvicorn.Server(config)
        address = f"http://{host}:{listener.getsockname()[1]}"
        print(f"AsynDM studio: {address} (Ctrl+C ends it)", flush=True)
        server.run(sockets=[listener])
