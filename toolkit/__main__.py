"""Where the command begins; what it imports takes a moment, in which Ctrl-C may come."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line; the entry point, also of ``python -m toolkit``."""
    try:
        from toolkit.cli.app import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
