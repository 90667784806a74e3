"""The command line as a module: the console script starts here, and so do launchers (accelerate launch -m).

Ctrl-C while Python still imports, or is about to end, ends the process at once, as it ends programs that do not handle
it.
"""

import signal


def main() -> None:
    """Run the command line."""
    handled = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if handled:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from balcony_edge.cli.app import main as run

    if handled:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run()
    finally:
        if handled:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    main()
