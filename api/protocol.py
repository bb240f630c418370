"""HTTP/1.1 on one connection, as uvicorn speaks it, but without words for what the api does not have."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Protocol(HttpToolsProtocol):
    """Uvicorn's protocol over httptools; `api/service.py` names it to uvicorn."""

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing of an upgrade, which a client may offer and a server may ignore (RFC 9110, 7.8)."""
