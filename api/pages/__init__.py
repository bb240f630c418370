"""The web page: what operators open. `docs/architecture.md` says how a page is made."""
