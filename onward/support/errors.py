"""The one exception for what the user can put right."""


class UserError(Exception):
    """A setting, a file or a folder is not as it should be.

    Its text is one sentence that names the offending value and says what would be right; the command line prints it and
    ends with exit code 2.
    """
