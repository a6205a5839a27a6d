"""What goes wrong through the user's input, as opposed to through our code."""


class InputError(ValueError):
    """The user's data, file or option cannot be used; the message is one sentence that says what to do.

    The command line prints it and exits with code 2. In Python it is a ValueError like any other.
    """


class InputWarning(UserWarning):
    """The user's data was usable after a change that the user should know of, or looks like a mistake."""
