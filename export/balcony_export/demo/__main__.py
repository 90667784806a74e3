"""``python -m balcony_export.demo``."""

from balcony_export.demo.recipe import main

if __name__ == "__main__":
    main()
