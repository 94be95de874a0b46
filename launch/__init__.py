"""The commands. `run(main)` turns bad input into one line and exit code 2."""

import os
import shlex
import sys

from absl import app, flags, logging

from jaxmed.errors import InputError

# Compiled programs are kept between runs; JAX_COMPILATION_CACHE_DIR moves them.
CACHE = os.path.join(os.path.expanduser('~'), '.cache', 'jaxmed', 'xla')


def run(main):
    """Runs an absl main: exit code 0, or what it returns, or 2 on bad input."""
    sys.exit(_guard(lambda: app.run(main, flags_parser=_parse)))


def command():
    """The command line of this process, to be run again."""
    module = os.path.splitext(os.path.basename(sys.argv[0]))[0]
    return shlex.join(['python', '-m', f'launch.{module}', *sys.argv[1:]])


def print_results(results):
    """The table of a report, for a terminal."""
    for result in results:
        print(f'{result.source} ({result.data})')
        for name, value in result.values.items():
            line = f'  {name:16}{value["value"]:8.4f}'
            if 'low' in value:
                line += (
                    f'   95% interval {value["low"]:.4f} - {value["high"]:.4f}, '
                    f'N = {value["n_cases"]} cases of {value["n_patients"]} patients'
                )
            print(line)


def _parse(argv):
    # Unknown config fields and variants surface here, as errors of many kinds.
    try:
        rest = flags.FLAGS(argv)
    except flags.Error as error:
        raise InputError('flags', error) from None
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise InputError('--config', error) from None
    if len(rest) > 1:
        raise InputError('flags', f'unexpected arguments: {" ".join(rest[1:])}')
    _configure()
    return rest


def _configure():
    import jax

    if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
        jax.config.update('jax_compilation_cache_dir', CACHE)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
    logging.set_verbosity(logging.INFO)
    logging.use_absl_handler()


def _guard(function):
    try:
        function()
    except InputError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0
