"""`python -m ardist`: the command, or one line that says which packages it needs."""

import signal
import sys


def main() -> int:
    """Runs the command and returns its exit status."""
    try:
        from ardist.command import run
    except ImportError as error:
        print(f"ardist: error: {error}; pip install 'ardist[tables]'", file=sys.stderr)
        return 2
    if hasattr(signal, "SIGPIPE"):  # a reader that ends before, such as head, ends the command
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    return run()


if __name__ == "__main__":
    sys.exit(main())
