"""`python -m cli` is the `pisync` command."""

from cli.main import main

main()
