"""The command line: ``python -m servecast``, and the script ``servecast``."""

import sys

from servecast._native import main as run_command_line


def main() -> None:
    """Run the command line with the arguments of the process, and exit with its code."""
    sys.exit(run_command_line(["servecast", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
