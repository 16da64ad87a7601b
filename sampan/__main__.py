"""`python -m sampan` is `sampan`."""

from sampan.cli.entry import main

if __name__ == "__main__":
    main()
