"""Who calls the api, and what of it is open to him; `guard` is what routes use."""

from api.auth.guard import authenticate, require, who

__all__ = ["authenticate", "require", "who"]
