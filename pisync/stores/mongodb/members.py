"""What of a stored document a type knows: a newer program may have written more, which is left alone."""

from typing import Any

from pisync.stores.mongodb.connection import Document


def known(kind: type[Any], document: Document) -> Document:
    """The members that a dataclass or a struct has."""
    return {name: document[name] for name in kind.__annotations__ if name in document}
