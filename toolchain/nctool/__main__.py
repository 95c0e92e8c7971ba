"""`python -m nctool` is the command `nctool`."""

from nctool.commands.application import main

if __name__ == "__main__":
    main()
