"""`landlock_launcher.py POLICY COMMAND ...`: run a command in sandlock, with this process's standard input and output.

A process of its own, so that whoever waits for it can end it. It ends with its sandbox.
"""

from __future__ import annotations

import json
import os
import sys
import warnings

NOBODY = 65534
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")


def main() -> int:
    import sandlock
    from sandlock.sandbox import BranchAction, StdioMode

    warnings.simplefilter("ignore")  # of `gid`, which it passes on all the same
    policy, command = json.loads(sys.argv[1]), sys.argv[2:]
    somebody_else = {"uid": NOBODY, "gid": NOBODY} if os.getuid() == 0 else {}
    sandbox = sandlock.Sandbox(
        fs_readable=[*policy["readable"], *DEVICES],
        fs_writable=[policy["scratch"], "/dev/null"],
        workdir=policy["scratch"],
        cwd=policy["scratch"],
        max_disk=policy["scratch_bytes"],
        on_exit=BranchAction.ABORT,
        max_processes=policy["processes"],
        clean_env=True,
        env={"HOME": policy["scratch"], "PATH": "/usr/local/bin:/usr/bin:/bin"},
        no_coredump=True,
        **somebody_else,
    )
    inherit = StdioMode.INHERIT
    with sandbox:
        result = sandbox.popen(command, stdin=inherit, stdout=inherit, stderr=inherit).wait()
    return 0 if result.success else 1


if __name__ == "__main__":
    sys.exit(main())
