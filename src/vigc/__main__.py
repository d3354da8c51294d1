"""`python -m vigc` is the `vigc` command."""

from vigc.cli.root import main

if __name__ == "__main__":
    main()
