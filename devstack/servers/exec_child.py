"""Become another program that dies with its parent: `python -I -S exec_child.py PARENT SIGNAL UID GID PROGRAM ARGS…`.

This is an exec wrapper, because the settings must be made between fork and exec, where Python code (`preexec_fn`) may
deadlock in a parent with threads. It starts as the parent's user and changes to UID itself, since that user may lack
access to this interpreter. The death signal is set last, since the kernel clears it when the user changes.
"""

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: int, signal_number: int, uid: int, gid: int, command: list[str]) -> None:
    if os.geteuid() != uid:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0) != 0:
        sys.exit(f"prctl failed: {os.strerror(ctypes.get_errno())}")
    # The parent may have died before the death signal was set; in that case it would never be sent.
    if os.getppid() != parent:
        sys.exit("the parent is gone")
    os.execv(command[0], command)  # noqa: S606 - a fixed program given by its path


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:5]]
    main(numbers[0], numbers[1], numbers[2], numbers[3], sys.argv[5:])
