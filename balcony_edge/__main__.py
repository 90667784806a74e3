"""``python -m balcony_edge``: the command line, for launchers that start modules (accelerate launch -m)."""

from balcony_edge.cli.app import main

if __name__ == "__main__":
    main()
