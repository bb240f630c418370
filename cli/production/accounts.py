"""What runs before the Mosquitto of deploy/kubernetes: gives its file of accounts the Secret's passwords.

`python -m cli.production.accounts GIVEN STATE`: the first start takes all of what was given; later ones the
passwords of programs alone, because the rest is the broker's own by then: devices, gateways, what they may.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from cli.production.broker import with_passwords_of
from pisync.errors import PiSyncError
from pisync.pki import files


def put(given: Path, state: Path) -> None:
    """Make the broker's file, or give programs their passwords in it; while the broker does not run.

    Raises:
        ConfigurationError: one of the files has no accounts, or cannot be written.
        OSError: one cannot be read.
    """
    content = given.read_bytes()
    if state.exists():
        content = with_passwords_of(state.read_bytes(), content)
    files.write(state, content, mode=files.SECRET_MODE)


def main(arguments: Sequence[str]) -> int:
    """Do that; returns the exit code, and says what was wrong."""
    if len(arguments) != 2:
        sys.stderr.write("accounts: name the file that was given, and the broker's own\n")
        return 2
    try:
        put(*map(Path, arguments))
    except (PiSyncError, OSError) as error:
        sys.stderr.write(f"accounts: {error}\n")
        return error.exit_code if isinstance(error, PiSyncError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
