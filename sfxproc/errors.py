"""Errors a user can mend. Their text names the file, the place and what to do next.

Everything else that is raised is a bug and keeps its traceback.
"""


class UserError(Exception):
    """A mistake in the input, the configuration or the command, told in one paragraph."""

    exit_status = 2


class ConfigError(UserError):
    """An unknown key or a bad value in a job file or on the command line."""


class InputError(UserError):
    """A file that is missing, damaged, or does not hold what the job needs."""


class OutputError(UserError):
    """An output folder or file that cannot be written."""


class LaunchError(UserError):
    """The program was started in a way that cannot work (launcher, ranks, threads)."""


class DataError(UserError):
    """The data were read but the job cannot be done with them."""


class Stopped(UserError):
    """A signal asked the job to end, and its state was kept: no mistake, but told like one."""

    exit_status = 75  # EX_TEMPFAIL: to be started again
