"""What became of the files of a production set-up."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(kw_only=True)
class Made:
    """Paths: made, renewed, there as they should be, and there with another content (`other`)."""

    new: list[Path] = field(default_factory=list)
    renewed: list[Path] = field(default_factory=list)
    there: list[Path] = field(default_factory=list)
    other: list[Path] = field(default_factory=list)
    # Shown once, when it is made.
    api_key: str | None = None
