"""What bad input raises: one line that names the file and the reason.

Launchers print the message and exit with code 2; a traceback always means a defect
of this project. Messages carry file names and reasons, never a patient's name or id.
"""


class InputError(ValueError):
    """Something the user gave can't be used as it is.

    Args:
        where: the file, folder, field or flag at fault.
        reason: what is wrong with it, with the value and the limit.
    """

    def __init__(self, where, reason):
        # A reason quoted from another library may span lines, and so may a file's
        # name; a user gets one. Names need not be UTF-8.
        self.where = ' '.join(str(where).split())
        self.where = self.where.encode(errors='backslashreplace').decode()
        self.reason = ' '.join(str(reason).split())
        super().__init__(f'{self.where}: {self.reason}')

    def __reduce__(self):  # worker processes hand errors over by their arguments
        return type(self), (self.where, self.reason)


class ImageError(InputError):
    """A picture, scan or video that can't be read or breaks a limit."""


class RecordError(InputError):
    """Prepared records that are missing, damaged or of another task."""


class CheckpointError(InputError):
    """A run folder whose checkpoint is missing, damaged or of another model."""


class ConfigError(InputError):
    """A config field or flag that does not exist, is out of range or has changed."""
