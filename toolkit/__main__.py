"""Entry point of the command line. Its imports take a moment, in which Ctrl-C may come."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line, as ``toolkit`` or ``python -m toolkit``."""
    try:
        from toolkit.cli.app import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
