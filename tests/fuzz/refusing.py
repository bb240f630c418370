"""What schemathesis holds answers to that go to somebody without a key, or with one that only reads."""

from typing import Any, Final

import schemathesis

# The request that `POST /api/enrol` takes, which asks for no key, and here has no authority to sign with.
schemathesis.serializer.alias(["application/x-pem-file", "application/pkcs10"], "text/plain")

OPEN: Final = ("/healthz", "/livez", "/readyz")
# What is refused before anybody looks at who asks: it is no request to a route, or not HTTP.
BEFORE: Final = frozenset({400, 404, 405, 408, 413, 415, 421, 431})


@schemathesis.check
def opens_nothing(
    _context: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """Nobody is let in."""
    if case.operation.path not in OPEN:
        assert response.status_code in BEFORE - {413, 415} | {401, 429}, response.status_code


@schemathesis.check
def only_reads(
    _context: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """What is not a GET is forbidden, and says which role it takes."""
    assert response.status_code < 500 or response.status_code == 503, response.status_code
    if case.method.upper() != "GET":
        assert response.status_code in BEFORE - {413, 415} | {403}, response.status_code
