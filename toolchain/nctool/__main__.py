"""`python -m nctool` is the command `nctool`."""

from nctool.cli import main

if __name__ == "__main__":
    main()
