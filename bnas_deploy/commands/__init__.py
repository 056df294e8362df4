"""One module per command, with the name `command` in it: parse, call, print."""
