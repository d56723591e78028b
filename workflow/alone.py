"""Run a command once nobody else runs under the same lock: python workflow/alone.py LOCK COMMAND ...

The lock is held by the command itself, which may outlive a workflow that was killed; the next one then waits for it.
"""

import fcntl
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    lock, *command = sys.argv[1:]
    Path(lock).parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(lock, os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX)
    os.set_inheritable(handle, True)
    os.execvp(command[0], command)
