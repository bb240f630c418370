"""Secrets from files: `PISYNC_MQTT_URL_FILE` names the file whose content `PISYNC_MQTT_URL` would have been.

The environment of a process is told to its children and to whoever inspects a container; a file is read by
those who may. No message quotes what is in the file, nor its path: somebody may have put the secret where
the path belongs.
"""

import os
import stat
from pathlib import Path
from typing import Final

from pisync import limits

SUFFIX: Final = "_FILE"


def read(path: str) -> str:
    """The secret in a file, without the line end behind it.

    Raises:
        ValueError: there is none that can be read; the text says why, and quotes neither path nor content.
    """
    try:
        with Path(path).open("rb") as file:
            if stat.S_ISDIR(os.fstat(file.fileno()).st_mode):
                raise IsADirectoryError
            content = file.read(limits.SECRET_FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or "it is no file"
        raise ValueError(f"the file cannot be read: {why}") from None
    if len(content) > limits.SECRET_FILE_BYTES_MAX:
        raise ValueError(f"the file is larger than {limits.SECRET_FILE_BYTES_MAX} bytes: it is no secret")
    try:
        secret = content.decode()
    except UnicodeDecodeError:
        raise ValueError("the file is not UTF-8 text") from None
    secret = secret.removesuffix("\n").removesuffix("\r")
    if not secret:
        raise ValueError("the file is empty")
    return secret
