"""Entry point of the command line. Its imports take a moment, in which Ctrl-C may come."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line, as ``toolkit`` or ``python -m toolkit``."""
    try:
        from toolkit.cli.app import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        if sys.stdout and sys.stderr:  # None where the program was started without
            os.dup2(2, 1)  # stdout has the result alone, also if a library prints when the process ends


if __name__ == "__main__":
    main()
