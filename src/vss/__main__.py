"""`python -m vss`: the same as the command `vss`."""

from vss.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
