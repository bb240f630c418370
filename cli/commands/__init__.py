"""The commands, a module for each group: options and help, nothing heavy is imported before one runs."""
