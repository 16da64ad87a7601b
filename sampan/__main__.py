"""`python -m sampan` is `sampan`."""

from sampan.cli.app import main

if __name__ == "__main__":
    main()
