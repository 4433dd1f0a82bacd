"""What ends the command with one line on stderr."""


class InputError(Exception):
    """Something the user gave cannot be used: exit status 2."""


class DivergedError(Exception):
    """The loss left all bounds: exit status 1."""
