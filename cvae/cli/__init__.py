"""The command line: sub-commands, exit codes and signals."""
