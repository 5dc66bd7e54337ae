"""`python -m edgetok.cli`, where the console script is not on the path."""

from edgetok.cli.app import main

if __name__ == "__main__":
    main()
