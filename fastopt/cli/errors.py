"""What ends the command with one line on stderr."""


class InputError(Exception):
    """Something the user gave cannot be used: exit status 2."""


class DivergedError(Exception):
    """The loss left all bounds: exit status 1."""


class InterruptedRunError(Exception):
    """A signal ended the training, which was saved: exit status 128 and the signal's number."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal
