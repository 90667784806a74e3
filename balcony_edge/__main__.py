"""``python -m balcony_edge`` is the command line too: some launchers (accelerate launch -m) start modules."""

from balcony_edge.cli.app import main

if __name__ == "__main__":
    main()
