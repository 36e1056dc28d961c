"""`python -m gan.main` in this process: no launch, and no second import of JAX."""

import contextlib
import io
import logging
import sys
import warnings
from unittest import mock

from absl import flags
from absl import logging as absl_logging

from gan import main
from gan.cli import flags as cli_flags


def end_of(*arguments):
    """The exit status of the command with these flags, and what it prints on stdout and on stderr."""
    argv, out, error = ["gan.main", *map(str, arguments)], io.StringIO(), io.StringIO()
    with as_before(argv), contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            main.main(main.parse(argv))
        except SystemExit as end:
            return end.code, out.getvalue(), error.getvalue()
    raise AssertionError("the command has not ended")


@contextlib.contextmanager
def as_before(argv):
    """Sets back what a command leaves in its process: flags, logging, warnings, and the module of a config file."""
    logger, verbosity = logging.getLogger("gan"), absl_logging.get_verbosity()
    logged = logger.handlers, logger.level, logger.propagate
    sys.modules.pop("config_config", None)  # in which ml_collections would execute the next config file
    try:
        with mock.patch.multiple(sys, argv=argv, unraisablehook=sys.unraisablehook), warnings.catch_warnings():
            yield
    finally:
        logger.handlers, logger.propagate = logged[0], logged[2]
        logger.setLevel(logged[1])
        absl_logging.set_verbosity(verbosity)
        for name in [name for name in flags.FLAGS if name.startswith("config.")]:
            delattr(flags.FLAGS, name)
        for name in ("config", *cli_flags.MODES_OF, "workdir", "mode"):
            flags.FLAGS[name].unparse()
            flags.FLAGS[name].present = 0
        flags.FLAGS.mark_as_parsed()
