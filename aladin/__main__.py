"""`python -m aladin`: the same as the command `aladin`."""

from aladin.cli import main

if __name__ == "__main__":
    main()
