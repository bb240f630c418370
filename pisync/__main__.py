"""`python -m pisync` is the `pisync` command."""

from pisync.cli import main

main()
