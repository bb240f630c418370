"""What of a unit's sandbox a process can put on itself without systemd, then becoming the unit's program.

python sandbox.py 'SystemCallFilter, one below the other' 'address families' PROGRAM ARGUMENTS...

That is SystemCallFilter, RestrictAddressFamilies, MemoryDenyWriteExecute and NoNewPrivileges: the same rules
by mechanisms of Linux (seccomp(2), PR_SET_MDWE). What systemd does with namespaces, users and mounts is not.
"""

import ctypes
import errno
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

NUMBERS: Final = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
_SET_NO_NEW_PRIVS: Final = 38
_SET_MDWE: Final = 65
_GET_MDWE: Final = 66
_SET_SECCOMP: Final = 22
_MODE_FILTER: Final = 2
# bpf(2) of seccomp_data: the call's number is at 0, its first argument at 16.
_LOAD: Final = 0x20
_JUMP_IF_EQUAL: Final = 0x15
_RETURN: Final = 0x06
_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000
_CALL: Final = 0
_FIRST_ARGUMENT: Final = 16

Instruction = tuple[int, int, int, int]


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def is_possible() -> bool:
    """Whether there are systemd's groups, the numbers of calls (Debian: linux-libc-dev), and Linux 6.3."""
    there = shutil.which("systemd-analyze") is not None and NUMBERS.exists()
    return there and ctypes.CDLL(None).prctl(_GET_MDWE, 0, 0, 0, 0) >= 0


def calls(group: str) -> set[str]:
    """The system calls of a group such as `@system-service`, as this machine's systemd knows it."""
    asked = ["systemd-analyze", "syscall-filter", group]
    told = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    found: set[str] = set()
    for line in map(str.strip, told.splitlines()[1:]):
        if line and not line.startswith("#"):
            found |= calls(line) if line.startswith("@") else {line}
    return found


def allowed(lines: Iterable[str]) -> set[str]:
    """What is left of the lines of SystemCallFilter, a list of groups each, with `~` what is taken away."""
    # systemd adds what every process needs.
    found = calls("@default")
    for line in lines:
        for group in line.removeprefix("~").split():
            found = found - calls(group) if line.startswith("~") else found | calls(group)
    return found


def program(names: set[str], families: Iterable[int]) -> bytes:
    """The filter as Linux takes it."""
    numbers = {name: int(number) for name, number in re.findall(r"__NR_(\w+)\s+(\d+)", NUMBERS.read_text())}
    made: list[Instruction] = [(_LOAD, 0, 0, _CALL)]
    of_family = [
        instruction
        for family in families
        for instruction in ((_JUMP_IF_EQUAL, 0, 1, family), (_RETURN, 0, 0, _ALLOW))
    ]
    for name in sorted(names & numbers.keys()):
        then: list[Instruction] = [(_RETURN, 0, 0, _ALLOW)]
        if name == "socket":
            then = [(_LOAD, 0, 0, _FIRST_ARGUMENT), *of_family, (_RETURN, 0, 0, _ERRNO | errno.EAFNOSUPPORT)]
        made += [(_JUMP_IF_EQUAL, 0, len(then), numbers[name]), *then]
    made.append((_RETURN, 0, 0, _ERRNO | errno.EPERM))
    return b"".join(struct.pack("HBBI", *each) for each in made)


def enter(instructions: bytes) -> None:
    """Confine this process and all that it becomes.

    Raises:
        OSError: this Linux cannot do it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(instructions)
    described = _Filter(len(instructions) // struct.calcsize("HBBI"), ctypes.addressof(buffer))
    for arguments in (
        (_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_SET_MDWE, 1, 0, 0, 0),
        (_SET_SECCOMP, _MODE_FILTER, ctypes.byref(described), 0, 0),
    ):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    groups, words, *command = sys.argv[1:]
    enter(program(allowed(groups.splitlines()), [getattr(socket, word) for word in words.split()]))
    os.execv(command[0], command)  # noqa: S606 - it is to have this process's confinement, and no shell
